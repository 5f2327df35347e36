"""Reading safetensors files from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import safe_open

from vla.core.files import require_regular
from vla.core.shown import shown_path
from vla.core.text import one_line

MOST_MAPPED = 1 << 25  # Bytes of a file that are read before its mapping is renewed.


def read_tensors(path: str | Path, error: type[Exception]) -> dict[str, torch.Tensor]:
    """All tensors of a file by name. Raises `error` for a damaged one, and for NaN or infinity."""
    return dict(stream_tensors(path, error, most_bytes=math.inf))


def stream_tensors(
    path: str | Path, error: type[Exception], device: str = "cpu", most_bytes: float = MOST_MAPPED
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a file by name, one after the other; errors as of read_tensors.

    They lie in the file's mapped memory, of which no more than `most_bytes` and a tensor are
    resident where the caller keeps none of them.
    """
    names = list(read_shapes(path, error))
    while names:
        try:
            with safe_open(path, framework="pt", device=device) as tensors:
                read = 0
                while names and read < most_bytes:
                    name = names.pop(0)
                    value = tensors.get_tensor(name)
                    read += value.nbytes
                    _require_finite(path, name, value, error)
                    yield name, value
                    del value
        except error:
            raise
        except Exception as problem:  # safetensors raises its own, undocumented kind
            _refuse(path, problem, error)


def _require_finite(
    path: str | Path, name: str, value: torch.Tensor, error: type[Exception]
) -> None:
    if not value.is_floating_point() or not value.numel():
        return
    # Not isfinite() of all values, which takes as much memory again; not of one-byte types.
    numbers = value.float() if value.itemsize == 1 else value
    if not all(bound.isfinite() for bound in numbers.aminmax()):
        raise error(
            f"{shown_path(path)}: {one_line(name)} holds NaN or infinity; take an older "
            "copy, or train it again"
        )


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
