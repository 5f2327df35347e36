"""`vla adapter`: load an adapter into the running policy, and drop it again."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_cli.connection import add_robot_parser, connected, positive_seconds
from vla_cli.errors import CommandError
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Change what the running policy has learned, without restarting a node.

examples:
  vla adapter load output/finetune/adapter    the adapter of 'vla finetune', in place of any other
  vla adapter drop                            back to the checkpoint as it is

The arm holds while it loads; the instruction in force continues afterwards.

exit status: 0 done, 1 refused (what was loaded before stays), 2 the robot did not answer
"""
LOAD = """\
Load an adapter into the running policy, in place of the current one. The arm holds while it loads.
"""
DROP = """\
Go back to the checkpoint without an adapter. The arm holds while it changes.
"""


def add_parser(subparsers) -> None:
    """Adds the subcommand and its own subcommands."""
    parser = add_command(
        subparsers, "adapter", "load an adapter into the running policy, or drop it", DESCRIPTION
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    load = _add(actions, "load", LOAD, lambda arguments: absolute(arguments.folder))
    load.add_argument("folder", help="folder of the adapter, on the machine of the model nodes")
    _add(actions, "drop", DROP, lambda arguments: "")


def _add(actions, name: str, description: str, path_of) -> argparse.ArgumentParser:
    def run(ros_client, client, arguments: argparse.Namespace) -> int:
        answer = client.load_adapter(path_of(arguments), arguments.timeout)
        if not answer.success:
            raise CommandError(answer.message, exit_status=1)
        print(answer.message)
        return 0

    parser = add_robot_parser(actions, name, description.strip(), description, connected(run))
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=180.0,
        metavar="SECONDS",
        help="longest time to wait for the answer (default: 180)",
    )
    return parser


def absolute(folder: str) -> str:
    """The absolute path of a folder that exists here; others may exist where the nodes run."""
    return str(Path(folder).resolve()) if Path(folder).exists() else folder
