"""Bounded Zstandard and LZ4 decompression, so that a few bytes never fill memory or disk."""

from __future__ import annotations

from typing import IO

import lz4.frame
import zstandard

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Larger than any robot's message, or chunk of an MCAP file [bytes].
LARGEST_PIECE = 1 << 30
# Input of one step; Zstandard expands it at most about 32000 times [bytes].
_STEP = 1 << 12
_UNKNOWN = -1


class CompressionError(ValueError):
    """Compressed data that is damaged, or larger than allowed when decompressed."""


def decompress(data: bytes | memoryview, compression: str, limit: int = LARGEST_PIECE) -> bytes:
    """A whole compressed block. compression: "", "zstd" or "lz4". limit: of the result [bytes].

    Raises CompressionError for data that are damaged, truncated, too large or compressed otherwise.
    """
    if compression == "":
        return bytes(data)
    result, whole = decompress_begin(data, compression, limit)
    if not whole:
        raise CompressionError("the compressed data are damaged or cut")
    return result


def decompress_begin(
    data: bytes | memoryview, compression: str, limit: int = LARGEST_PIECE
) -> tuple[bytes, bool]:
    """The result of truncated compressed data, and whether it is complete.

    Raises CompressionError for data that are too large or compressed otherwise.
    """
    if compression == "":
        return bytes(data), True
    if compression == "zstd":
        return _zstd_begin(data, limit)
    if compression == "lz4":
        return _in_steps(lz4.frame.LZ4FrameDecompressor(), data, limit, RuntimeError)
    raise CompressionError("an unknown compression")


def _zstd_begin(data: bytes | memoryview, limit: int) -> tuple[bytes, bool]:
    try:
        size = zstandard.frame_content_size(data)
    except zstandard.ZstdError:
        return b"", False
    if size > limit:
        raise CompressionError(f"more than {limit} bytes when decompressed")
    if size != _UNKNOWN:
        try:
            return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False), True
        except (zstandard.ZstdError, MemoryError):
            pass
    worker = zstandard.ZstdDecompressor().decompressobj()
    return _in_steps(worker, data, limit, zstandard.ZstdError)


def _in_steps(worker, data, limit: int, error: type[Exception]) -> tuple[bytes, bool]:
    """Feeds a decompressor step by step, until the end or the first damage."""
    parts: list[bytes] = []
    size, view = 0, memoryview(data)
    for position in range(0, len(view), _STEP):
        try:
            part = worker.decompress(view[position : position + _STEP])
        except error:
            return b"".join(parts), False
        parts.append(part)
        size += len(part)
        if size > limit:
            raise CompressionError(f"more than {limit} bytes when decompressed")
        if worker.eof:
            # Bytes after the end: this is not that block.
            return b"".join(parts), position + _STEP >= len(view) and not worker.unused_data
    return b"".join(parts), False


def copy_decompressed(source: IO[bytes], target: IO[bytes], limit: int) -> bool:
    """Decompresses a Zstandard stream into a file; returns whether it was complete.

    limit: of the output [bytes]. Raises CompressionError beyond it, and OSError.
    """
    size, worker = 0, None
    while data := source.read(_STEP):
        while data:
            worker = worker or zstandard.ZstdDecompressor().decompressobj()
            try:
                part = worker.decompress(data)
            except zstandard.ZstdError:
                return False
            size += len(part)
            if size > limit:
                raise CompressionError(f"more than {limit} bytes when decompressed")
            target.write(part)
            data = worker.unused_data if worker.eof else b""
            worker = None if worker.eof else worker
    return worker is None and size > 0
