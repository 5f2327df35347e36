"""The `vla` command: talk to the robot, train and judge policies, run the demonstration."""

from vla_cli.errors import CommandError
from vla_cli.parser import main

__all__ = ["CommandError", "main"]
