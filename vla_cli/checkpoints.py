"""Finds the checkpoint or contract that a command was given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vla.core.resources import given_or_shared
from vla.core.shown import shown_path
from vla_cli.errors import CommandError

if TYPE_CHECKING:
    from vla.contract.embodiment import EmbodimentContract


def checkpoint_folder(given: str | Path) -> Path:
    """The folder of a checkpoint given by its path, or of a shipped one.

    Raises CommandError where there is none; `pip install` installs none.
    """
    folder = given_or_shared(given)
    if not folder.is_dir():
        raise CommandError(
            f"there is no checkpoint {shown_path(folder)}: give one with --checkpoint, or make one "
            "with 'vla train'; the shipped ones are in checkpoints/ of the source repository"
        )
    return folder


def named_contract(given: str) -> EmbodimentContract:
    """An embodiment contract by its file or its name. Raises CommandError where it is unusable."""
    from vla.contract.embodiment import load_contract
    from vla.core.resources import contract_path

    try:
        return load_contract(contract_path(given))
    except ValueError as error:
        raise CommandError(str(error)) from error
