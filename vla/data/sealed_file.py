"""A file that is appended to and ends well at every moment, so that a crash needs no repair.

An MCAP file is only whole with a footer behind its data. Here that footer, without an index, goes
out with every piece of data and is overwritten by the next piece: what a killed recorder leaves is
a valid file for every reader, unless the kill came in the middle of one write.
"""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

# The records DataEnd and Footer, without checksums and with no summary, and MCAP's magic.
MCAP_SEAL = (
    struct.pack("<BQI", 0x0F, 4, 0) + struct.pack("<BQQQI", 0x02, 20, 0, 0, 0) + b"\x89MCAP0\r\n"
)


class SealedFile:
    """What `mcap.writer.Writer` needs of a stream. Not thread-safe.

    path: created, must not exist (FileExistsError). seal: bytes that follow the data on the disk
    until `finish`.
    """

    def __init__(self, path: Path, seal: bytes = MCAP_SEAL) -> None:
        self._seal = seal
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._waiting: list[bytes] = []
        self._end = 0
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
        """Hands all data to the system, sealed, in one write.

        Raises OSError when the disk refuses; what waited is then lost, and the file ends, sealed,
        with what was flushed before.
        """
        if self._waiting:
            self._write_out(self._seal)

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

    def _write_out(self, seal: bytes) -> None:
        pieces, size = [*self._waiting, seal], self.waiting_bytes
        self._waiting, self.waiting_bytes = [], 0
        try:
            _write_at(self._descriptor, pieces, self._end)
        except OSError:
            # Over the torn piece goes a seal again; there is room where that was.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
                _write_at(self._descriptor, [self._seal], self._end)
            raise
        self._end += size


def _write_at(descriptor: int, pieces: list[bytes], position: int) -> None:
    # One call for all, so that there is hardly a moment at which a kill tears it.
    if len(pieces) > os.sysconf("SC_IOV_MAX"):
        pieces = [b"".join(pieces)]
    written = os.pwritev(descriptor, pieces, position)
    total = sum(map(len, pieces))
    if written < total:
        rest = memoryview(b"".join(pieces))
        while written < total:
            written += os.pwrite(descriptor, rest[written:], position + written)
