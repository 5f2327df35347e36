"""`vla data`: recorded episodes; each subcommand has its own module."""

from __future__ import annotations

from vla_cli import data_annotate, data_check, data_convert, data_segment, data_verify
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Check data sets, turn recorded episodes into them, annotate them, cut them into atomic actions, and
play them back.

examples:
  vla data check datasets/mine --contract fr3     what would keep it from being trained on
  vla data convert output/bags datasets/mine      rosbag2 episodes to a LeRobot data set
  vla data annotate datasets/mine --truth         what the robot could be asked, in words
  vla data segment datasets/mine output/segments --rules   atomic actions, with instructions
  vla data export datasets/mine output/replay     back to bags, for RViz or Foxglove
"""
COMMAND_MODULES = (data_check, data_convert, data_annotate, data_segment, data_verify)


def add_parser(subparsers) -> None:
    """Adds `vla data` with its subcommands."""
    parser = add_command(
        subparsers, "data", "check, convert, annotate and play back recorded episodes", DESCRIPTION
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMAND_MODULES:
        module.add_parser(commands)
