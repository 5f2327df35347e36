"""What the tables of a paper take: checkpoints, data, benchmarks and commands, and what is there.

The tables of each system are in config/reproduce/SYSTEM.yaml. Nothing is run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vla.core.configuration import read_dataclass
from vla.core.files import read_yaml
from vla.core.findings import Finding, fine, problem
from vla.core.resources import given_or_shared, shared_file
from vla.core.shown import shown_path
from vla.envs.base import SuiteError
from vla.envs.registry import make_suite
from vla.evaluation.errors import ReproductionError
from vla.policies.checkpoint import open_checkpoint
from vla.policies.config import CheckpointError

FOLDER = "config/reproduce"
OUTPUT = "output/reproduce"  # where results are written, in SYSTEM/TABLE


@dataclass(frozen=True)
class Step:
    """A command, or one for each of several names."""

    command: str  # {output} is the table's folder of results, {each} the name
    each: tuple[str, ...] = ()
    note: str = ""
    by_hand: str = ""  # where it is to be run, if not by `vla reproduce`
    # What the paper says that it took, and on how many GPUs of which kind; 0 where it says nothing.
    hours: float = 0.0
    gpus: str = ""

    def commands(self, output: str) -> list[str]:
        """The command for each name, with a folder for its results."""
        filled = self.command.replace("{output}", output)
        return [filled.replace("{each}", name) for name in self.each] or [filled]

    @property
    def cost(self) -> str:
        """How long it takes, as far as somebody published that."""
        if not self.hours:
            return "hours unknown"
        return f"{self.hours:g} h on {self.gpus}, as the paper says"


@dataclass(frozen=True)
class Need:
    """A checkpoint, a folder of data or a benchmark that commands take."""

    checkpoint: str = ""  # its folder
    data: str = ""  # a folder
    benchmark: str = ""  # of vla.envs.registry, whose own environment must be installed
    source: str = ""  # where it comes from
    made_by: tuple[Step, ...] = ()  # commands, of which one makes it of that

    def __post_init__(self) -> None:
        if sum(map(bool, (self.checkpoint, self.data, self.benchmark))) != 1:
            raise ValueError("a need is one of checkpoint, data and benchmark")

    def finding(self, name: str) -> Finding:
        """Whether it is there, and what to do where it is not."""
        if self.benchmark:
            try:
                make_suite(self.benchmark).require_installed()
            except SuiteError as error:
                return problem(name, f"benchmark {self.benchmark} is missing", str(error))
            return fine(name, f"benchmark {self.benchmark} is installed")
        path = Path(self.checkpoint or self.data)
        if not path.is_dir() or not any(path.iterdir()):
            made = " or ".join(entry.command for entry in self.made_by)
            cure = "; then ".join(filter(None, (f"take {self.source}", made)))
            return problem(name, f"{shown_path(path)} is missing", cure)
        if self.checkpoint:
            try:
                open_checkpoint(path)
            except CheckpointError as error:
                return problem(name, str(error), "make the checkpoint again")
        return fine(name, f"{shown_path(path)} is there")


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    title: str
    figures: str = ""  # as published, of the system itself
    needs: tuple[str, ...] = ()  # names of needs
    steps: tuple[Step, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Paper:
    """A system's paper."""

    paper: str  # its name
    tables: dict[str, Table]
    needs: dict[str, Need] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, table in self.tables.items():
            if unknown := [name for name in table.needs if name not in self.needs]:
                raise ValueError(f"table {number} needs '{unknown[0]}', which is not described")

    def table(self, number: str) -> Table:
        """A table by its number or name. Raises ReproductionError."""
        if number not in self.tables:
            known = ", ".join(self.tables)
            raise ReproductionError(f"there is no table {number!r}; known: {known}")
        return self.tables[number]


def systems() -> list[str]:
    """Names of the systems whose tables are described."""
    return sorted(path.stem for path in shared_file(FOLDER).glob("*.yaml"))


def read_paper(system: str) -> Paper:
    """The tables of a system, by its name or by a file. Raises ReproductionError."""
    given = system if system.endswith(".yaml") else f"{FOLDER}/{system}.yaml"
    path = given_or_shared(given)
    if not path.is_file():
        raise ReproductionError(
            f"there is no paper '{shown_path(system)}'; known: {', '.join(systems())}"
        )
    values = read_yaml(path, ReproductionError)
    return read_dataclass(Paper, values, shown_path(path), ReproductionError)


def check_table(paper: Paper, table: Table) -> list[Finding]:
    """What is there of a table's needs, and what is not."""
    return [paper.needs[name].finding(name) for name in table.needs]


def table_text(number: str, table: Table, needs: Mapping[str, Need], output: str) -> str:
    """A table's figures, needs and commands, with what is known of the hours."""
    lines = [f"table {number}: {table.title}"]
    if table.figures:
        lines.append(f"published: {table.figures}")
    for name in table.needs:
        need = needs[name]
        kind = "checkpoint" if need.checkpoint else "data" if need.data else "benchmark"
        what = need.checkpoint or need.data or need.benchmark
        lines.append(f"needs {kind} {what}" + (f", from {need.source}" if need.source else ""))
        for entry in need.made_by:
            lines += [f"  {line}" for line in _step_lines(entry, output)]
    for step in table.steps:
        lines += _step_lines(step, output)
    if not table.steps:
        lines.append("there is nothing to run for it")
    if table.note:
        lines.append(table.note)
    return "\n".join(lines)


def _step_lines(step: Step, output: str) -> list[str]:
    told = "; ".join(filter(None, (step.note, step.by_hand and f"by hand: {step.by_hand}")))
    comment = f"# {told + '; ' if told else ''}{step.cost}"
    return [comment, *step.commands(output)]
