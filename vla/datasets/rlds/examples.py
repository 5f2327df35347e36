"""tf.train.Example messages: named lists of bytes, floats or whole numbers.

The wire format of protocol buffers, as far as this message needs it: an Example holds Features (1),
these a map (1) of entries from key (1) to Feature (2), which holds a BytesList (1), a FloatList (2)
or an Int64List (3) of values (1). Only wanted entries are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np

from vla.datasets.frames import DatasetError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
Values = list[bytes] | np.ndarray


class _BrokenMessage(ValueError):
    """Bytes that are no such message."""


def read_example(record: bytes, wanted: Collection[str]) -> dict[str, Values]:
    """The wanted entries of an Example: lists of bytes, or arrays float32 or int64 [N].

    Entries that it lacks are left out. Raises DatasetError where the bytes are no Example.
    """
    found: dict[str, Values] = {}
    try:
        for field, features in _fields(memoryview(record)):
            if field != 1 or not isinstance(features, memoryview):
                continue
            for kind, entry in _fields(features):
                if kind == 1 and isinstance(entry, memoryview):
                    _take(entry, wanted, found)
    except _BrokenMessage as error:
        raise DatasetError(f"it is no tf.train.Example ({error}); fetch the file again") from error
    return found


def _take(entry: memoryview, wanted: Collection[str], found: dict[str, Values]) -> None:
    """Adds one entry of the map, if it is wanted."""
    key, feature = "", memoryview(b"")
    for field, value in _fields(entry):
        if not isinstance(value, memoryview):
            continue
        if field == 1:
            key = bytes(value).decode("utf-8", "replace")
        elif field == 2:
            feature = value
    if key not in wanted:
        return
    for kind, values in _fields(feature):
        if isinstance(values, memoryview) and kind in _READERS:
            found[key] = _READERS[kind](values)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field of a message; a varint is a number."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == _VARINT:
            number, place = _varint(data, place)
            yield tag >> 3, number
            continue
        if kind == _BYTES:
            size, place = _varint(data, place)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise _BrokenMessage(f"a field has the unknown type {kind}")
        if place + size > len(data):
            raise _BrokenMessage("a field ends behind its message")
        yield tag >> 3, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """A whole number and the place behind it."""
    value = 0
    for index in range(_LONGEST_VARINT):
        if place + index >= len(data):
            break
        byte = data[place + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise _BrokenMessage("a number has no end")


def _bytes_list(data: memoryview) -> list[bytes]:
    return [bytes(v) for field, v in _fields(data) if field == 1 and isinstance(v, memoryview)]


def _float_list(data: memoryview) -> np.ndarray:
    """Packed or one by one."""
    parts = [v for field, v in _fields(data) if field == 1 and isinstance(v, memoryview)]
    if any(len(part) % 4 for part in parts):
        raise _BrokenMessage("a list of floats is cut off")
    return np.frombuffer(b"".join(parts), "<f4")


def _int64_list(data: memoryview) -> np.ndarray:
    """Packed or one by one."""
    parts = [
        _packed(value)
        if isinstance(value, memoryview)
        else np.array([value % 2**64], np.uint64).view(np.int64)
        for field, value in _fields(data)
        if field == 1
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _packed(data: memoryview) -> np.ndarray:
    """Varints one behind the other, int64 [N]."""
    octets = np.frombuffer(data, np.uint8)
    if not len(octets):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(octets < 0x80)
    begins = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else np.zeros(0, int)
    lengths = ends - begins + 1
    if octets[-1] >= 0x80 or lengths.max() > _LONGEST_VARINT:
        raise _BrokenMessage("a number has no end")
    places = np.arange(len(octets)) - np.repeat(begins, lengths)
    parts = (octets & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.add.reduceat(parts, begins).view(np.int64)


_READERS: dict[int, Callable[[memoryview], Values]] = {
    1: _bytes_list,
    2: _float_list,
    3: _int64_list,
}
