"""Whose own Python code this process may run, for models that transformers does not have.

Only who runs a program allows it: by the environment variable VLA_ALLOW_REMOTE_CODE, or in the
file of a training run for the model that the same file names. What a checkpoint holds says what
its model needs, and never allows it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from vla.core.shown import shown_path
from vla.policies.config import CheckpointError

VARIABLE = "VLA_ALLOW_REMOTE_CODE"
_allowed: set[str] = set()


def allow_remote_code(source: str) -> None:
    """Lets this process run the code of a Hugging Face id or folder."""
    _allowed.add(source)


def require_allowed(source: str) -> None:
    """Raises CheckpointError unless this process may run the code of a source."""
    listed = {entry.strip() for entry in os.environ.get(VARIABLE, "").split(",")}
    if source not in _allowed | listed:
        shown = shown_path(source)
        raise CheckpointError(
            f"the model needs Python code of {shown}, which is not allowed to run: read it, then "
            f"set the environment variable {VARIABLE}={shown}, or, to train from it, "
            "allow_remote_code: true"
        )


def located(source: str) -> tuple[str, str]:
    """What transformers calls a source, and its revision, which may stand behind an @ of an id."""
    found = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)@([\w./-]+)", source)
    if found is None or Path(source).exists():
        return source, "main"
    return found[1], found[2]


def remote_code_of(values: dict[str, Any], source: str) -> str:
    """The source if its model needs code of its own, "" for a model of transformers.

    values: its config.json. Raises CheckpointError where that code is not allowed to run.
    """
    classes = values.get("auto_map")
    if values.get("model_type") in CONFIG_MAPPING or not classes:
        return ""
    require_allowed(source)
    name, _ = located(source)
    named = classes.values() if isinstance(classes, dict) else [classes]
    flat = [str(entry) for value in named for entry in (value if type(value) is list else [value])]
    for other in {entry.partition("--")[0] for entry in flat if "--" in entry} - {name}:
        require_allowed(other)
    return source


def remote_config(source: str) -> PreTrainedConfig:
    """The configuration of a model with code of its own, which runs. Raises CheckpointError."""
    require_allowed(source)
    name, revision = located(source)
    values, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    if not remote_code_of(values, source):
        raise CheckpointError(
            f"the model needs Python code of {shown_path(source)}, which has none; take the folder "
            "or the id that it was trained from"
        )
    return AutoConfig.from_pretrained(name, trust_remote_code=True, revision=revision)
