"""A file that is appended to and is complete at every moment, so that a crash needs no repair.

An MCAP file is only complete with a footer at its end. Here a footer without an index always
follows the data. A kill can tear a large write in two, so the file first grows by a record of a
kind that readers skip, with a footer at the new end; the data is written into that record, and its
first bytes, which give the record its kind, come last. What remains are moments of microseconds
between two small writes.
"""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

MAGIC = b"\x89MCAP0\r\n"
# The records DataEnd and Footer, without checksums and with no summary, and the magic.
MCAP_SEAL = struct.pack("<BQI", 0x0F, 4, 0) + struct.pack("<BQQQI", 0x02, 20, 0, 0, 0) + MAGIC
# A record of the range that MCAP leaves to applications; its head, and any record's head.
PRIVATE = 0x80
HEAD = struct.Struct("<BQ")


class SealedFile:
    """The stream that `mcap.writer.Writer` needs. Not thread-safe.

    path: created, must not exist (FileExistsError). MCAP_SEAL follows the data until `finish`.
    """

    def __init__(self, path: Path) -> None:
        created = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._begin(os.open(path, created, 0o644), 0)

    @classmethod
    def reopen(cls, path: Path, end: int) -> SealedFile:
        """An existing file, to continue after its first `end` bytes; the rest is replaced.

        Raises OSError for a link.
        """
        file = cls.__new__(cls)
        file._begin(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW), end)
        return file

    def _begin(self, descriptor: int, end: int) -> None:
        self._descriptor = descriptor
        self._waiting: list[bytes] = []
        self._end = end
        self.waiting_bytes = 0

    def fileno(self) -> int:
        """Descriptor of the open file."""
        return self._descriptor

    def tell(self) -> int:
        """Bytes of data so far, waiting ones included, without the seal."""
        return self._end + self.waiting_bytes

    def write(self, data: bytes) -> int:
        """Takes data that the next `flush` hands to the system."""
        if data:
            self._waiting.append(data)
            self.waiting_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Writes all data, sealed.

        Raises OSError when the disk refuses; waiting data are then lost, and the file ends, sealed,
        with what was flushed before.
        """
        if self._waiting:
            self._write_out(MCAP_SEAL)

    def finish(self) -> None:
        """Writes all data without a seal, which must end the file themselves, and syncs the disk.

        Raises OSError as `flush` does.
        """
        self._write_out(b"")
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Closes the descriptor; waiting data are lost. May be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _write_out(self, end: bytes) -> None:
        """Replaces the current seal by the waiting data, followed by `end`."""
        data = b"".join([*self._waiting, end])
        self._waiting, self.waiting_bytes = [], 0
        descriptor, start, seal = self._descriptor, self._end, len(data) - len(MCAP_SEAL)
        try:
            if start and seal > HEAD.size:
                # One write grows the file with its new footer: a kill leaves it with or without.
                if os.fstat(descriptor).st_size > start + len(data):
                    os.ftruncate(descriptor, start + len(data))
                _write_at(descriptor, MCAP_SEAL, start + seal)
                _write_at(descriptor, HEAD.pack(PRIVATE, seal - HEAD.size), start)
                _write_at(descriptor, memoryview(data)[HEAD.size : seal], start + HEAD.size)
                _write_at(descriptor, data[: HEAD.size], start)
                _write_at(descriptor, data[seal:], start + seal)
            else:
                _write_at(descriptor, data, start)
        except OSError:
            # The old seal, if it is still there, ends the file again.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, start)
                _write_at(descriptor, MCAP_SEAL, start)
            raise
        self._end += len(data) - len(end)


def _write_at(descriptor: int, data: bytes | memoryview, position: int) -> None:
    view = memoryview(data)
    written = 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], position + written)
