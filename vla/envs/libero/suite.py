"""LIBERO as a benchmark (2306.03310): four suites of ten tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium

from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.resources import contract_path
from vla.envs.base import Episode, Suite, SuiteError
from vla.envs.chunked import ChunkedActions
from vla.envs.libero.environment import UNITS, LiberoEnv
from vla.envs.libero.protocols import PROTOCOLS
from vla.envs.worker.environment import spoken_contract
from vla.envs.worker.process import WorkerCommand, WorkerProcess, python_of

INSTALL = "run `make libero` (docs/benchmarks.md)"
TASKS = 10  # of each suite
STATES = 50  # initial ones of each task
# What LIBERO calls the suites.
SUITES: Mapping[str, str] = MappingProxyType(
    {
        "spatial": "libero_spatial",
        "object": "libero_object",
        "goal": "libero_goal",
        "long": "libero_10",
    }
)


def _contract() -> EmbodimentContract:
    return load_contract(contract_path("libero"))


@dataclass(frozen=True)
class LiberoSuite(Suite):
    """LIBERO; episode n of a suite is of task n modulo 10, from its initial state n // 10."""

    protocol: str = "la4vla"  # or "instructvla"; see vla.envs.libero.protocols
    steps_per_chunk: int = 0  # actions executed of each chunk; 0 for as the protocol has it
    python: str = ""  # of LIBERO's environment, see vla.envs.worker.process
    answer_seconds: float = 120.0  # that the process may take for an answer [s]
    contract: EmbodimentContract = field(default_factory=_contract)

    name = "libero"
    families = tuple(SUITES)

    def __post_init__(self):
        if self.protocol not in PROTOCOLS:
            raise SuiteError(f"unknown protocol '{self.protocol}'; known: {', '.join(PROTOCOLS)}")
        object.__setattr__(self, "usual_episodes", PROTOCOLS[self.protocol].episodes)

    def settings(self) -> dict[str, Any]:
        """The settings by name, for a report."""
        return {name: v for name, v in super().settings().items() if name != "usual_episodes"}

    def require_installed(self) -> None:
        """Raises SuiteError, which says what to do."""
        python_of(self.name, self.python, INSTALL)

    def for_contract(self, contract: EmbodimentContract) -> LiberoSuite:
        """The same with a policy's contract, whose images may be of other sizes."""
        return replace(self, contract=spoken_contract(self.contract, contract))

    def most_episodes(self, family: str) -> int:
        """Fifty of each task."""
        return TASKS * STATES

    def episodes(self, family: str, seeds: range) -> Iterator[Episode]:
        """Those of these numbers, 0 to 499. Raises SuiteError where there are none."""
        if seeds.start >= TASKS * STATES:
            raise SuiteError(
                f"{family} has the episodes 0 to {TASKS * STATES - 1}; give lower seeds"
            )
        for number in seeds:
            if number < TASKS * STATES:
                state, task = divmod(number, TASKS)
                options = {"suite": SUITES[family], "task": task, "state": state}
                yield Episode(family, number, options)

    def make(self, family: str, render_mode: str | None = None) -> gymnasium.Env:
        """The tasks of a suite, in a process that starts with the first episode.

        Raises SuiteError.
        """
        command = WorkerCommand(
            self.name,
            python_of(self.name, self.python, INSTALL),
            Path(__file__).with_name("adapter.py"),
            INSTALL,
            answer_seconds=self.answer_seconds,
        )
        protocol = PROTOCOLS[self.protocol]
        steps = protocol.steps[family]
        environment = ChunkedActions(
            LiberoEnv(WorkerProcess(command), self.contract, protocol, steps, render_mode),
            self.contract,
            "",
            observe=lambda observation: observation,
            steps_per_chunk=self.steps_per_chunk or protocol.steps_per_chunk,
            units=UNITS,
        )
        if not self.steps_per_chunk:
            environment.execution = protocol.execution
        return environment


SUITE = LiberoSuite
