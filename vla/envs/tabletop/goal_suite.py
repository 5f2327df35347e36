"""Benchmarks of families of goals: the same scene for all goals, so that language decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.envs.base import Episode, SuiteError
from vla.envs.tabletop.environment import TableTopEnv
from vla.envs.tabletop.goal_sentences import GOALS, goal_of
from vla.envs.tabletop.suite import TableTopSuite, require_split

WORDINGS = ("direct", "paraphrase")


@dataclass(frozen=True)
class GoalSuite(TableTopSuite):
    """Families of goals."""

    wording: str = "direct"  # or "paraphrase": in sentences that training never has
    split: str = "seen"  # or "unseen": another table, light and front camera

    def __post_init__(self):
        require_split(self.split)
        if self.wording not in WORDINGS:
            raise SuiteError(f"unknown wording '{self.wording}'; known: {', '.join(WORDINGS)}")

    def episodes(self, family: str, seeds: range) -> Iterator[Episode]:
        """One for each seed."""
        for seed in seeds:
            options = {"family": family, "split": self.split}
            if self.wording == "paraphrase":
                sentences = GOALS[family][goal_of(family, seed)].test
                generator = np.random.default_rng([seed, sum(family.encode()), 1])
                options["instruction"] = str(generator.choice(sentences))
            yield Episode(family, seed, options)

    def make(self, family: str, render_mode: str | None = None) -> TableTopEnv:
        """The table top; one environment runs episodes of all families."""
        return self.environment(TableTopEnv, render_mode)

    def figures(self, info: dict[str, Any], said: str | None) -> dict[str, float | None]:
        """Whether another goal was reached instead."""
        return {"misread": info["wrong_object"]}
