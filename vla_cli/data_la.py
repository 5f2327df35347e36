"""`vla data la`: language-action data sets of segments, without images and with them."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_cli.result_files import require_writable, write_result
from vla_cli.segmented import open_source
from vla_cli.subcommands import add_command

LA = """\
Write the segments of OUT that were kept by `vla data verify`, or all where nobody has rated any,
as a LeRobot data set without images: each segment an episode, with its instruction, states and
actions. Training reads it as samples without vision. Its twin, DATASET_images, has the same
episodes with images. In meta/ of both are language_action.json, with the figures that are printed,
and coverage.svg, a chart of the segments by primitive and direction.

examples:
  vla data la output/segments datasets/la
  vla data la output/segments datasets/la --no-twin --unrated
"""


def add_parser(commands) -> None:
    """Adds the subcommand."""
    parser = add_command(
        commands, "la", "write segments as data sets without and with images", LA, run_la
    )
    parser.add_argument("out", metavar="OUT", help="folder with segments.json")
    parser.add_argument("dataset", metavar="DATASET", help="folder to create")
    parser.add_argument("--no-twin", action="store_true", help="only the data set without images")
    parser.add_argument(
        "--unrated", action="store_true", help="also segments that nobody rated, where others were"
    )
    parser.add_argument(
        "--source", default="", help="where the data that were cut lie now, if they were moved"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")


def run_la(arguments: argparse.Namespace) -> int:
    """Writes and prints."""
    from tqdm import tqdm

    from vla.core.shown import shown_path
    from vla.language_action.la_data import TWIN_SUFFIX, write_la_data
    from vla.language_action.segments import read_segmentation

    require_writable(arguments.json)
    segmentation = read_segmentation(arguments.out)
    dataset = open_source(segmentation, arguments.source)
    folder = Path(arguments.dataset)
    twin = None if arguments.no_twin else folder.with_name(folder.name + TWIN_SUFFIX)
    with tqdm(unit="episode", disable=None) as bar:
        report = write_la_data(
            segmentation, dataset, folder, twin, arguments.unrated, lambda: bar.update() and None
        )
    if not segmentation.is_rated:
        print("nobody has rated these segments: all of them are taken")
    print(report.text())
    print("written: " + " and ".join(shown_path(path) for path in (folder, twin) if path))
    if arguments.json:
        write_result(arguments.json, report.values())
    return 0
