"""Families of goals as sources of training data: shards of demonstrations."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from vla.datasets.sources import RobotData
from vla.envs.tabletop.demonstrations import DemonstrationConfig
from vla.envs.tabletop.goal_sentences import ATOMIC_FAMILIES, INSTRUCTED_FAMILIES
from vla.envs.tabletop.sources import SimulatedSource


def _equal(families: tuple[str, ...]) -> dict[str, float]:
    return dict.fromkeys(families, 1.0 / len(families))


@dataclass(frozen=True)
class GoalDemonstrationConfig(DemonstrationConfig):
    """How they are made: without detours, which a goal that starts where the arm is can't have.

    Nor does the gripper slip, since what is dropped ends an episode.
    """

    episodes: int = 1500
    shares: dict[str, float] = field(default_factory=partial(_equal, INSTRUCTED_FAMILIES))
    noise: float = 0.004
    slip_chance: float = 0.0
    detour_share: float = 0.0


@dataclass(frozen=True)
class AtomicDemonstrationConfig(GoalDemonstrationConfig):
    """Those of single atomic actions, of each primitive as many."""

    episodes: int = 2600
    shares: dict[str, float] = field(default_factory=partial(_equal, ATOMIC_FAMILIES))
    frame_stride: int = 1  # an action takes a second
    noise_share: float = 0.3  # who is disturbed while waiting has moved, and is left out
    time_limit: float = 8.0


class GoalSource(SimulatedSource):
    """Shards of families of goals by the scripted expert."""

    name = "instructed"
    options = GoalDemonstrationConfig
    former_entries = {}  # noqa: RUF012

    def correction_steps(self, entry: RobotData) -> tuple[int, ...]:
        """None: corrections are of other families."""
        return ()


class AtomicSource(GoalSource):
    """Shards of single atomic actions."""

    name = "atomic"
    options = AtomicDemonstrationConfig


INSTRUCTED = GoalSource()
ATOMIC = AtomicSource()
