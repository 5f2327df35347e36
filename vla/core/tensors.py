"""Reading safetensors files from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from vla.core.files import require_regular
from vla.core.shown import shown_path
from vla.core.text import one_line


def read_tensors(path: str | Path, error: type[Exception]) -> dict[str, torch.Tensor]:
    """All tensors of a file by name. Raises `error` for a damaged one, and for NaN or infinity."""
    require_regular(path, error)
    try:
        tensors = load_file(path)
    except Exception as problem:  # safetensors raises its own, undocumented kind
        _refuse(path, problem, error)
    for name, value in tensors.items():
        # isfinite() is not defined for one-byte types.
        numbers = value.float() if value.itemsize == 1 else value
        if value.is_floating_point() and not numbers.isfinite().all():
            raise error(
                f"{shown_path(path)}: {one_line(name)} holds NaN or infinity; take an older "
                "copy, or train it again"
            )
    return tensors


def read_shapes(path: str | Path, error: type[Exception]) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors by name, from its header alone. Raises `error`."""
    require_regular(path, error)
    try:
        with safe_open(path, framework="pt") as tensors:
            names = tensors.keys()
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    except Exception as problem:  # safetensors raises its own, undocumented kind
        _refuse(path, problem, error)


def _refuse(path: str | Path, problem: Exception, error: type[Exception]) -> NoReturn:
    raise error(
        f"{shown_path(path)} cannot be read: {one_line(problem)}; copy it again, or take another"
    ) from problem
