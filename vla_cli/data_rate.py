"""`vla data rate`: people rate the answers of two checkpoints, blind."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_cli.errors import CommandError
from vla_cli.result_files import require_writable, write_report
from vla_cli.subcommands import add_command

RATE = """\
Have people rate the answers of two checkpoints. --page takes two reports of `vla eval --answers`
and writes into OUT a page that needs no network: image, question, reference, and both answers in a
random order, each to be marked right, partly right or wrong. The page saves a table (CSV). Which
answer is whose is in rate_key.json, which raters should not see. --apply takes the tables of all
raters, and prints the mean of each checkpoint, their difference with its 95% interval, and how the
raters agree (Krippendorff's alpha).

examples:
  vla data rate output/rate --page output/answers_one.json output/answers_two.json
  vla data rate output/rate --apply ratings_anna.csv ratings_ben.csv --json output/rated.json
"""


def add_parser(commands) -> None:
    """Adds the subcommand."""
    parser = add_command(
        commands, "rate", "have people rate the answers of two checkpoints", RATE, run_rate
    )
    parser.add_argument("out", metavar="OUT", help="folder of the page and its key")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--page", nargs=2, metavar="REPORT", help="write the page for two reports")
    what.add_argument("--apply", nargs="+", metavar="TABLE", help="tables of all raters")
    parser.add_argument("--seed", type=int, default=0, help="by which the order is drawn (0)")
    parser.add_argument("--json", metavar="FILE", help="write what --apply found there")


def run_rate(arguments: argparse.Namespace) -> int:
    """Writes the page, or reads its tables."""
    return (_page if arguments.page else _apply)(arguments)


def _page(arguments: argparse.Namespace) -> int:
    from vla.core.shown import shown_path
    from vla.evaluation.answer_ratings import write_rating_page
    from vla.evaluation.answer_texts import read_answers

    if arguments.json:
        raise CommandError("--json goes with --apply")
    if arguments.seed < 0:
        raise CommandError("--seed takes numbers from 0 on")
    one, other = ((Path(file).stem, read_answers(file)) for file in arguments.page)
    page, key = write_rating_page(one, other, arguments.out, arguments.seed)
    print(f"written: {shown_path(page)} (open it in a browser), and its key {shown_path(key)}")
    return 0


def _apply(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from vla.evaluation.answer_ratings import rating_text, read_rating_tables

    require_writable(arguments.json)
    report = read_rating_tables(arguments.out, arguments.apply)
    print(rating_text(report))
    write_report(arguments.json, asdict(report))
    return 0
