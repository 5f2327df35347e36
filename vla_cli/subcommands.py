"""Adds a subcommand to the command line, with its description shown as it was written."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def add_command(
    subparsers, name: str, summary: str, description: str, run: Callable | None = None
) -> argparse.ArgumentParser:
    """Adds a subcommand and returns its parser.

    run: takes the parsed arguments and returns the exit status; None where it has subcommands.
    """
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser
