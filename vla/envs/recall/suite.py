"""Recall: press the button of the colour that a lamp showed for the first second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vla.envs.base import Episode
from vla.envs.tabletop.environment import TableTopEnv
from vla.envs.tabletop.suite import TableTopSuite, require_split
from vla.envs.tabletop.tasks import RECALL


@dataclass(frozen=True)
class Recall(TableTopSuite):
    """Two buttons; the lamp has shown which. The wrong one ends the episode."""

    split: str = "seen"  # or "unseen": another table, light and front camera

    name = "recall"
    families = (RECALL,)

    def __post_init__(self):
        require_split(self.split)

    def episodes(self, family: str, seeds: range) -> Iterator[Episode]:
        """One for each seed."""
        for seed in seeds:
            yield Episode(family, seed, {"family": family, "split": self.split})

    def make(self, family: str, render_mode: str | None = None) -> TableTopEnv:
        """The table top, with lamp and buttons."""
        return self.environment(TableTopEnv, render_mode)


SUITE = Recall
