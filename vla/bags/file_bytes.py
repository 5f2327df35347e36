"""The bytes of a large file by offset, read on demand.

Not a memory map: there, a bad disk block would kill the process instead of raising an error.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vla.bags.writer import BagError

_BLOCK = 1 << 16
_STEP = 1 << 22


def open_regular(readable: Path, path: Path) -> int:
    """Descriptor of a regular file, opened without blocking, as a FIFO would.

    path: for errors. Raises BagError where it cannot be read or is no regular file.
    """
    try:
        descriptor = os.open(readable, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BagError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BagError(f"{path} is no regular file, and cannot be one of a bag")
    return descriptor


class FileBytes:
    """An open file that can be sliced.

    path: for errors. Every method raises BagError where the disk cannot be read. Not thread-safe.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor, self._path = descriptor, path
        self._size = os.fstat(descriptor).st_size
        # Records are small and consecutive, and so is the cached part.
        self._start, self._block = 0, b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice) -> bytes:
        begin, end, _ = place.indices(self._size)
        size = end - begin
        if size <= 0:
            return b""
        if size > _BLOCK:
            return self._read(begin, size)
        offset = begin - self._start
        if offset < 0 or offset + size > len(self._block):
            self._start, self._block, offset = begin, self._read(begin, _BLOCK), 0
        return self._block[offset : offset + size]

    def unpack(self, layout: struct.Struct, place: int) -> tuple[Any, ...]:
        """Numbers at an offset. Raises struct.error where the file is too short."""
        return layout.unpack(self[place : place + layout.size])

    def search(self, pattern: re.Pattern[bytes], begin: int, end: int, most: int) -> Iterator[int]:
        """Offsets from `begin` to before `end` where a pattern of `most` bytes or fewer matches.

        The pattern must not match zeros alone: the holes of a sparse file are skipped.
        """
        while (begin := max(begin, self._next_data(begin) - most + 1)) < end:
            stop = min(begin + _STEP, end)
            block = self[begin : stop + most - 1]
            offset = 0
            while (match := pattern.search(block, offset)) is not None:
                if begin + match.start() >= stop:
                    break
                yield begin + match.start()
                offset = match.start() + 1
            begin = stop

    def crc32(self, begin: int, end: int) -> int:
        """The checksum of a range."""
        crc = 0
        for place in range(begin, end, _STEP):
            crc = zlib.crc32(self[place : min(place + _STEP, end)], crc)
        return crc

    def _next_data(self, place: int) -> int:
        """The next byte on the disk from an offset on; the file's size if only a hole follows."""
        try:
            return os.lseek(self._descriptor, place, os.SEEK_DATA)
        except OSError as error:
            return self._size if error.errno == errno.ENXIO else place

    def _read(self, begin: int, size: int) -> bytes:
        parts = []
        try:
            while size > 0 and (part := os.pread(self._descriptor, size, begin)):
                parts.append(part)
                begin, size = begin + len(part), size - len(part)
        except OSError as error:
            raise BagError(f"cannot read {self._path}: {error.strerror}") from error
        return b"".join(parts)
