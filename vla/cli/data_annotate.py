"""`vla data annotate`: describes episodes in words."""

from __future__ import annotations


def add_parser(subparsers) -> None:
    """Adds the subcommand."""
