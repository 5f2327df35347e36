"""LIBERO as a benchmark (2306.03310): four suites of ten tasks, as LA4VLA evaluates on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import gymnasium

from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.resources import contract_path
from vla.envs.base import Episode, Suite, SuiteError
from vla.envs.chunked import ChunkedActions
from vla.envs.libero.environment import LiberoEnv
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
# Steps of an episode: of 25 chunks, and of 95 of the long tasks, 14 are executed.
STEPS: Mapping[str, int] = MappingProxyType(
    {"spatial": 350, "object": 350, "goal": 350, "long": 1330}
)


def _contract() -> EmbodimentContract:
    return load_contract(contract_path("libero"))


@dataclass(frozen=True)
class LiberoSuite(Suite):
    """LIBERO; episode n of a suite is of task n modulo 10, from its initial state n // 10."""

    steps_per_chunk: int = 14  # actions executed of each chunk
    python: str = ""  # of LIBERO's environment, see vla.envs.worker.process
    answer_seconds: float = 120.0  # that the process may take for an answer [s]
    contract: EmbodimentContract = field(default_factory=_contract)

    name = "libero"
    families = tuple(SUITES)

    def require_installed(self) -> None:
        """Raises SuiteError, which says what to do."""
        python_of(self.name, self.python, INSTALL)

    def for_contract(self, contract: EmbodimentContract) -> LiberoSuite:
        """The same with a policy's contract, whose images may be of other sizes."""
        return replace(self, contract=spoken_contract(self.contract, contract))

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
        environment = LiberoEnv(WorkerProcess(command), self.contract, STEPS[family], render_mode)
        return ChunkedActions(
            environment,
            self.contract,
            "",
            observe=lambda observation: observation,
            steps_per_chunk=self.steps_per_chunk,
        )


SUITE = LiberoSuite
