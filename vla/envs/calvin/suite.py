"""CALVIN as a benchmark: 1000 chains of five of its 34 tasks (2112.03227)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium

from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.resources import contract_path
from vla.core.shown import shown_path
from vla.envs.base import Episode, Suite, SuiteError
from vla.envs.calvin.environment import CalvinEnv
from vla.envs.chain_figures import LENGTH, chain_figures
from vla.envs.chunked import ChunkedActions
from vla.envs.worker.environment import spoken_contract
from vla.envs.worker.process import WorkerCommand, WorkerProcess, python_of

CHAINS = 1000
FRAMES = ("world", "tool")
# CALVIN draws its chains for minutes; 17 were measured on two busy cores.
START_SECONDS = 3600.0
INSTALL = "run `make calvin` (docs/benchmarks.md)"


def _contract() -> EmbodimentContract:
    return load_contract(contract_path("calvin"))


@dataclass(frozen=True)
class CalvinSuite(Suite):
    """CALVIN's long-horizon evaluation; the seed of an episode is the number of its chain."""

    steps_per_chunk: int = 1  # actions executed of each chunk
    steps_per_task: int = 360  # until a task counts as failed: 12 s
    frame: str = "world"  # of the policy's actions, see vla.envs.calvin.actions
    data: str = ""  # a CALVIN data set; else what VLA_CALVIN_DATA names
    python: str = ""  # of CALVIN's environment, see vla.envs.worker.process
    answer_seconds: float = 120.0  # that the process may take for an answer [s]
    contract: EmbodimentContract = field(default_factory=_contract)

    name = "calvin"
    families = ("chains",)
    counted_figures = (LENGTH,)

    def __post_init__(self):
        if self.frame not in FRAMES:
            raise SuiteError(f"unknown frame '{self.frame}'; known: {', '.join(FRAMES)}")

    def require_installed(self) -> None:
        """Raises SuiteError, which says what to do."""
        self._command()

    def _command(self) -> WorkerCommand:
        python = python_of(self.name, self.python, INSTALL)
        data = Path(self.data or os.environ.get("VLA_CALVIN_DATA", ""))
        if not (data / "validation/.hydra/merged_config.yaml").is_file():
            which = f"{shown_path(data)} is none" if str(data) != "." else "none is named"
            raise SuiteError(
                f"benchmark 'calvin' takes its scene from a CALVIN data set, and {which}: name one "
                "by --set data=FOLDER or VLA_CALVIN_DATA, such as its debug data set (1.3 GB)"
            )
        return WorkerCommand(
            self.name,
            python,
            Path(__file__).with_name("adapter.py"),
            INSTALL,
            {"data": str(data.resolve())},
            start_seconds=START_SECONDS,
            answer_seconds=self.answer_seconds,
        )

    def for_contract(self, contract: EmbodimentContract) -> CalvinSuite:
        """The same with a policy's contract, whose images may be of other sizes."""
        return replace(self, contract=spoken_contract(self.contract, contract))

    def episodes(self, family: str, seeds: range) -> Iterator[Episode]:
        """The chains of these numbers, 0 to 999. Raises SuiteError where there are none."""
        if seeds.start >= CHAINS:
            raise SuiteError(f"CALVIN has the chains 0 to {CHAINS - 1}; give seeds below {CHAINS}")
        for number in seeds:
            if number < CHAINS:
                yield Episode(family, number, {"chain": number})

    def make(self, family: str, render_mode: str | None = None) -> gymnasium.Env:
        """The table, in a process that starts with the first episode. Raises SuiteError."""
        worker = WorkerProcess(self._command())
        return ChunkedActions(
            CalvinEnv(worker, self.contract, self.steps_per_task, self.frame, render_mode),
            self.contract,
            "",
            observe=lambda observation: observation,
            steps_per_chunk=self.steps_per_chunk,
        )

    def figures(self, info: dict[str, Any], said: str | None) -> dict[str, float | None]:
        """Whether as many tasks were done in a row, and how many."""
        return chain_figures(info)


SUITE = CalvinSuite
