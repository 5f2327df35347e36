"""`vla data`: recorded episodes; each subcommand has its own module."""

from __future__ import annotations

from vla_cli import (
    data_annotate,
    data_check,
    data_convert,
    data_la,
    data_rate,
    data_segment,
    data_verify,
)
from vla_cli.subcommands import CommandParser, add_command

DESCRIPTION = """\
Check data sets, turn recorded episodes into them, annotate them, cut them into atomic actions, have
people verify these, write them as data sets of their own, and play episodes back.

examples:
  vla data check datasets/mine --contract fr3     what would keep it from being trained on
  vla data convert output/bags datasets/mine      rosbag2 episodes to a LeRobot data set
  vla data convert rlds bridge_dataset/1.0.0 datasets/bridge --contract widowx_bridge \\
      --mapping config/data/bridge_rlds.yaml      Open X-Embodiment to the same
  vla data annotate datasets/mine --truth         what the robot could be asked, in words
  vla data rate output/rate --page output/one.json output/two.json   answers, for people to rate
  vla data segment datasets/mine output/segments --rules   atomic actions, with instructions
  vla data verify output/segments --page output/verify.html   a page on which people rate them
  vla data la output/segments datasets/la         the kept ones, without images and with them
  vla data export datasets/mine output/replay     back to bags, for RViz or Foxglove
"""
COMMAND_MODULES = (
    data_check,
    data_convert,
    data_annotate,
    data_rate,
    data_segment,
    data_verify,
    data_la,
)


def add_parser(subparsers) -> None:
    """Adds `vla data` with its subcommands."""
    parser = add_command(
        subparsers, "data", "check, convert, annotate and play back recorded episodes", DESCRIPTION
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=CommandParser
    )
    for module in COMMAND_MODULES:
        module.add_parser(commands)
