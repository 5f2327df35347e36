"""The options by which commands are given a checkpoint or a contract, and what they name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vla.core.resources import given_or_shared
from vla.core.shown import shown_path
from vla.policies.inference_dtype import DTYPES
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


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Adds --device and --dtype: where a policy acts, and in which number type."""
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="of the policy's weights (auto: bfloat16 on a GPU, float32 on a CPU)",
    )


def named_contract(given: str) -> EmbodimentContract:
    """An embodiment contract by its file or its name. Raises CommandError where it is unusable."""
    from vla.contract.embodiment import load_contract
    from vla.core.resources import contract_path

    try:
        return load_contract(contract_path(given))
    except ValueError as error:
        raise CommandError(str(error)) from error
