"""What a policy acts on: the same instruction with other images, another state, or neither.

Each condition changes what a policy is given of a case, and the displacement that it predicts is
compared with the direction and the demonstration of that case (LA4VLA, arXiv 2606.27295, sections
3.1 and 5.7). A policy that follows language keeps its direction whatever it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vla.core.text import one_line
from vla.envs.rollout import ActingPolicy
from vla.evaluation.direction_cases import DirectionCase
from vla.evaluation.language_following import FollowingFigures, displacement, language_following
from vla.language_action.direction_words import AXES, opposite_instruction
from vla.policies.base import Images
from vla.policies.config import CheckpointError

# Seeds of a case, over which predictions are averaged; the same in all conditions.
SEEDS_PER_CASE = 4


@dataclass(frozen=True)
class Condition:
    """What a policy is given of a case, and what of another one."""

    name: str
    images: Literal["own", "none", "other", "opposite"] = "own"
    state: Literal["own", "opposite"] = "own"
    instruction: Literal["own", "blank", "flipped"] = "own"

    @property
    def is_unusual(self) -> bool:
        """Whether a policy may be unable to read it."""
        return self.images == "none" or self.instruction == "blank"


CONDITIONS = (
    Condition("paired"),
    Condition("removed", images="none"),
    Condition("unaligned", images="other"),
    Condition("conflicting_vision", images="opposite"),
    Condition("conflicting_state", state="opposite"),
    Condition("conflicting_both", images="opposite", state="opposite"),
    # The paper's conditions of a policy that is pretrained without images.
    Condition("removed_conflicting_state", images="none", state="opposite"),
    # Controls that change the instruction alone.
    Condition("blank_instruction", instruction="blank"),
    Condition("flipped_instruction", instruction="flipped"),
)


@dataclass(frozen=True)
class PolicyInput:
    """What a policy is given."""

    images: Images  # {} where vision is removed
    state: np.ndarray  # [S], not normalised
    instruction: str

    def is_like(self, other: PolicyInput) -> bool:
        """Whether a policy could not tell both apart."""
        return (
            self.instruction == other.instruction
            and np.array_equal(self.state, other.state)
            and self.images.keys() == other.images.keys()
            and all(np.array_equal(self.images[name], other.images[name]) for name in self.images)
        )


@dataclass(frozen=True)
class ConditionResult:
    """What a policy predicted in one condition."""

    condition: Condition
    # Positions [N, steps + 1, 3] of the tool in metres from where each case begins, base frame:
    # means over the seeds. None where the policy refused.
    paths: np.ndarray | None
    figures: FollowingFigures | None  # None where the policy refused
    unchanged: int  # cases in which the policy is given the same as in "paired"
    refused: str = ""  # why there is no result; "" where there is one


def opposite_of(number: int) -> int:
    """The case of the opposite direction: cases come in pairs."""
    return number ^ 1


def other_cases(cases: Sequence[DirectionCase], seed: int) -> list[int]:
    """For each case, one that is not its own and not its opposite, as far as there is such.

    One along another axis is preferred, and among these one of the same scene.
    """
    generator = np.random.default_rng([seed, 1])
    axis_of = {direction: axis for axis, pair in AXES.items() for direction in pair}
    chosen = []
    for number, case in enumerate(cases):
        free = [i for i in range(len(cases)) if i not in (number, opposite_of(number))]
        across = [i for i in free if axis_of[cases[i].direction] != axis_of[case.direction]]
        beside = [i for i in across if case.scene and cases[i].scene == case.scene]
        among = beside or across or free or [opposite_of(number)]
        chosen.append(int(generator.choice(among)))
    return chosen


def input_of(
    cases: Sequence[DirectionCase], number: int, others: Sequence[int], condition: Condition
) -> PolicyInput:
    """What a policy is given of a case in a condition. others: see other_cases()."""
    case, opposite = cases[number], cases[opposite_of(number)]
    images = {
        "own": case.images,
        "none": {},
        "other": cases[others[number]].images,
        "opposite": opposite.images,
    }[condition.images]
    instruction = {
        "own": case.instruction,
        "blank": "",
        "flipped": opposite_instruction(case.instruction),
    }[condition.instruction]
    state = case.state if condition.state == "own" else opposite.state
    return PolicyInput(images, state, instruction)


def run_conditions(
    policy: ActingPolicy,
    cases: Sequence[DirectionCase],
    steps: int,
    seed: int = 0,
    on_case: Callable[[], None] | None = None,
) -> list[ConditionResult]:
    """The predictions of a policy in all CONDITIONS, with the figures of section 9.

    steps: of each chunk that are added up. on_case() is called after each case of each condition.
    All figures are against the direction and the demonstration of the case itself, also where
    the instruction is blank or flipped. A policy that can't do without images, or without an
    instruction, has a reason in their place. Raises CheckpointError where it can't act at all.
    """
    others = other_cases(cases, seed)
    return [_run(policy, cases, others, one, steps, seed, on_case) for one in CONDITIONS]


def _run(
    policy: ActingPolicy,
    cases: Sequence[DirectionCase],
    others: Sequence[int],
    condition: Condition,
    steps: int,
    seed: int,
    on_case: Callable[[], None] | None,
) -> ConditionResult:
    paths, unchanged = [], 0
    for number in range(len(cases)):
        given = input_of(cases, number, others, condition)
        unchanged += given.is_like(input_of(cases, number, others, CONDITIONS[0]))
        try:
            paths.append(predicted_path(policy, given, steps, seed + SEEDS_PER_CASE * number))
        except Exception as error:  # a policy of somebody else's may raise anything
            if condition.is_unusual:
                reason = str(error) if isinstance(error, ValueError) else repr(error)
                return ConditionResult(condition, None, None, 0, one_line(reason))
            if not isinstance(error, ValueError):
                raise
            raise CheckpointError(
                f"the policy can't act on case {number} ({condition.name}): {one_line(error)}"
            ) from error
        if on_case is not None:
            on_case()
    walked = np.array(paths)
    figures = language_following(
        [case.direction for case in cases],
        walked[:, -1],
        np.array([case.demonstrated for case in cases]),
        seed,
    )
    return ConditionResult(condition, walked, figures, unchanged)


def predicted_path(
    policy: ActingPolicy, given: PolicyInput, steps: int, first_seed: int
) -> np.ndarray:
    """Where a policy moves the tool [steps + 1, 3] in metres: the mean over SEEDS_PER_CASE seeds.

    From the first chunk of an episode. Raises ValueError for what is no chunk.
    """
    paths = []
    for seed in range(first_seed, first_seed + SEEDS_PER_CASE):
        policy.reset(given.instruction, seed)
        chunk = policy.chunk(given.images, given.state, 0.0)[:steps]
        displacement(chunk)  # raises ValueError for other shapes, NaN and infinity
        paths.append(np.cumsum(chunk[:, :3], axis=0, dtype=np.float64))
    return np.concatenate([np.zeros((1, 3)), np.mean(paths, axis=0)])
