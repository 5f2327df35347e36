"""Whether a policy refuses what it can't do, and nothing else: judged by its answers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np

from vla.envs.base import GivenInstruction
from vla.evaluation.benchmark import wilson_interval
from vla.evaluation.question_answering import normalized

TOTALS = {True: "possible", False: "impossible"}


@dataclass(frozen=True)
class AnsweredInstruction:
    """One instruction in a scene, and what the policy said to it."""

    kind: str
    seed: int  # of the scene
    instruction: str
    possible: bool
    truth: str  # the right answer
    answer: str  # the policy's
    refused: bool
    right: bool  # whether it is the right answer word for word


@dataclass(frozen=True)
class RefusalScore:
    """Refused instructions of a kind, and the 95% Wilson interval of their share."""

    kind: str  # or one of TOTALS
    possible: bool
    asked: int
    refused: int
    refused_low: float
    refused_high: float
    right: int  # answers that were right word for word
    right_low: float
    right_high: float


def evaluate_refusals(
    think: Callable[[dict[str, np.ndarray], str], str],
    refuses: Callable[[str], bool],
    instructions: Iterable[GivenInstruction],
    on_answer: Callable[[AnsweredInstruction], None] | None = None,
) -> list[AnsweredInstruction]:
    """Has a policy answer instructions before acting.

    think(images, instruction): its answer, of images uint8 [H, W, 3] by camera name.
    refuses(answer): whether it then does not act.
    """
    answered = []
    for given in instructions:
        said = think(given.images, given.text)
        answered.append(
            AnsweredInstruction(
                given.kind,
                given.seed,
                given.text,
                given.possible,
                given.truth,
                said,
                refuses(said),
                normalized(said) == normalized(given.truth),
            )
        )
        if on_answer is not None:
            on_answer(answered[-1])
    return answered


def score_refusals(answered: list[AnsweredInstruction]) -> list[RefusalScore]:
    """A score per kind, in the order in which they were first asked; each half with its total."""
    scores = []
    for possible, total in TOTALS.items():
        own = [entry for entry in answered if entry.possible == possible]
        kinds = dict.fromkeys(entry.kind for entry in own)
        scores += [_score(kind, [e for e in own if e.kind == kind], possible) for kind in kinds]
        if own:
            scores.append(_score(total, own, possible))
    return scores


def _score(kind: str, answered: list[AnsweredInstruction], possible: bool) -> RefusalScore:
    count = len(answered)
    refused, right = sum(e.refused for e in answered), sum(e.right for e in answered)
    intervals = *wilson_interval(refused, count), *wilson_interval(right, count)
    return RefusalScore(kind, possible, count, refused, *intervals[:2], right, *intervals[2:])


def refusal_table(scores: list[RefusalScore]) -> str:
    """The scores as text, one kind a line."""
    lines = ["instructions  asked  refused  95% interval   answer right  95% interval"]
    for entry in scores:
        lines.append(
            f"{entry.kind:<12} {entry.asked:>6}  {entry.refused / entry.asked:>7.0%}  "
            f"{entry.refused_low:>5.0%} to {entry.refused_high:<5.0%}  "
            f"{entry.right / entry.asked:>12.0%}  "
            f"{entry.right_low:>5.0%} to {entry.right_high:<5.0%}"
        )
    return "\n".join(lines)


def refusal_report(checkpoint_id: str, answered: list[AnsweredInstruction]) -> dict[str, object]:
    """Everything that was asked and answered, ready for JSON."""
    return {
        "checkpoint_id": checkpoint_id,
        "kinds": [asdict(entry) for entry in score_refusals(answered)],
        "instructions": [asdict(entry) for entry in answered],
    }
