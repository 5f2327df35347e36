"""`vla data`: what is done with recorded episodes; its subcommands have modules of their own."""

from __future__ import annotations

import argparse

from vla.cli import data_annotate, data_convert

DESCRIPTION = """\
Turn recorded episodes into data sets, annotate them, and play data sets back.

examples:
  vla data convert output/bags datasets/mine      rosbag2 episodes to a LeRobot data set
  vla data annotate datasets/mine --truth         what the robot could be asked, in words
  vla data export datasets/mine output/replay     back to bags, for RViz or Foxglove
"""
COMMAND_MODULES = (data_convert, data_annotate)


def add_parser(subparsers) -> None:
    """Adds `vla data` with its subcommands."""
    parser = subparsers.add_parser(
        "data",
        help="convert, annotate and play back recorded episodes",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMAND_MODULES:
        module.add_parser(commands)
