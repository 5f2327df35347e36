"""Adds a subcommand to the command line, with its description shown as it was written."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any


class CommandParser(argparse.ArgumentParser):
    """A subcommand whose first argument may be a word that stands for a parser of its own."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.variants: dict[str, argparse.ArgumentParser] = {}

    def add_variant(self, word: str, description: str, run: Callable) -> argparse.ArgumentParser:
        """Adds and returns the parser of a word; see add_command()."""
        variant = argparse.ArgumentParser(
            prog=f"{self.prog} {word}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        variant.set_defaults(run=run)
        self.variants[word] = variant
        return variant

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As of any parser, or that of the first word."""
        if args and args[0] in self.variants:
            return self.variants[args[0]].parse_known_args(args[1:], namespace)
        return super().parse_known_args(args, namespace)


def add_command(
    subparsers, name: str, summary: str, description: str, run: Callable | None = None
) -> CommandParser:
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
