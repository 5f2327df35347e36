"""The chains: how they are drawn, and the file that holds the thousand that everybody runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.core.files import read_text
from vla.core.shown import shown_path
from vla.envs.base import SuiteError
from vla.envs.chains.state import (
    CHAIN_LENGTH,
    KINDS,
    SymbolicState,
    after,
    require_chain,
    tasks_in,
)
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import TABLE, Task, parse_task

SHIPPED = Path(__file__).with_name("chains.txt")
COUNT = 1000
# Families whose scenes chains begin in, by whether the drawer is open there.
LAYOUTS = {False: "open_drawer", True: "close_drawer"}
_HEADER = "# seed; drawer; blocks and cans; tasks. SHA-256 of the lines below: "


@dataclass(frozen=True)
class Chain:
    """Tasks to be done one after the other, from the scene of a seed."""

    seed: int
    drawer_open: bool  # when it begins
    things: tuple[str, ...]  # blocks and cans on the table
    tasks: tuple[Task, ...]

    @property
    def layout(self) -> str:
        """The family whose scene of the seed it begins in."""
        return LAYOUTS[self.drawer_open]

    @property
    def start(self) -> SymbolicState:
        """The state in which it begins."""
        return SymbolicState(self.drawer_open, dict.fromkeys(self.things, TABLE))

    def line(self) -> str:
        """The chain as one line of a file."""
        drawer = "open" if self.drawer_open else "closed"
        tasks = ", ".join(task.text() for task in self.tasks)
        return f"{self.seed}; {drawer}; {', '.join(self.things)}; {tasks}"


def draw_chain(seed: int, simulator: TableTopSimulator) -> Chain:
    """The chain of a seed: at each turn a kind that it has not had yet, then a task of that kind.

    Where the rules allow no further task before the fifth, it is drawn again.
    """
    generator = np.random.default_rng([seed, CHAIN_LENGTH])
    is_open = bool(generator.integers(2))
    simulator.reset(seed, LAYOUTS[is_open], settle=0.0)
    things = tuple(simulator.objects())
    while True:
        chain = Chain(seed, is_open, things, ())
        chain = Chain(seed, is_open, things, tuple(_drawn(chain.start, generator)))
        if len(chain.tasks) == CHAIN_LENGTH:
            return chain


def _drawn(state: SymbolicState, generator: np.random.Generator) -> Iterator[Task]:
    had: set[str] = set()
    while len(had) < CHAIN_LENGTH:
        by_kind: dict[str, list[Task]] = {}
        for task in tasks_in(state):
            if KINDS[task.family] not in had:
                by_kind.setdefault(KINDS[task.family], []).append(task)
        if not by_kind:
            return
        kind = list(by_kind)[int(generator.integers(len(by_kind)))]
        task = by_kind[kind][int(generator.integers(len(by_kind[kind])))]
        had.add(kind)
        state = after(state, task)
        yield task


def chains_text(chains: Sequence[Chain]) -> str:
    """The chains as a file: a digest, then one line each."""
    body = "".join(f"{chain.line()}\n" for chain in chains)
    return f"{_HEADER}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def read_chains(path: str | Path = SHIPPED) -> list[Chain]:
    """The chains of a file, each of which can be done.

    A file of one's own may leave out the first line with the digest. Raises SuiteError, one
    sentence, for a file that is damaged and for a chain that no state of its scene allows.
    """
    text, shown = read_text(path, SuiteError), shown_path(path)
    first, _, body = text.partition("\n")
    if first.startswith(_HEADER):
        if hashlib.sha256(body.encode()).hexdigest() != first.removeprefix(_HEADER).strip():
            raise SuiteError(f"{shown} is damaged: its lines do not have the digest of its header")
    else:
        body = text
    return [
        _read(line, f"{shown}: chain {number}")
        for number, line in enumerate(body.splitlines())
        if line.strip()
    ]


def _read(line: str, where: str) -> Chain:
    try:
        seed, drawer, things, tasks = (part.strip() for part in line.split(";"))
        if drawer not in ("open", "closed") or not seed.isdecimal() or int(seed) >= 2**32:
            raise ValueError("the seed must be a number, the drawer 'open' or 'closed'")
        names = tuple(name.strip() for name in things.split(","))
        chain = Chain(
            int(seed), drawer == "open", names, tuple(parse_task(t) for t in tasks.split(","))
        )
    except ValueError as error:
        raise SuiteError(
            f"{where} is no 'seed; open or closed; things; tasks' ({error})"
        ) from error
    try:
        require_chain(chain.start, chain.tasks, where)
    except ValueError as error:
        raise SuiteError(str(error)) from error
    return chain


def main() -> None:
    """Draws the thousand chains again, and prints the file."""
    simulator = TableTopSimulator()
    print(chains_text([draw_chain(seed, simulator) for seed in range(COUNT)]), end="")


if __name__ == "__main__":
    main()
