"""The questions and answers of a training frame (InstructVLA, section 3.3 and its code)."""

from __future__ import annotations

import numpy as np

from vla.datasets.sample import RobotSample
from vla.policies.collation import PromptSampling
from vla.policies.instructvla.config import PromptConfig
from vla.policies.sequence import PromptRow


def action_prompt(instruction: str, prompts: PromptConfig, suffix: str = "") -> str:
    """The question for an instruction; a suffix asks for more than the action."""
    return prompts.act.format(instruction=_words(instruction, prompts.act_words)) + suffix


def thinking_prompt(instruction: str, prompts: PromptConfig) -> str:
    """The question for an instruction, or for what a user asks, that is to be answered first."""
    words = _words(instruction, prompts.think_words)
    return prompts.act.format(instruction=words) + prompts.think_suffix


def _words(instruction: str, kept: str) -> str:
    instruction = instruction.strip()
    if kept == "given":
        return instruction
    return (instruction.rstrip(".").strip() if kept == "plain" else instruction).lower()


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
    # At the other end than the shares of annotations, which so stay what they are without it.
    if sample.impossible is not None and draw >= 1 - sampling.impossible:
        question, answer = sample.impossible
        refused = thinking_prompt(question, prompts), answer
        return PromptRow((refused, (act, "")), acts=True, images=images)
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
                if sampling.unanswered and generator.random() < sampling.unanswered:
                    told = action_prompt(question, prompts)
                    return PromptRow(((told, ""),), acts=True, images=images)
                think = thinking_prompt(question, prompts)
                return PromptRow(((think, answer),), acts=True, images=images)
    if sample.answer is not None and generator.random() < sampling.think:
        think = thinking_prompt(sample.instruction, prompts)
        return PromptRow(((think, sample.answer),), acts=True, images=images)
    if sample.motion is not None and generator.random() < sampling.motion:
        motion = action_prompt(sample.instruction, prompts, prompts.motion_suffix)
        return PromptRow(((motion, sample.motion),), acts=True, images=images)
    return PromptRow(((act, ""),), acts=True, images=images)
