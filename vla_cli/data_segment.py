"""`vla data segment`: demonstrations cut into atomic actions."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_cli.errors import CommandError
from vla_cli.overrides import overridden
from vla_cli.segmented import open_named
from vla_cli.subcommands import add_command

SEGMENT = """\
Cut the episodes of a data set into atomic actions (LA4VLA), each with an instruction that needs no
image: grasp, place, lift, lower, transport, move and others, with directions in the base frame.
SOURCE is a LeRobot data set, a folder of bags or one of simulated shards; it stays as it is. OUT
gets segments.json.

--rules needs no model: it cuts where the gripper moves, where the arm rests, and where what moves
most changes. Its numbers are in metres and seconds; --set changes one.

examples:
  vla data segment datasets/mine output/segments --rules
  vla data segment output/bags output/segments --rules --contract fr3
  vla data segment datasets/theirs output/segments --rules --contract fr3 --mapping theirs.yaml
  vla data segment datasets/mine output/segments --rules --set shortest=0.6
"""


def add_parser(commands) -> None:
    """Adds the subcommand."""
    parser = add_command(
        commands, "segment", "cut demonstrations into atomic actions", SEGMENT, run_segment
    )
    parser.add_argument("source", metavar="SOURCE", help="folder of the data set, or of bags")
    parser.add_argument("out", metavar="OUT", help="folder for segments.json")
    parser.add_argument("--rules", action="store_true", required=True, help="cut by rules")
    parser.add_argument(
        "--contract", default="", help="embodiment contract (default: the data set's own)"
    )
    parser.add_argument("--mapping", default="", help="YAML file for LeRobot sets of others")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="other numbers for the rules"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace segments that are there already"
    )


def run_segment(arguments: argparse.Namespace) -> int:
    """Cuts, writes and prints."""
    from vla.core.configuration import read_dataclass
    from vla.core.shown import shown_path
    from vla.language_action.rules import RuleConfig
    from vla.language_action.segments import SEGMENTS_FILE, write_segmentation

    path = Path(arguments.out) / SEGMENTS_FILE
    if not path.parent.is_dir() and (path.parent.exists() or path.parent.is_symlink()):
        raise CommandError(f"{shown_path(path.parent)} is no folder")
    if path.is_dir() or (path.exists() and not arguments.overwrite):
        raise CommandError(f"{shown_path(path)} is there already; --overwrite replaces a file")
    given = overridden({}, arguments.set, CommandError)
    config = read_dataclass(RuleConfig, given, "--set", CommandError)

    # Later, since all kinds of data bring much with them.
    from vla.language_action.clips import with_origin
    from vla.language_action.segmentation import report_text, segment_data_set

    episodes = open_named(arguments.source, arguments.contract, arguments.mapping)
    segmentation, report = segment_data_set(episodes, arguments.source, config)
    segmentation = with_origin(segmentation, episodes, arguments.contract, arguments.mapping)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_segmentation(segmentation, path)
    print(f"{report_text(report)}\nwritten: {shown_path(path)}")
    return 0
