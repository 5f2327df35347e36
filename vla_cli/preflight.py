"""`vla preflight`: checks a robot before anything moves, and says what to fix."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_cli.connection import positive_seconds, require_ros
from vla_cli.errors import CommandError
from vla_cli.result_files import require_writable, write_result
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Check a running robot before anything moves: topics, types, rates, QoS, time offsets, images,
joints, frames, limits, the receivers of commands, our own nodes, contract and checkpoint. Nothing
is commanded.

examples:
  vla preflight --robot fr3 --checkpoint runs/fr3 --device cuda
  vla preflight --robot fr3 --backend cartesian_pose --gripper gripper_command
  vla preflight --robot sim_panda --use-sim-time --checkpoint checkpoints/nano

exit status: 0 nothing is wrong, 1 problems were found, 2 the check could not run
"""


def add_parser(subparsers) -> None:
    """Adds the subcommand."""
    parser = add_command(
        subparsers, "preflight", "check a robot before anything moves", DESCRIPTION, run
    )
    parser.add_argument(
        "--robot", default="sim_panda", help="names contract and parameters (%(default)s)"
    )
    parser.add_argument("--contract", default="", help="embodiment contract (default: the robot's)")
    parser.add_argument(
        "--params-file", type=Path, help="the controller's parameters (default: the robot's)"
    )
    for name in ("backend", "gripper", "monitor"):
        parser.add_argument(
            f"--{name}", default="", help=f"the controller's {name} (default: that of the file)"
        )
    parser.add_argument("--checkpoint", default="", help="policy: its folder")
    parser.add_argument("--adapter", default="", help="adapter: its folder")
    parser.add_argument("--device", default="cpu", help="where the models will run (%(default)s)")
    parser.add_argument("--compressed", action="store_true", help="cameras send compressed images")
    parser.add_argument("--use-sim-time", action="store_true", help="take simulated time")
    parser.add_argument(
        "--clock-topic",
        default="/clock",
        help="where it comes from; clock is the one of the namespace (%(default)s)",
    )
    parser.add_argument("--namespace", default="", help="of the graph's nodes")
    parser.add_argument(
        "--seconds", type=positive_seconds, default=5.0, help="how long to measure (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there, too")


def run(arguments: argparse.Namespace) -> int:
    """Checks and prints."""
    require_ros()
    from vla.core.findings import report, verdict
    from vla_nodes.preflight.run import preflight

    require_writable(arguments.json)
    try:
        findings = preflight(arguments)
    except ValueError as error:
        raise CommandError(str(error)) from error
    print(report(findings))
    judged = verdict(findings)
    if arguments.json:
        write_result(arguments.json, judged)
    return 0 if judged["ready"] else 1
