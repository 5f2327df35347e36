"""How well a policy answers questions about scenes that it was never trained on, kind by kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np

from vla.envs.base import Question
from vla.evaluation.benchmark import wilson_interval


@dataclass(frozen=True)
class AskedQuestion:
    """One question of a scene, and what the policy answered."""

    kind: str
    seed: int  # of the scene
    question: str
    truth: str  # the right answer
    answer: str  # the policy's
    right: bool


@dataclass(frozen=True)
class KindScore:
    """Right answers to one kind of question, and the 95% Wilson interval of their share."""

    kind: str
    asked: int
    right: int
    share_low: float
    share_high: float


def normalized(text: str) -> str:
    """The text without what spelling leaves open: case, spaces, the mark at the end."""
    spaced = re.sub(r"([.,?!])", r" \1 ", text.lower())
    return " ".join(spaced.split()).rstrip(" .?!")


def evaluate_questions(
    answer: Callable[[dict[str, np.ndarray], str], str],
    questions: Iterable[Question],
    on_answer: Callable[[AskedQuestion], None] | None = None,
) -> list[AskedQuestion]:
    """Asks the questions of a benchmark; an answer counts when it is the truth word for word.

    answer(images, question): the policy's, about images uint8 [H, W, 3] by camera name.
    """
    asked = []
    for question in questions:
        said = answer(question.images, question.text)
        right = normalized(said) == normalized(question.truth)
        asked.append(
            AskedQuestion(question.kind, question.seed, question.text, question.truth, said, right)
        )
        if on_answer is not None:
            on_answer(asked[-1])
    return asked


def score(asked: list[AskedQuestion]) -> list[KindScore]:
    """Right answers per kind, in the order in which the kinds were first asked, then of all."""
    groups: dict[str, list[bool]] = {}
    for entry in asked:
        groups.setdefault(entry.kind, []).append(entry.right)
    groups["all"] = [entry.right for entry in asked]
    return [
        KindScore(kind, len(rights), sum(rights), *wilson_interval(sum(rights), len(rights)))
        for kind, rights in groups.items()
    ]


def question_table(scores: list[KindScore]) -> str:
    """The scores as text, one kind a line."""
    lines = ["kind         asked  right  95% interval"]
    for entry in scores:
        share = entry.right / entry.asked if entry.asked else 0.0
        lines.append(
            f"{entry.kind:<11} {entry.asked:>6}  {share:>5.0%}  "
            f"{entry.share_low:>5.0%} to {entry.share_high:<5.0%}"
        )
    return "\n".join(lines)


def question_report(checkpoint_id: str, asked: list[AskedQuestion]) -> dict[str, object]:
    """Everything that was asked and answered, ready for JSON."""
    return {
        "checkpoint_id": checkpoint_id,
        "kinds": [asdict(entry) for entry in score(asked)],
        "questions": [asdict(entry) for entry in asked],
    }
