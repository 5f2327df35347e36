"""SimplerEnv as a benchmark (2405.05941), with the Google robot or the WidowX."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium

from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.resources import contract_path
from vla.envs.base import Episode, Suite, SuiteError
from vla.envs.chunked import ChunkedActions
from vla.envs.execution import Execution
from vla.envs.simpler.environment import SimplerEnv
from vla.envs.simpler.episodes import COLOURINGS, FAMILIES, visual_matching
from vla.envs.simpler.gripper import (
    LatchingGripper,
    SimplerGripper,
    SlowToOpenGripper,
    StickyGripper,
)
from vla.envs.simpler.variants import CAMERA_FAMILIES, variant_aggregation
from vla.envs.worker.environment import spoken_contract
from vla.envs.worker.process import WorkerCommand, WorkerProcess, python_of

CONTRACTS = {"google": "google_fractal", "widowx": "widowx_bridge"}
VARIANTS = ("visual_matching", "variant_aggregation")
ALL = "all"  # colourings


@dataclass(frozen=True)
class SimplerProtocol:
    """How a policy's actions become the robots', where publications differ."""

    sticky_steps: int  # that a change of the Google robot's gripper is held
    latches: bool  # see LatchingGripper
    open_after: int  # see SlowToOpenGripper
    widowx_steps: int  # of an episode of the WidowX but for the eggplant's
    # Chunks of whose actions the mean is executed, by robot; none where the newest is followed.
    ensemble: dict[str, int] = field(default_factory=dict)


PROTOCOLS = {
    "simpler": SimplerProtocol(15, False, 2, 60),
    # InstructVLA's published code, and CogACT's, which it goes back to.
    "instructvla": SimplerProtocol(10, True, 1, 120, {"google": 2, "widowx": 7}),
}


@dataclass(frozen=True)
class SimplerScenes(Suite):
    """Episodes of SimplerEnv's scenes; the seed of one is its number in the family's list."""

    robot: str = "google"  # or "widowx"
    protocol: str = "simpler"  # or "instructvla"; see SimplerProtocol
    steps_per_chunk: int = 1  # actions executed of each chunk
    sticky_steps: int = 0  # see StickyGripper; 0 for the protocol's, 2 as RoboVLMs publishes
    open_after: int = 0  # see SlowToOpenGripper; 0 for the protocol's, 1 as SimplerEnv has it
    python: str = ""  # of SimplerEnv's environment, see vla.envs.worker.process
    answer_seconds: float = 120.0  # that the process may take for an answer [s]
    contract: EmbodimentContract = field(default=None)  # type: ignore[assignment]

    usual_episodes = 1000  # more than any family has

    def __post_init__(self):
        self._require("robot", CONTRACTS)
        self._require("protocol", PROTOCOLS)
        if self.sticky_steps < 0 or self.open_after < 0:
            raise SuiteError("sticky_steps and open_after must be 1 or more, or 0 for the usual")
        usual = PROTOCOLS[self.protocol]
        self._set("sticky_steps", self.sticky_steps or usual.sticky_steps)
        self._set("open_after", self.open_after or usual.open_after)
        if self.contract is None:
            self._set("contract", load_contract(contract_path(CONTRACTS[self.robot])))

    def _require(self, setting: str, known: Any) -> None:
        value = getattr(self, setting)
        if value not in known:
            raise SuiteError(f"unknown {setting} '{value}'; known: {', '.join(known)}")

    def _set(self, setting: str, value: Any) -> None:
        object.__setattr__(self, setting, value)

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"run `make {self.name}` (docs/benchmarks.md)"

    @abstractmethod
    def listed(self, family: str) -> list[dict[str, Any]]:
        """All episodes of a family, see vla.envs.simpler.episodes.episode."""

    def settings(self) -> dict[str, Any]:
        """The settings by name, for a report."""
        listed = ("families", "extra_families", "groups")
        return {name: v for name, v in super().settings().items() if name not in listed}

    def require_installed(self) -> None:
        """Raises SuiteError, which says what to do."""
        python_of(self.name, self.python, self.install)

    def for_contract(self, contract: EmbodimentContract) -> SimplerScenes:
        """The same with a policy's contract, whose image may be of another size."""
        return replace(self, contract=spoken_contract(self.contract, contract))

    def most_episodes(self, family: str) -> int:
        """How many the family's list has."""
        return len(self.listed(family))

    def episodes(self, family: str, seeds: range) -> Iterator[Episode]:
        """Those of these numbers in the family's list. Raises SuiteError where there are none."""
        listed = self.listed(family)
        if seeds.start >= len(listed):
            raise SuiteError(f"{family} has the episodes 0 to {len(listed) - 1}; give lower seeds")
        for number in seeds[: len(listed) - seeds.start]:
            yield Episode(family, number, {"episode": listed[number], "seed": number})

    def make(self, family: str, render_mode: str | None = None) -> gymnasium.Env:
        """The scenes, in a process that starts with the first episode. Raises SuiteError."""
        command = WorkerCommand(
            self.name,
            python_of(self.name, self.python, self.install),
            Path(__file__).with_name("adapter.py"),
            self.install,
            answer_seconds=self.answer_seconds,
        )
        environment = ChunkedActions(
            SimplerEnv(WorkerProcess(command), self.contract, self._gripper(), render_mode),
            self.contract,
            "",
            observe=lambda observation: observation,
            steps_per_chunk=self.steps_per_chunk,
        )
        chunks = PROTOCOLS[self.protocol].ensemble.get(self.robot)
        if chunks and self.steps_per_chunk == 1:
            environment.execution = Execution(1, "cosine", chunks, votes=False)
        return environment

    def _gripper(self) -> SimplerGripper:
        if self.robot == "widowx":
            return SlowToOpenGripper(self.open_after)
        kind = LatchingGripper if PROTOCOLS[self.protocol].latches else StickyGripper
        return kind(self.sticky_steps)

    def figures(self, info: dict[str, Any], said: str | None) -> dict[str, float | None]:
        """Whether the thing was ever held."""
        return {"grasped": info["grasped"]}


@dataclass(frozen=True)
class SimplerSuite(SimplerScenes):
    """SimplerEnv's own evaluation."""

    variants: str = "visual_matching"  # or "variant_aggregation", for the Google robot
    # Colouring of the Google robot in visual matching, as SimplerEnv names them, or "all" four.
    urdf_version: str = ""

    name = "simpler"
    families = FAMILIES["google"]

    def __post_init__(self):
        super().__post_init__()
        self._require("variants", VARIANTS)
        if self.variants == VARIANTS[1] and (self.robot != "google" or self.urdf_version):
            raise SuiteError(
                "variant_aggregation is for the Google robot in its own colours: leave robot and "
                "urdf_version out"
            )
        self._set("families", FAMILIES[self.robot])
        if self.variants == VARIANTS[1]:
            self._set("extra_families", CAMERA_FAMILIES)

    def listed(self, family: str) -> list[dict[str, Any]]:
        """See SimplerScenes."""
        if self.variants == VARIANTS[1]:
            return variant_aggregation(family)
        one = {"": self.urdf_version}
        colourings = COLOURINGS if self.urdf_version == ALL else one
        return visual_matching(family, colourings, PROTOCOLS[self.protocol].widowx_steps)


SUITE = SimplerSuite
