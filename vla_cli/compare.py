"""`vla compare`: trains and evaluates a grid of policies, and says what the results decide."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vla.core.shown import shown_path
from vla_cli.errors import CommandError
from vla_cli.result_files import write_result
from vla_cli.subcommands import add_command

if TYPE_CHECKING:
    from vla.evaluation.grid import Cell, Grid

DESCRIPTION = """\
Train and evaluate every cell of a grid of structures, heads, recipes, executions and seeds, all at
equally many frames, and judge the grid's claims: confirmed, refuted or undecided. The same command
goes on wherever it was stopped or killed: trainings from their last save, cells behind their last
episode. Missing data is made first. Written in the output folder: cells/NAME/episodes.jsonl, a line
for each episode; report.json and report.txt.

examples:
  vla compare config/compare/structures.yaml --dry-run
  vla compare config/compare/structures.yaml --jobs 2
  vla compare config/compare/execution.yaml --minutes 9 --device cuda
"""


def add_parser(subparsers) -> None:
    """Adds `vla compare`."""
    parser = add_command(
        subparsers, "compare", "train and evaluate a grid of policies", DESCRIPTION, run_compare
    )
    parser.add_argument("grid", metavar="GRID.yaml", help="the grid, see docs/comparing.md")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--minutes", type=float, help="stop cleanly after so many")
    parser.add_argument(
        "--dry-run", action="store_true", help="print cells, frames and expected minutes, no more"
    )
    parser.add_argument(
        "--report", action="store_true", help="report on the episodes that are there, run nothing"
    )
    parser.add_argument("--output", help="folder (default: the grid's)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--any-code", action="store_true", help="go on with cells that other code began"
    )


def run_compare(arguments: argparse.Namespace) -> int:
    """Runs what is left of a grid, and reports."""
    if not 1 <= arguments.jobs <= 256:
        raise CommandError(f"--jobs takes 1 to 256, got {arguments.jobs}")
    if arguments.minutes is not None and not 0 < arguments.minutes < math.inf:
        raise CommandError(f"--minutes takes a positive number, got {arguments.minutes:g}")
    started = time.time()

    from vla.core.resources import given_or_shared
    from vla.evaluation.comparison_plan import keep_plan, keys_of, make_all_data, plan_of
    from vla.evaluation.comparison_run import (
        Run,
        check_cell,
        contract_of_training,
        missing_episodes,
        run_processes,
    )
    from vla.evaluation.grid import cells_of, read_grid

    path = given_or_shared(arguments.grid)
    grid = read_grid(path)
    output = Path(arguments.output or grid.output)
    cells = cells_of(grid, shown_path(path))
    trainings = list({cell.training.name: cell.training for cell in cells}.values())
    if arguments.dry_run:
        _print_plan(grid, cells, output, arguments.device)
        return 0
    if arguments.report:
        _report(grid, cells, output, shown_path(path))
        return 0
    deadline = started + 60 * arguments.minutes if arguments.minutes else math.inf
    with _alarm(deadline) as is_over:
        make_all_data(trainings, contract_of_training)
    if is_over:
        print("some data is not made yet: the same command goes on with it")
        return 0
    plan = keep_plan(plan_of(cells), output, arguments.any_code)
    run = Run(
        grid,
        cells,
        output,
        keys_of(plan),
        arguments.device,
        max(1, (os.cpu_count() or 1) // arguments.jobs),
        deadline,
        started,
        os.getpid(),
    )
    for cell in cells:
        check_cell(run, cell)
    errors = run_processes(run, arguments.jobs)
    left = sum(missing_episodes(run, cell) for cell in cells)
    _report(grid, cells, output, shown_path(path))
    if errors:
        raise CommandError("; ".join(errors))
    if left:
        print(f"\n{left} episodes are left: the same command goes on with them")
    return 0


@contextlib.contextmanager
def _alarm(deadline: float) -> Iterator[list[bool]]:
    """Ends what stands in it at a time, as Ctrl-C would; the list that it gives then has an entry.

    Making data leaves whole shards at any moment.
    """
    over: list[bool] = []

    def ring(*_: object) -> None:
        over.append(True)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        if deadline < math.inf:
            signal.setitimer(signal.ITIMER_REAL, max(deadline - time.time(), 1e-3))
        yield over
    except KeyboardInterrupt:
        if not over:
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _report(grid: Grid, cells: list[Cell], output: Path, where: str) -> None:
    """Writes and prints what the episodes so far say."""
    from vla.evaluation.comparison_report import report, report_files, table
    from vla.evaluation.episode_files import episode_file, read_lines

    lines = {cell.name: read_lines(episode_file(output, cell))[0] for cell in cells}
    content = report(grid, cells, lines, where)
    as_json, as_text = report_files(output)
    write_result(as_json, content)
    as_text.write_text(table(content) + "\n")
    print(f"{table(content)}\n\nwritten: {shown_path(as_json)}")


def _print_plan(grid: Grid, cells: list[Cell], output: Path, device: str) -> None:
    """Cells with frames and expected minutes of training, from steps that are measured now."""
    from vla.evaluation.comparison_cost import step_seconds
    from vla.evaluation.grid import episodes_of

    measured: dict[str, float | None] = {}
    total, known = 0.0, True
    print("cell                                    frames    steps  minutes of training")
    for training in {cell.training.name: cell.training for cell in cells}.values():
        own = [cell for cell in cells if cell.training is training]
        minutes = 0.0
        for part in training.parts:
            like = repr(replace(part, seed=0, steps=0))
            if like not in measured:
                measured[like] = step_seconds(part, device)
            seconds = measured[like]
            known = known and seconds is not None
            minutes += part.steps * (seconds or 0.0) / 60
        total += minutes
        steps = sum(part.steps for part in training.parts)
        for number, cell in enumerate(own):
            shown = f"{minutes:.1f}" if minutes else "not known: the data is not there yet"
            print(
                f"{cell.name:<34} {training.frames:>11} {steps:>8}  "
                f"{shown if number == 0 else 'shares the training above'}"
            )
    episodes = sum(episodes_of(cell.evaluation) for cell in cells)
    print(f"\n{len(cells)} cells in {shown_path(output)}, {episodes} episodes")
    if known:
        print(f"trainings: {total:.0f} minutes in one process, measured over a few steps here")
