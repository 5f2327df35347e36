"""The questions and answers of a training frame (InstructVLA, section 3.3 and its code)."""

from __future__ import annotations

import numpy as np

from vla.datasets.sample import RobotSample
from vla.policies.collation import PromptSampling
from vla.policies.instructvla.config import PromptConfig
from vla.policies.sequence import PromptRow


def action_prompt(instruction: str, prompts: PromptConfig, suffix: str = "") -> str:
    """The question for an instruction; a suffix asks for more than the action."""
    instruction = instruction.strip().rstrip(".").strip().lower()
    return prompts.act.format(instruction=instruction) + suffix


def sample_row(
    sample: RobotSample,
    prompts: PromptConfig,
    sampling: PromptSampling,
    images: int,
    generator: np.random.Generator,
) -> PromptRow:
    """The conversation of a frame; its last answer ends with the action queries.

    Shares without an annotation for the frame go to the plain prompt. images: of the frame; one
    without is asked nothing about the scene.
    """
    act = action_prompt(sample.instruction, prompts)
    annotation, draw = sample.annotation, generator.random()
    if annotation is not None:
        edges = np.cumsum([sampling.question, sampling.context, sampling.rewrite])
        if draw < edges[0] and images:
            pairs = list(annotation.question_answers)
            if annotation.caption:
                pairs.append((str(generator.choice(prompts.captions)), annotation.caption))
            if pairs:
                pair = pairs[int(generator.integers(len(pairs)))]
                return PromptRow((pair, (act, "")), acts=True, images=images)
        elif edges[0] <= draw < edges[2]:
            asked = annotation.contexts if draw < edges[1] else annotation.command_rewrites
            if asked:
                question, answer = asked[int(generator.integers(len(asked)))]
                think = action_prompt(question, prompts, prompts.think_suffix)
                return PromptRow(((think, answer),), acts=True, images=images)
    if sample.answer is not None and generator.random() < sampling.think:
        think = action_prompt(sample.instruction, prompts, prompts.think_suffix)
        return PromptRow(((think, sample.answer),), acts=True, images=images)
    if sample.motion is not None and generator.random() < sampling.motion:
        motion = action_prompt(sample.instruction, prompts, prompts.motion_suffix)
        return PromptRow(((motion, sample.motion),), acts=True, images=images)
    return PromptRow(((act, ""),), acts=True, images=images)
