"""`vla launch`: runs a launch file, with or without `ros2 launch` on the machine."""

from __future__ import annotations

import argparse

from vla_cli.subcommands import add_command

DESCRIPTION = """\
Run a launch file of this package, or any XML launch file, with name:=value arguments.
The file is the one that 'ros2 launch vla_ros FILE' takes; this launcher needs no ros2 command.

examples:
  vla launch sim.launch.xml
  vla launch sim.launch.xml --show-args
  vla launch bringup.launch.xml checkpoint:=checkpoints/nano
"""


def add_parser(subparsers) -> None:
    """Adds `vla launch`."""
    parser = add_command(subparsers, "launch", "run a launch file", DESCRIPTION, run_launch)
    parser.add_argument(
        "launch_arguments",
        nargs=argparse.REMAINDER,
        metavar="FILE [--show-args] [NAME:=VALUE ...]",
        help="launch file and its arguments",
    )


def run_launch(arguments: argparse.Namespace) -> int:
    """Hands the rest of the command line to the launcher."""
    from vla_nodes import launcher

    return launcher.main(arguments.launch_arguments)
