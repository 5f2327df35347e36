"""`vla data convert`: from recorded bags to a LeRobot data set, and back."""

from __future__ import annotations


def add_parser(subparsers) -> None:
    """Adds the subcommand."""
