"""Instructed: press one of four buttons, insert a book, fill a cell (LA4VLA, section 5.5)."""

from __future__ import annotations

from dataclasses import dataclass

from vla.envs.tabletop.goal_sentences import INSTRUCTED_FAMILIES
from vla.envs.tabletop.goal_suite import GoalSuite


@dataclass(frozen=True)
class Instructed(GoalSuite):
    """One scene for all goals of a family; the wrong goal ends the episode."""

    name = "instructed"
    families = INSTRUCTED_FAMILIES


SUITE = Instructed
