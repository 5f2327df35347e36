"""What the subcommands that talk to a running graph share: options, connecting, one-line errors."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from vla_cli.errors import CommandError
from vla_cli.subcommands import add_command


def add_robot_parser(
    subparsers, name: str, summary: str, description: str, run: Callable
) -> argparse.ArgumentParser:
    """A subcommand that talks to the robot's nodes, with the options that all of them have."""
    parser = add_command(subparsers, name, summary, description, run)
    parser.add_argument(
        "--namespace", default="", metavar="NAME", help="namespace of the robot's nodes"
    )
    parser.add_argument(
        "--wait",
        type=positive_seconds,
        default=5.0,
        metavar="SECONDS",
        help="longest time for the robot's nodes to be found (default: 5)",
    )
    return parser


def positive_seconds(text: str) -> float:
    """Type of an argument that is a time."""
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def require_ros() -> None:
    """Raises CommandError, with what is missing and how to get it, where ROS is not on the path."""
    try:
        import rclpy  # noqa: F401
        import vla_ros.msg  # noqa: F401
    except ImportError as error:
        raise CommandError(
            f"this command needs ROS 2 and the messages of vla_ros, which are not on the path "
            f"({error}): in a checkout run 'make setup' once and 'source ./env.sh'; elsewhere "
            "source the workspace in which vla_ros was built"
        ) from error


def connected(call: Callable) -> Callable[[argparse.Namespace], int]:
    """A function of the arguments that runs `call(client_module, client, arguments)`.

    The client is a vla_nodes.client.graph.RobotClient. What fails on the way to the graph is raised
    as CommandError with one line.
    """

    def run(arguments: argparse.Namespace) -> int:
        require_ros()
        from vla_nodes.client import graph as ros_client

        try:
            with ros_client.RobotClient(arguments.namespace, arguments.wait) as client:
                return call(ros_client, client, arguments)
        except ros_client.UnreachableError as error:
            raise CommandError(str(error)) from error

    return run
