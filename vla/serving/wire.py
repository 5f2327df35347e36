"""Messages as bytes: MessagePack, with NumPy arrays as openpi's clients write them.

An array is a map of four entries whose keys are byte strings: `__ndarray__` (true), `data` (its
bytes in C order), `dtype` (such as "<f4") and `shape`; a NumPy scalar is `__npgeneric__` (true),
`data` (the number) and `dtype`. Only numbers and booleans travel so, never objects: nothing here
runs code that a message names.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from vla.core.shown import brief
from vla.core.text import one_line

ARRAY, SCALAR = b"__ndarray__", b"__npgeneric__"
KINDS = "biuf"  # booleans, integers, floating-point numbers
MOST_DIMENSIONS = 8


class WireError(ValueError):
    """Bytes that are no message, in one sentence."""


def pack(values: Any) -> bytes:
    """Lists, dictionaries, texts, numbers, bytes and arrays as bytes."""
    return msgpack.packb(values, default=_as_map)


def unpack(content: bytes) -> Any:
    """What pack() was given: arrays read-only, scalars as plain numbers. Raises WireError."""
    try:
        return msgpack.unpackb(content, object_hook=_from_map)
    except WireError:
        raise
    except Exception as error:
        # Damaged bytes make the reader raise many kinds.
        raise WireError(
            f"the message is no MessagePack ({one_line(error) or type(error).__name__}); send what "
            "openpi_client or msgpack_numpy packs"
        ) from None


def _as_map(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in KINDS:
        if isinstance(value, np.ndarray):
            name, data = ARRAY, value.tobytes()
            return {name: True, b"data": data, b"dtype": value.dtype.str, b"shape": value.shape}
        return {SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a message can't hold {brief(value)}")


def _from_map(values: dict) -> Any:
    if ARRAY in values:
        return _array(values)
    if SCALAR in values:
        try:
            return _dtype(values).type(values.get(b"data")).item()
        except (TypeError, ValueError, OverflowError):
            raise WireError(f"a scalar of {brief(values.get(b'data'))} can't be read") from None
    return values


def _array(values: dict) -> np.ndarray:
    dtype, data, shape = _dtype(values), values.get(b"data"), values.get(b"shape")
    if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS:
        raise WireError(f"an array has the shape {brief(shape)}; send a list of sizes")
    if not all(isinstance(size, int) and 0 <= size < 2**31 for size in shape):
        raise WireError(f"an array has the shape {brief(shape)}; sizes are whole numbers")
    count = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != count:
        sent = f"{len(data)} bytes" if isinstance(data, bytes) else brief(data)
        raise WireError(f"an array {shape} of {dtype} takes {count} bytes, got {sent}")
    return np.frombuffer(data, dtype).reshape(shape)


def _dtype(values: dict) -> np.dtype:
    name = values.get(b"dtype")
    try:
        # Only what an array calls itself, since NumPy reads many other texts as types.
        found = np.dtype(name) if isinstance(name, str) and len(name) < 8 else None
    except (TypeError, ValueError):
        found = None
    if found is None or found.kind not in KINDS:
        raise WireError(f"an array is of type {brief(name)}; send numbers or booleans")
    return found
