"""Instruct: eighty tasks in the words that people use (InstructVLA, 2507.17520, section 4.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from vla.envs.base import Episode, SuiteError
from vla.envs.instruct.answers import answers_right
from vla.envs.instruct.environment import InstructEnv
from vla.envs.instruct.tasks import CATEGORIES, LEVELS, SHIPPED, InstructTask, read_tasks
from vla.envs.tabletop.suite import TableTopSuite, require_split
from vla.envs.tabletop.tasks import FIRST_TRAINING_SEED


def _by_level(tasks: dict[str, InstructTask]) -> dict[str, tuple[str, ...]]:
    return {
        name: own
        for number, name in enumerate(LEVELS, start=1)
        if (own := tuple(task.id for task in tasks.values() if task.level == number))
    }


def _by_category(tasks: dict[str, InstructTask]) -> dict[str, tuple[str, ...]]:
    return {
        name: own
        for name in CATEGORIES
        if (own := tuple(task.id for task in tasks.values() if task.category == name))
    }


@dataclass(frozen=True)
class InstructSuite(TableTopSuite):
    """Each task is a family; a seed chooses the words, the light and how the arm stands."""

    split: str = "seen"  # or "unseen": another table, light, colours and front camera
    tasks: str = ""  # file of tasks; "" for the eighty that come with the package

    name = "instruct"
    usual_episodes = 3
    families = tuple(read_tasks())
    groups = MappingProxyType(_by_level(read_tasks()))
    pooled = MappingProxyType(_by_category(read_tasks()) | _by_level(read_tasks()))

    def __post_init__(self):
        require_split(self.split)
        if self.tasks:
            tasks = self.read()
            object.__setattr__(self, "families", tuple(tasks))
            object.__setattr__(self, "groups", _by_level(tasks))
            object.__setattr__(self, "pooled", _by_category(tasks) | _by_level(tasks))

    def read(self) -> dict[str, InstructTask]:
        """The tasks by their ids. Raises SuiteError."""
        return read_tasks(self.tasks or SHIPPED)

    def settings(self) -> dict[str, Any]:
        """The settings by name, for a report."""
        listed = ("families", "groups", "pooled")
        return {name: v for name, v in super().settings().items() if name not in listed}

    def episodes(self, family: str, seeds: range) -> Iterator[Episode]:
        """One for each seed. Raises SuiteError for seeds that training uses."""
        if seeds.stop > FIRST_TRAINING_SEED:
            raise SuiteError(
                f"seeds from {FIRST_TRAINING_SEED} on are training's: choose others with --seeds"
            )
        task = self.read()[family]
        for seed in seeds:
            words = task.instruction(seed)
            yield Episode(
                family, seed, {"family": family, "instruction": words, "split": self.split}
            )

    def make(self, family: str, render_mode: str | None = None) -> InstructEnv:
        """The scene of one task. Raises SuiteError for an unknown family."""
        self.require_families([family])
        return InstructEnv(
            self.read()[family],
            self.contract,
            self.steps_per_chunk,
            self.delay_steps,
            self.time_limit,
            render_mode,
        )

    def figures(self, info: dict[str, Any], said: str | None) -> dict[str, float | None]:
        """Whether the instruction was misread, and whether the policy said the right thing."""
        right = None if said is None else answers_right(self.read()[info["task"]], said)
        return {"misread": info["wrong_object"], "answered_right": right}


SUITE = InstructSuite
