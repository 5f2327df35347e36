"""Atomic: the 13 atomic actions of LA4VLA and their opposite directions, each as one episode."""

from __future__ import annotations

from dataclasses import dataclass

from vla.envs.tabletop.goal_sentences import ATOMIC_FAMILIES
from vla.envs.tabletop.goal_suite import GoalSuite


@dataclass(frozen=True)
class Atomic(GoalSuite):
    """A family for each primitive; seeds that follow each other have its goals in one scene."""

    time_limit: float = 8.0  # of a task [s]

    name = "atomic"
    families = ATOMIC_FAMILIES


SUITE = Atomic
