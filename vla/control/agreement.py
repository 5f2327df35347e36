"""Whether both halves of a policy have the same weights after an adapter was requested. No ROS.

The halves live in two processes, and latent actions of one checkpoint mean nothing to the other
half of another. So the arm may move again only when both halves report the same checkpoint_id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What one half said to a request to change its adapter."""

    success: bool
    message: str  # why it failed
    checkpoint_id: str = ""  # what it has loaded now; "" where unknown, or nothing
    answered: bool = True  # False: it did not answer, so nobody knows what it has
    gone: bool = False  # its process died, and took its weights with it


def failures(answers: Mapping[str, Answer]) -> str:
    """Who failed and why, in one sentence; "" when none did. answers: by the half's name."""
    reasons: dict[str, list[str]] = {}
    for name, answer in answers.items():
        if not answer.success:
            reasons.setdefault(answer.message, []).append(name)
    return "; ".join(f"{' and '.join(names)}: {reason}" for reason, names in reasons.items())


def to_take_back(answers: Mapping[str, Answer]) -> list[str]:
    """The halves that changed, or may still change, after a request that failed elsewhere."""
    return [
        name
        for name, answer in answers.items()
        if answer.success or not (answer.answered or answer.gone)
    ]


def disagreement(answers: Mapping[str, Answer]) -> str:
    """Why the arm must not move with these halves, "" when it may.

    A half that is gone does not count: it cannot act, and reloads its weights when it returns.
    """
    silent = [name for name, a in answers.items() if not (a.answered or a.gone)]
    if silent:
        return f"nobody knows which weights {' and '.join(silent)} has"
    known = {name: a.checkpoint_id for name, a in answers.items() if a.checkpoint_id}
    if len(set(known.values())) > 1:
        return " and ".join(f"{name} has {value}" for name, value in known.items())
    return ""


def common_checkpoint(answers: Mapping[str, Answer]) -> str:
    """The checkpoint_id that the halves report, "" when none does or they differ."""
    known = {answer.checkpoint_id for answer in answers.values() if answer.checkpoint_id}
    return known.pop() if len(known) == 1 else ""
