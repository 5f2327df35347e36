"""SimplerEnv as a benchmark (2405.05941): visual matching, the Google robot or the WidowX."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium

from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.resources import contract_path
from vla.envs.base import Episode, Suite, SuiteError
from vla.envs.chunked import ChunkedActions
from vla.envs.simpler.environment import SimplerEnv
from vla.envs.simpler.episodes import FAMILIES, episodes_of
from vla.envs.simpler.gripper import SlowToOpenGripper, StickyGripper
from vla.envs.worker.environment import spoken_contract
from vla.envs.worker.process import WorkerCommand, WorkerProcess, python_of

CONTRACTS = {"google": "google_fractal", "widowx": "widowx_bridge"}
INSTALL = "run `make simpler` (docs/benchmarks.md)"


@dataclass(frozen=True)
class SimplerSuite(Suite):
    """SimplerEnv's evaluation; the seed of an episode is its number in the family's list."""

    robot: str = "google"  # or "widowx"
    steps_per_chunk: int = 1  # actions executed of each chunk
    sticky_steps: int = 15  # see StickyGripper; 2 as RoboVLMs publishes
    open_after: int = 2  # see SlowToOpenGripper; 1 as SimplerEnv has it
    urdf_version: str = ""  # another colouring of the Google robot, as SimplerEnv names them
    python: str = ""  # of SimplerEnv's environment, see vla.envs.worker.process
    answer_seconds: float = 120.0  # that the process may take for an answer [s]
    contract: EmbodimentContract = field(default=None)  # type: ignore[assignment]

    name = "simpler"
    families = FAMILIES["google"]

    def __post_init__(self):
        if self.robot not in FAMILIES:
            raise SuiteError(f"unknown robot '{self.robot}'; known: {', '.join(FAMILIES)}")
        if self.sticky_steps < 1 or self.open_after < 1:
            raise SuiteError("sticky_steps and open_after must be 1 or more")
        object.__setattr__(self, "families", FAMILIES[self.robot])
        if self.contract is None:
            contract = load_contract(contract_path(CONTRACTS[self.robot]))
            object.__setattr__(self, "contract", contract)

    def settings(self) -> dict[str, Any]:
        """The settings by name, for a report."""
        return {name: value for name, value in super().settings().items() if name != "families"}

    def require_installed(self) -> None:
        """Raises SuiteError, which says what to do."""
        python_of(self.name, self.python, INSTALL)

    def for_contract(self, contract: EmbodimentContract) -> SimplerSuite:
        """The same with a policy's contract, whose image may be of another size."""
        return replace(self, contract=spoken_contract(self.contract, contract))

    def episodes(self, family: str, seeds: range) -> Iterator[Episode]:
        """Those of these numbers in the family's list. Raises SuiteError where there are none."""
        listed = episodes_of(family, self.urdf_version)
        if seeds.start >= len(listed):
            raise SuiteError(f"{family} has the episodes 0 to {len(listed) - 1}; give lower seeds")
        for number in seeds:
            if number < len(listed):
                yield Episode(family, number, {"episode": listed[number], "seed": number})

    def make(self, family: str, render_mode: str | None = None) -> gymnasium.Env:
        """The scenes, in a process that starts with the first episode. Raises SuiteError."""
        command = WorkerCommand(
            self.name,
            python_of(self.name, self.python, INSTALL),
            Path(__file__).with_name("adapter.py"),
            INSTALL,
            answer_seconds=self.answer_seconds,
        )
        google = self.robot == "google"
        gripper = StickyGripper(self.sticky_steps) if google else SlowToOpenGripper(self.open_after)
        return ChunkedActions(
            SimplerEnv(WorkerProcess(command), self.contract, gripper, render_mode),
            self.contract,
            "",
            observe=lambda observation: observation,
            steps_per_chunk=self.steps_per_chunk,
        )

    def figures(self, info: dict[str, Any], said: str | None) -> dict[str, float | None]:
        """Whether the thing was ever held."""
        return {"grasped": info["grasped"]}


SUITE = SimplerSuite
