"""Asks a policy what the annotations of a data set ask, as InstructVLA's authors do.

Of each episode: a description of its first image, its first question, and its first instruction of
another context (VLA-IT's Caption, QA and CC).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vla.contract.embodiment import EmbodimentContract
from vla.core.shown import shown_path
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla.datasets.sample import Annotation
from vla.evaluation.answer_texts import GivenAnswer
from vla.evaluation.errors import AnswerError

CAPTION, QUESTION, INSTRUCTION = "caption", "question", "instruction"

Images = dict[str, np.ndarray]  # uint8 [H, W, 3] by camera name


def asked_annotations(
    folder: str | Path,
    contract: EmbodimentContract,
    ask: Callable[[Images, str], str],
    caption_question: str,
) -> Iterator[GivenAnswer]:
    """The policy's answers about the first frame of each annotated episode of a LeRobot data set.

    ask(images, question): the policy's answer. caption_question: asks for a description. Raises
    AnswerError where no episode is annotated, DatasetError or ContractError for a data set that is
    not the contract's.
    """
    data = LeRobotEpisodes(folder, None, contract)
    ends = data.episode_ends.tolist()
    asked = 0
    for number, begin in enumerate([0, *ends[:-1]]):
        sample = data.sample(begin, np.random.default_rng(0))
        if sample.annotation is None:
            continue
        image = _jpeg(sample.images[contract.reference_camera])
        for kind, question, truth in _questions(sample.annotation, caption_question):
            asked += 1
            yield GivenAnswer(
                str(number), ask(sample.images, question), truth, kind, question, image
            )
    if not asked:
        raise AnswerError(
            f"{shown_path(folder)} has no annotations in words; make them with 'vla data annotate'"
        )


def _questions(annotation: Annotation, caption: str) -> Iterator[tuple[str, str, str]]:
    """Kind, question and reference."""
    if annotation.caption:
        yield CAPTION, caption, annotation.caption
    for kind, pairs in (
        (QUESTION, annotation.question_answers),
        (INSTRUCTION, annotation.contexts),
    ):
        if pairs:
            yield (kind, *pairs[0])


def _jpeg(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()
