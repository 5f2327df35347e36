"""MetaWorld as a benchmark: the fifty tasks of MT50 (1910.10897), as LA4VLA evaluates on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import gymnasium

from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.resources import contract_path
from vla.envs.base import Episode, Suite, SuiteError
from vla.envs.chunked import ChunkedActions
from vla.envs.metaworld.environment import MetaWorldEnv
from vla.envs.metaworld.tasks import GROUPS, INSTRUCTIONS
from vla.envs.worker.environment import spoken_contract
from vla.envs.worker.process import WorkerCommand, WorkerProcess, python_of

INSTALL = "run `make metaworld` (docs/benchmarks.md)"
CONTRACTS = {False: "metaworld", True: "metaworld_privileged"}
# Of the scene of episode 0, in the published evaluation.
FIRST_SEED = 4042
# MetaWorld allows 500 in an episode, one of which is taken at the reset.
MOST_STEPS = 499


@dataclass(frozen=True)
class MetaWorldSuite(Suite):
    """MT50; the seed of an episode is its number, from 0, and its scene that of 4042 more.

    Success at any step ends an episode. Each task is a family.
    """

    privileged: bool = False  # the policy's state holds the object's position, too
    steps: int = 400  # of an episode: 5 s
    steps_per_chunk: int = 15  # actions executed of each chunk
    shadows: bool = False  # images with shadows and reflections, which take eight times as long
    python: str = ""  # of MetaWorld's environment, see vla.envs.worker.process
    answer_seconds: float = 120.0  # that the process may take for an answer [s]
    contract: EmbodimentContract = field(default=None)  # type: ignore[assignment]

    name = "metaworld"
    families = tuple(INSTRUCTIONS)
    groups = GROUPS
    usual_episodes = 10

    def __post_init__(self):
        if not 1 <= self.steps <= MOST_STEPS:
            raise SuiteError(f"steps must be 1 to {MOST_STEPS}, got {self.steps}")
        if self.contract is None:
            contract = load_contract(contract_path(CONTRACTS[self.privileged]))
            object.__setattr__(self, "contract", contract)

    def require_installed(self) -> None:
        """Raises SuiteError, which says what to do."""
        self.command()

    def command(self) -> WorkerCommand:
        """How MetaWorld's process is started. Raises SuiteError."""
        return WorkerCommand(
            self.name,
            python_of(self.name, self.python, INSTALL),
            Path(__file__).with_name("adapter.py"),
            INSTALL,
            {"shadows": self.shadows},
            answer_seconds=self.answer_seconds,
        )

    def for_contract(self, contract: EmbodimentContract) -> MetaWorldSuite:
        """The same with a policy's contract, whose image may be of another size."""
        privileged = load_contract(contract_path(CONTRACTS[True]))
        if not self.privileged and contract.state_names == privileged.state_names:
            raise SuiteError(
                "the policy reads the object's position: evaluate it with --set privileged=true"
            )
        return replace(self, contract=spoken_contract(self.contract, contract))

    def episodes(self, family: str, seeds: range) -> Iterator[Episode]:
        """Those of these numbers."""
        for number in seeds:
            yield Episode(family, number, {"seed": FIRST_SEED + number})

    def environment(self, family: str, render_mode: str | None = None) -> MetaWorldEnv:
        """A task step by step, in a process that starts with the first episode."""
        return MetaWorldEnv(
            WorkerProcess(self.command()),
            self.contract,
            family,
            INSTRUCTIONS[family],
            self.steps,
            render_mode,
        )

    def make(self, family: str, render_mode: str | None = None) -> gymnasium.Env:
        """A task, in a process that starts with the first episode. Raises SuiteError."""
        environment = self.environment(family, render_mode)
        return ChunkedActions(
            environment,
            self.contract,
            "",
            observe=environment.seen,
            steps_per_chunk=self.steps_per_chunk,
        )


SUITE = MetaWorldSuite
