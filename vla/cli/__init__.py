"""The `vla` command: talk to the robot, train and judge policies, run the demonstration."""

from vla.cli.errors import CommandError
from vla.cli.parser import main

__all__ = ["CommandError", "main"]
