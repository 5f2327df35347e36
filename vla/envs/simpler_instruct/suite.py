"""SimplerEnv-Instruct as a benchmark (InstructVLA, 2507.17520, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from vla.envs.simpler.suite import SimplerScenes
from vla.envs.simpler_instruct.tasks import Episodes, tasks_of

TASKS = cache(tasks_of)
EVERY = (*TASKS("google"), *TASKS("widowx"))


@dataclass(frozen=True)
class SimplerInstruct(SimplerScenes):
    """Each task is a family: 78 of the Google robot, two of the WidowX.

    The published figure of a group is the mean over its tasks, and the benchmark's that of both.
    """

    protocol: str = "instructvla"

    name = "simpler_instruct"
    families = tuple(TASKS("google"))
    groups = MappingProxyType(
        {
            "instruction_aggregation": tuple(name for name in EVERY if name.startswith("Free")),
            "situated_reasoning": tuple(name for name in EVERY if name.startswith("Alt")),
        }
    )

    def __post_init__(self):
        super().__post_init__()
        own = tuple(TASKS(self.robot))
        self._set("families", own)
        groups = {g: tuple(f for f in names if f in own) for g, names in self.groups.items()}
        self._set("groups", groups)

    def listed(self, family: str) -> Episodes:
        """See SimplerScenes."""
        return TASKS(self.robot)[family]


SUITE = SimplerInstruct
