"""Whether what enters the action head tells directions apart (LA4VLA, section 5.7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.core.text import one_line
from vla.evaluation.direction_cases import DirectionCase
from vla.evaluation.language_following import DIRECTIONS
from vla.evaluation.tsne import FEWEST_POINTS, tsne
from vla.policies.base import Images
from vla.policies.policy import Policy

STATES = 20  # states of the robot, each with an instruction for every direction


@dataclass(frozen=True)
class Representations:
    """What entered the head of a policy, in a plane: the same states for every direction."""

    points: np.ndarray  # [M, 2] by t-SNE; [0, 2] where there are none
    directions: tuple[str, ...]  # of each point, that of its instruction
    cases: tuple[int, ...]  # of each point, the case whose state it has
    vision: str  # "removed", or "paired" for a policy that can't do without images
    missing: str = ""  # why there are no points; "" where there are some


def represent(policy: Policy, cases: Sequence[DirectionCase], seed: int = 0) -> Representations:
    """What enters the head for the states of STATES cases, with instructions of all directions.

    Each state meets one instruction for each direction that the cases have, drawn from theirs.
    Tokens are averaged: a vector is the mean of what the head reads. Vision is removed where the
    policy can do without.
    """
    generator = np.random.default_rng([seed, 2])
    numbers = [int(i) for i in generator.permutation(len(cases))[:STATES]]
    known = [name for name in DIRECTIONS if any(case.direction == name for case in cases)]
    drawn = [
        (number, str(generator.choice([c.instruction for c in cases if c.direction == direction])),
         direction)
        for number in numbers for direction in known
    ]  # fmt: skip

    def vector(number: int, instruction: str, images: Images) -> np.ndarray | None:
        policy.reset(instruction, seed)
        policy.chunk(images, cases[number].state)
        tokens = policy.head_input()  # [T, D]
        return None if tokens is None else np.asarray(tokens, dtype=np.float64).mean(axis=0)

    vision = "removed"
    try:
        found = [vector(number, words, {}) for number, words, _ in drawn]
    except Exception:  # a policy of somebody else's may raise anything
        vision = "paired"
        found = [vector(number, words, cases[number].images) for number, words, _ in drawn]
    none = np.zeros((0, 2))
    vectors = [entry for entry in found if entry is not None]
    if len(vectors) < len(drawn):
        return Representations(none, (), (), vision, "the policy doesn't show what enters its head")
    if len(vectors) < FEWEST_POINTS:
        return Representations(none, (), (), vision, f"fewer than {FEWEST_POINTS} points")
    try:
        points = tsne(np.array(vectors))
    except ValueError as error:
        return Representations(none, (), (), vision, one_line(error))
    return Representations(
        points,
        tuple(direction for _, _, direction in drawn),
        tuple(number for number, _, _ in drawn),
        vision,
    )
