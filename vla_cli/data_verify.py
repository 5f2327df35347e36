"""`vla data verify`: people rate segments, and what they find good enough is kept."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_cli.errors import CommandError
from vla_cli.result_files import require_writable, write_result
from vla_cli.segmented import open_source
from vla_cli.subcommands import add_command

VERIFY = """\
Have people rate the segments that `vla data segment` wrote into OUT. --page writes a page that
needs no network: the clip of each segment in a loop, its label and its instruction; keys 0 to 3
rate the quality, a, s and d the confidence, and the page saves a table (CSV). --apply takes the
tables of all annotators over, prints how they agree (Krippendorff's alpha), and keeps in
segments.json the segments of an average quality of at least 2. It replaces what was kept before.

examples:
  vla data verify output/segments --page output/verify.html
  vla data verify output/segments --page output/verify.html --limit 300 --annotators 3 --share 0.2
  vla data verify output/segments --apply ratings_anna.csv ratings_ben.csv --json output/kept.json
"""


def add_parser(commands) -> None:
    """Adds the subcommand."""
    parser = add_command(
        commands, "verify", "have people rate segments, and keep the good ones", VERIFY, run_verify
    )
    parser.add_argument("out", metavar="OUT", help="folder with segments.json")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--page", metavar="FILE", help="write the page there, its clips beside it")
    what.add_argument("--apply", nargs="+", metavar="TABLE", help="tables of all annotators")
    page = parser.add_argument_group("with --page")
    page.add_argument("--camera", default="", help="whose images are shown (all)")
    page.add_argument("--limit", type=int, default=0, help="only so many segments (all)")
    page.add_argument(
        "--annotators", type=int, default=1, help="a page for each, the segments divided (1)"
    )
    page.add_argument(
        "--share", type=float, default=0.2, help="of the segments that two of them rate (0.2)"
    )
    page.add_argument("--seed", type=int, default=0, help="by which segments are drawn (0)")
    page.add_argument("--source", default="", help="where the data set lies now, if it was moved")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what --apply found there")


def run_verify(arguments: argparse.Namespace) -> int:
    """Writes pages, or takes tables over."""
    from vla.language_action.segments import read_segmentation

    segmentation = read_segmentation(arguments.out)
    return (_page if arguments.page else _apply)(arguments, segmentation)


def _page(arguments: argparse.Namespace, segmentation) -> int:
    from vla.core.shown import shown_path
    from vla.language_action.verification_page import Assignment, write_pages

    if arguments.json:
        raise CommandError("--json goes with --apply")
    if arguments.limit < 0 or arguments.seed < 0 or not 1 <= arguments.annotators <= 100:
        raise CommandError("--limit and --seed take numbers from 0 on, --annotators 1 to 100")
    if not 0 <= arguments.share <= 1:
        raise CommandError("--share takes a number from 0 to 1")
    people = arguments.annotators
    assignment = Assignment(arguments.limit, people, arguments.share, arguments.seed)
    dataset = open_source(segmentation, arguments.source)
    pages = write_pages(segmentation, dataset, arguments.page, arguments.camera, assignment)
    for page, count in pages.items():
        print(f"written: {shown_path(page)} (open it in a browser), {count} segments")
    if people > 1:
        print(
            f"two annotators rate {arguments.share:.0%} of them, drawn by the seed {arguments.seed}"
        )
    return 0


def _apply(arguments: argparse.Namespace, segmentation) -> int:
    from dataclasses import asdict

    from vla.core.shown import shown_path
    from vla.language_action.segments import SEGMENTS_FILE, write_segmentation
    from vla.language_action.verification import read_tables, verification_text, verified

    require_writable(arguments.json)
    ratings = read_tables(arguments.apply, segmentation)
    segmentation, report = verified(segmentation, ratings)
    path = Path(arguments.out)
    path = path / SEGMENTS_FILE if path.is_dir() else path
    write_segmentation(segmentation, path)
    if arguments.json:
        write_result(arguments.json, asdict(report))
    print(f"{verification_text(report)}\nwritten: {shown_path(path)}")
    return 0
