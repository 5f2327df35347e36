"""Opening NumPy files from elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla.core.files import require_regular
from vla.core.shown import shown_path
from vla.core.text import one_line


def open_array(path: str | Path, error: type[Exception]) -> np.ndarray:
    """A file's array of numbers as a memory map. Raises `error`."""
    require_regular(path, error)
    try:
        array = np.load(path, mmap_mode="r")
        if array.dtype.kind not in "biuf":
            raise TypeError(f"it holds {array.dtype}, no numbers")
    except Exception as problem:  # NumPy raises whatever the bytes drive it to
        raise error(f"{shown_path(path)} cannot be read: {one_line(problem)}") from problem
    return array
