"""A file that is appended to and ends well at every moment, so that a crash needs no repair.

An MCAP file is only whole with a footer at its end. Here one, without an index, follows the data at
all times. A kill can tear a large write in two, so the file first grows by a record of a kind that
readers skip, with a footer at the new end; the data is written into that record, and its first
bytes, which turn it into what it is to be, come last. What remains are moments of microseconds,
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
    """What `mcap.writer.Writer` needs of a stream. Not thread-safe.

    path: created, must not exist (FileExistsError). MCAP_SEAL follows the data until `finish`.
    """

    def __init__(self, path: Path) -> None:
        created = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._begin(os.open(path, created, 0o644), 0)

    @classmethod
    def reopen(cls, path: Path, end: int) -> SealedFile:
        """A file that is there, to go on behind its first `end` bytes; the rest is replaced.

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
        """Bytes of data so far, with those that wait, without the seal."""
        return self._end + self.waiting_bytes

    def write(self, data: bytes) -> int:
        """Takes data that the next `flush` hands to the system."""
        if data:
            self._waiting.append(data)
            self.waiting_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Hands all data to the system, sealed.

        Raises OSError when the disk refuses; what waited is then lost, and the file ends, sealed,
        with what was flushed before.
        """
        if self._waiting:
            self._write_out(MCAP_SEAL)

    def finish(self) -> None:
        """Hands all data to the system without a seal: the data must end the file itself.

        Waits until it is on the disk. Raises OSError as `flush` does.
        """
        self._write_out(b"")
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Frees the descriptor; what waits is lost. Does nothing when closed before."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _write_out(self, end: bytes) -> None:
        """Puts what waits, and `end` behind it, in the place of the present seal."""
        data = b"".join([*self._waiting, end])
        self._waiting, self.waiting_bytes = [], 0
        descriptor, start, seal = self._descriptor, self._end, len(data) - len(MCAP_SEAL)
        try:
            if start and seal > HEAD.size:
                # One write lets the file grow with its new footer: a kill finds it with or without.
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
