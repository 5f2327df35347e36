"""`vla data convert` and `vla data export`: from bags or RLDS to LeRobot data sets, and back."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from vla_cli.checkpoints import named_contract
from vla_cli.errors import CommandError
from vla_cli.subcommands import add_command

if TYPE_CHECKING:
    from vla.bags.conversion_report import ConversionReport
    from vla.datasets.rlds.report import RldsReport

CONVERT = """\
Turn rosbag2 episodes (MCAP or sqlite3) into a LeRobot v3.0 data set. ROS is not needed.
RLDS data sets, as Open X-Embodiment has them: vla data convert rlds --help

Each frame holds what was known at the stamp of the reference camera's image, by the code with which
the node perception makes observations. Bags that cannot be used are refused one by one, each with
the reason. The report stands in meta/conversion.json.

examples:
  vla data convert output/bags datasets/mine
  vla data convert monday tuesday/episode_3 datasets/mine --contract my_robot --images stored
"""
RLDS = """\
Turn one split of an RLDS data set, as tfds writes it, into a LeRobot v3.0 data set. tensorflow is
not needed.

Each frame holds what the mapping makes of a step, images at the contract's size. Damaged episodes
are refused one by one, each with the reason. The report stands in meta/conversion.json.

examples:
  vla data convert rlds bridge_dataset/1.0.0 datasets/bridge \\
      --contract widowx_bridge --mapping config/data/bridge_rlds.yaml
  vla data convert rlds fractal20220817_data/0.1.0 datasets/fractal \\
      --contract google_fractal --mapping config/data/fractal_rlds.yaml --episodes :100
"""
EXPORT = """\
Turn episodes of a data set that `vla data convert` wrote into rosbag2 bags, one for each, to look
at in RViz or Foxglove or with `ros2 bag play`.

examples:
  vla data export datasets/mine output/replay
  vla data export datasets/mine output/replay --episodes 10:20 --images raw
"""


def add_parser(subparsers) -> None:
    """Adds both subcommands."""
    convert = add_command(
        subparsers, "convert", "rosbag2 episodes to a LeRobot data set", CONVERT, run_convert
    )
    convert.add_argument("bags", metavar="BAGS", nargs="+", help="bags, or folders of bags")
    _add_common(convert, "embodiment contract, file or name (default: the one in the bags)")
    convert.add_argument(
        "--failures", action="store_true", help="take episodes that are labelled as failures, too"
    )
    rlds = convert.add_variant("rlds", RLDS, run_rlds)
    rlds.add_argument("source", metavar="SOURCE", help="folder with features.json")
    _add_common(rlds, "embodiment contract, file or name", required=True)
    rlds.add_argument(
        "--mapping", required=True, metavar="FILE", help="how features become the contract's"
    )
    rlds.add_argument("--split", default="train", help="(train)")
    _add_episodes(rlds)
    export = add_command(
        subparsers, "export", "a data set's episodes to rosbag2 bags", EXPORT, run_export
    )
    export.add_argument("dataset", metavar="DATASET", help="folder of the data set")
    export.add_argument("folder", metavar="BAGS_FOLDER", help="where the bags are put")
    _add_episodes(export)
    export.add_argument(
        "--images", choices=("compressed", "raw"), default="compressed", help="(compressed)"
    )


def _add_common(parser: argparse.ArgumentParser, contract: str, required: bool = False) -> None:
    """What every conversion to a data set has."""
    parser.add_argument("dataset", metavar="DATASET", help="folder to create")
    parser.add_argument("--contract", required=required, help=contract)
    parser.add_argument(
        "--images",
        choices=("video", "stored"),
        default="video",
        help="H.264 videos, or PNG images without loss (video)",
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes (default: as many as there are cores)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_episodes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--episodes", metavar="A:B", default=":", help="from A to before B (default: all)"
    )


def _chosen(episodes: str) -> slice:
    """The episodes of --episodes."""
    first, colon, last = episodes.partition(":")
    try:
        if not colon:
            raise ValueError
        return slice(int(first) if first else None, int(last) if last else None)
    except ValueError as error:
        raise CommandError(
            f"--episodes {episodes}: expected A:B, such as 10:20, :5 or 7:"
        ) from error


def _begin(workers: int) -> None:
    """Checks --workers, and lets SIGTERM end the conversion as Ctrl-C does."""
    if workers < 0:
        raise CommandError("--workers must not be negative")
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _storage(arguments: argparse.Namespace) -> str:
    """What --images means to a converter."""
    return "image" if arguments.images == "stored" else "video"


def _told(report: ConversionReport | RldsReport, what: str, arguments: argparse.Namespace) -> int:
    """Prints a report; 0 when something was kept, 1 when no `what`, a bag or an episode, was."""
    print(report.json() if arguments.json else report.table())
    if not report.kept:
        print(f"vla: no {what} was kept; {arguments.dataset} was not written", file=sys.stderr)
        return 1
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    """Converts; 0 when a bag was kept, 1 when none was."""
    from vla.bags.conversion import contract_of_bags, convert_bags, find_bags
    from vla.bags.conversion_report import EpisodeReport, Refusal
    from vla.core.shown import shown_path
    from vla.core.text import LONGEST_LINE, one_line

    def progress(result: EpisodeReport | Refusal) -> None:
        if isinstance(result, Refusal):
            print(f"refused: {one_line(result.reason, LONGEST_LINE)}", file=sys.stderr)
        else:
            said = f"kept: {shown_path(result.bag)}, {result.frames} frames"
            print(said, file=sys.stderr, flush=True)

    _begin(arguments.workers)
    bags = find_bags(arguments.bags)
    named = arguments.contract
    report = convert_bags(
        bags,
        arguments.dataset,
        named_contract(named) if named else contract_of_bags(bags),
        _storage(arguments),
        arguments.failures,
        arguments.workers,
        progress,
    )
    return _told(report, "bag", arguments)


def run_rlds(arguments: argparse.Namespace) -> int:
    """Converts an RLDS data set; 0 when an episode was kept, 1 when none was."""
    from vla.core.shown import shown_path
    from vla.core.text import LONGEST_LINE, one_line
    from vla.datasets.rlds.conversion import convert_rlds
    from vla.datasets.rlds.mapping import read_rlds_mapping
    from vla.datasets.rlds.report import ConvertedFile
    from vla.datasets.rlds.source import open_source

    def progress(file: ConvertedFile) -> None:
        for entry in file.refused:
            print(f"refused: {one_line(entry.reason, LONGEST_LINE)}", file=sys.stderr)
        said = f"{shown_path(file.path)}: {len(file.kept)} episodes kept"
        print(said, file=sys.stderr, flush=True)

    _begin(arguments.workers)
    report = convert_rlds(
        open_source(arguments.source, arguments.split, _chosen(arguments.episodes)),
        arguments.dataset,
        named_contract(arguments.contract),
        read_rlds_mapping(arguments.mapping),
        _storage(arguments),
        arguments.workers,
        progress,
    )
    return _told(report, "episode", arguments)


def run_export(arguments: argparse.Namespace) -> int:
    """Exports; the exit status."""
    from vla.bags.dataset_to_bag import export_episodes

    chosen = _chosen(arguments.episodes)
    raw = arguments.images == "raw"
    for bag in export_episodes(arguments.dataset, arguments.folder, chosen, raw):
        print(bag, flush=True)
    return 0
