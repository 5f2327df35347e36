"""Finds the checkpoint that a command was given."""

from __future__ import annotations

from pathlib import Path

from vla.core.resources import given_or_shared
from vla.core.shown import shown_path
from vla_cli.errors import CommandError


def checkpoint_folder(given: str | Path) -> Path:
    """The folder of a checkpoint given by its path, or of a shipped one.

    Raises CommandError where there is none. `pip install` brings no checkpoints along.
    """
    folder = given_or_shared(given)
    if not folder.is_dir():
        raise CommandError(
            f"there is no checkpoint {shown_path(folder)}: give one with --checkpoint, or make one "
            "with 'vla train'; the shipped ones are in checkpoints/ of the source repository"
        )
    return folder
