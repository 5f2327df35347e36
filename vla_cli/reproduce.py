"""`vla reproduce`: the tables of a paper, what they take, and the commands that measure them."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cli.errors import CommandError
from vla_cli.subcommands import add_command

if TYPE_CHECKING:
    from vla.evaluation.reproduction import Table

DESCRIPTION = """\
Show or measure the tables of a paper: which checkpoints, data, benchmarks and commands each takes,
and for how many hours, as far as the paper says. Before a command runs, everything that the table
needs must be there. A command whose results are there already is not run again.

examples:
  vla reproduce instructvla                          the tables of InstructVLA's paper
  vla reproduce instructvla --table 2 --dry-run      what table 2 takes, and what is missing
  vla reproduce instructvla --table 14               measures table 14
"""


def add_parser(subparsers) -> None:
    """Adds `vla reproduce`."""
    parser = add_command(
        subparsers, "reproduce", "measure the tables of a paper", DESCRIPTION, run_reproduce
    )
    parser.add_argument("system", metavar="SYSTEM", help="instructvla, or a YAML file like its own")
    parser.add_argument("--table", metavar="N", help="its number, or name (default: list them)")
    parser.add_argument(
        "--dry-run", action="store_true", help="show what it takes and what is missing, run nothing"
    )


def run_reproduce(arguments: argparse.Namespace) -> int:
    """Lists, shows or runs."""
    from vla.core.findings import report, verdict
    from vla.evaluation.reproduction import OUTPUT, check_table, read_paper, table_text

    paper = read_paper(arguments.system)
    if arguments.table is None:
        print(paper.paper)
        for number, entry in paper.tables.items():
            print(f"  {number:<7} {entry.title}")
        return 0
    table = paper.table(arguments.table)
    output = f"{OUTPUT}/{Path(arguments.system).stem}/{arguments.table}"
    print(table_text(arguments.table, table, paper.needs, output))
    findings = check_table(paper, table)
    if findings:
        print(f"\n{report(findings)}")
    if arguments.dry_run:
        return 0
    if not verdict(findings)["ready"]:
        raise CommandError(
            f"table {arguments.table} needs what is missing above: get it, or show the commands "
            "alone with --dry-run"
        )
    return _run(table, output)


def _run(table: Table, output: str) -> int:
    for step in table.steps:
        for command in step.commands(output):
            words = shlex.split(command)
            if step.by_hand:
                print(f"\nby hand, {step.by_hand}: {command}", flush=True)
            elif (results := results_of(words)) is not None and results.exists():
                print(f"\n{results} is there: {command}", flush=True)
            else:
                print(f"\n{command}", flush=True)
                if results is not None:
                    results.parent.mkdir(parents=True, exist_ok=True)
                if status := subprocess.run(runnable(words)).returncode:
                    raise CommandError(f"'{command}' ended with status {status}", 1)
    return 0


def results_of(words: list[str]) -> Path | None:
    """The file that a command writes with --json; None for one that writes none."""
    return Path(words[words.index("--json") + 1]) if "--json" in words else None


def runnable(words: list[str]) -> list[str]:
    """The words of a command, `vla` or `python`, run by the interpreter that runs this."""
    program = {"vla": [sys.executable, "-m", "vla_cli"], "python": [sys.executable]}
    if words[0] not in program:
        raise CommandError(f"'{words[0]}' is none of vla and python: run it by hand")
    return [*program[words[0]], *words[1:]]
