"""What a benchmark is to everything else: environments, and a suite that lists their episodes.

An environment is a `gymnasium.Env` that speaks an embodiment contract. An observation is
`{"images": {camera: uint8 [H, W, 3]}, "state": float64 [S]}`, an action is a chunk [H, A], not
normalised; one `step` executes the first few steps of a chunk. `info` holds, after `reset` and
after each `step`:

    "instruction"  what to do, in words
    "seconds"      simulated time since the reset
    "success"      whether the task is done; an episode ends with that
    "failure"      optional: what is wrong so far in one word, such as "dropped"
    "subtasks"     optional: the parts tried so far, by name, and whether each is done

The instruction may change during an episode: the policy then starts over. `reset` and `step` may
raise EnvironmentFailure: the episode can then be repeated.

Where its attribute `on_observation` is set, an environment that takes several time steps in one
`step` calls it with (observation, seconds) after each of them but the last, whose observation
`step` returns; for policies that read a window of past observations. Times for which its attribute
`is_due`, where that is set, is false may be left out: is_due(seconds).

Its attribute `execution` says how chunks are followed, see vla.envs.execution; as long as it is
None, the environment does as its suite says.

`vla.envs.chunked.ChunkedActions` gives environments with one action per step this shape.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import ArrayLike

from vla.contract.embodiment import EmbodimentContract


class SuiteError(ValueError):
    """A benchmark that is not known, or can't be run as asked."""


class EnvironmentFailure(RuntimeError):
    """The environment itself stopped working, through no fault of the policy's.

    Its next `reset` starts it again, so the episode can be repeated.
    """


@dataclass(frozen=True)
class Episode:
    """One episode of a suite, before it is run."""

    family: str  # one of the suite's task families
    seed: int  # of the environment's reset, and of the policy
    options: dict[str, Any] = field(default_factory=dict)  # of the environment's reset


@dataclass(frozen=True)
class Question:
    """A question about a scene, with its right answer."""

    kind: str  # questions are counted by kind
    seed: int  # of the scene
    images: dict[str, np.ndarray]  # uint8 [H, W, 3] by camera name
    text: str
    truth: str


@dataclass(frozen=True)
class GivenInstruction(Question):
    """An instruction given in a scene, with what the robot should say before acting."""

    possible: bool  # whether it can be followed in that scene


class Suite(ABC):
    """A benchmark. Subclasses are dataclasses; their fields are the benchmark's settings."""

    name: ClassVar[str]  # what --benchmark takes and reports name
    # Task families that the benchmark's figure consists of: tasks with their variations by seed.
    families: ClassVar[tuple[str, ...]]
    extra_families: ClassVar[tuple[str, ...]] = ()  # those that are only run when named
    # Families by group, where the benchmark's figure is the mean over groups.
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    # Sets of families whose episodes reports also count together, each set with its interval.
    pooled: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    usual_episodes: ClassVar[int] = 100  # of each family, where nobody says how many
    question_kinds: ClassVar[tuple[str, ...]] = ()  # of questions(); empty where it has none
    counted_figures: ClassVar[tuple[str, ...]] = ()  # those of figures() that are no shares
    contract: EmbodimentContract  # what observations and actions of its environments mean

    @abstractmethod
    def episodes(self, family: str, seeds: range) -> Iterable[Episode]:
        """Episodes of one family, as many as seeds. May raise SuiteError."""

    def most_episodes(self, family: str) -> int | None:
        """How many episodes a family has at most; None where each seed gives another one."""
        return None

    @abstractmethod
    def make(self, family: str, render_mode: str | None = None) -> gymnasium.Env:
        """The environment that runs the episodes of one family.

        render_mode: None, or "rgb_array_list" for a video: then `render()` gives all frames since
        it was last called, one for each time step of the contract.
        """

    def require_installed(self) -> None:
        """Raises SuiteError, which says what to do, where the benchmark can't be run here.

        Only those that need more than this package have something to say.
        """
        return

    def for_contract(self, contract: EmbodimentContract) -> Suite:
        """The suite with environments that speak a policy's contract.

        Raises ContractError where it has none such.
        """
        self.contract.require_same(contract, "the benchmark's", "the policy's")
        return self

    def figures(self, info: dict[str, Any], said: str | None) -> dict[str, float | None]:
        """Further figures of an episode that ended, by name: true, false or a share of 1.

        Reports give their means; those named in `counted_figures` are numbers of any size. info: of
        the last step. said: what the policy said before it acted, None where it was not to think.
        None for a figure that this episode does not have.
        """
        return {}

    def questions(self, per_kind: int, first_seed: int = 0) -> Iterable[Question]:
        """Questions of each of question_kinds, about scenes of the seeds from `first_seed` on.

        Raises SuiteError.
        """
        raise SuiteError(f"benchmark '{self.name}' asks no questions")

    def instructions(self, per_kind: int, first_seed: int = 0) -> Iterable[GivenInstruction]:
        """Instructions that can and that can't be followed, in scenes from `first_seed` on.

        As many of each kind; each kind is possible or impossible as a whole. Raises SuiteError.
        """
        raise SuiteError(f"benchmark '{self.name}' has no impossible instructions")

    def chosen_families(self, names: Iterable[str]) -> list[str]:
        """The families that are named, those of a group or set where one is; () for all.

        Raises SuiteError, which names an unknown one.
        """
        sets = {**self.groups, **self.pooled}
        chosen = [family for name in names for family in sets.get(name, (name,))]
        self.require_families(chosen)
        return list(dict.fromkeys(chosen or self.families))

    def require_families(self, families: Iterable[str]) -> None:
        """Raises SuiteError, which names an unknown family."""
        known = self.families + self.extra_families
        for family in families:
            if family not in known:
                raise SuiteError(f"unknown family '{family}'; known: {', '.join(known)}")

    def settings(self) -> dict[str, Any]:
        """The settings by name, for a report."""
        return {name: value for name, value in vars(self).items() if name != "contract"}


def observation_space(contract: EmbodimentContract) -> gymnasium.spaces.Dict:
    """The space of a contract's observations."""
    spaces = gymnasium.spaces
    images: dict[str, gymnasium.Space[Any]] = {
        camera.name: spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
        for camera in contract.cameras
    }
    state = spaces.Box(-np.inf, np.inf, (len(contract.state_names),), np.float64)
    return spaces.Dict({"images": spaces.Dict(images), "state": state})


def action_space(
    contract: EmbodimentContract, low: ArrayLike = -np.inf, high: ArrayLike = np.inf
) -> gymnasium.spaces.Box:
    """The space of a contract's action chunks [H, A]. low, high: of one action [A]."""
    shape = (contract.horizon, len(contract.action_names))
    return gymnasium.spaces.Box(
        np.broadcast_to(low, shape), np.broadcast_to(high, shape), shape, np.float64
    )
