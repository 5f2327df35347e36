"""TFRecord files: length, checksum of the length, bytes, checksum of the bytes; no tensorflow."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vla.core.files import require_regular
from vla.core.shown import shown_path
from vla.datasets.frames import DatasetError
from vla.datasets.rlds.crc32c import masked_crc32c

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
FETCH = "fetch the file again"


@dataclass(frozen=True)
class DamagedRecord:
    """A record that can't be used, and why."""

    reason: str


def read_records(path: str | Path) -> Iterator[bytes | DamagedRecord]:
    """The records of a file one by one, each in its place even if it is damaged.

    Behind a length that is damaged nothing can be found: that record is the last. Raises
    DatasetError where the file can't be read.
    """
    require_regular(path, DatasetError)
    try:
        with open(path, "rb") as file:
            left = os.fstat(file.fileno()).st_size
            while left:
                record, size = _next(file, left)
                yield record
                left -= size
    except OSError as error:
        raise DatasetError(
            f"cannot read {shown_path(path)}: {error.strerror or error}; {FETCH}"
        ) from error


def _next(file, left: int) -> tuple[bytes | DamagedRecord, int]:
    """A record, and how many of the `left` bytes it takes; all where nothing follows."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return DamagedRecord(f"the file ends within its length; {FETCH}"), left
    length, check = _HEADER.unpack(header)
    if masked_crc32c(header[:8]) != check:
        return DamagedRecord(
            f"its length is damaged, and what follows can't be found; {FETCH}"
        ), left
    size = _HEADER.size + length + _FOOTER.size
    if size > left:
        return DamagedRecord(f"the file ends {size - left} bytes before it does; {FETCH}"), left
    content = file.read(length)
    footer = file.read(_FOOTER.size)
    if len(content) + len(footer) < length + _FOOTER.size:
        return DamagedRecord(f"the file was cut off while it was read; {FETCH}"), left
    if masked_crc32c(content) != _FOOTER.unpack(footer)[0]:
        return DamagedRecord(f"its checksum is wrong: bytes were changed; {FETCH}"), size
    return content, size
