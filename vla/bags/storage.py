"""The files of a bag, of any storage and compression of rosbag2, as one kind of messages.

MCAP and sqlite3, plain, compressed as a whole (`.zstd`) or message by message. A file compressed as
a whole is decompressed into an unnamed file, so that nothing of it can remain.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from vla.bags.contents import CDR, BagMessage, FileSummary, FileTopic
from vla.bags.decompression import (
    ZSTD_MAGIC,
    CompressionError,
    copy_decompressed,
    decompress,
)
from vla.bags.file_bytes import open_regular
from vla.bags.mcap_messages import metadata_of_mcap, read_mcap, summarize_mcap
from vla.bags.sqlite_messages import metadata_of_sqlite, read_sqlite, summarize_sqlite
from vla.bags.writer import BagError

MCAP = "mcap"
SQLITE3 = "sqlite3"
STORAGES = (MCAP, SQLITE3)
# A file may grow by this factor, or to this size, and must leave this much free space [bytes].
_LARGEST_FACTOR = 500
_ALWAYS_ALLOWED = 1 << 30
_ROOM_TO_LEAVE = 1 << 29


def read_file(
    path: Path, storage: str, topics: Collection[str] | None, tolerant: bool
) -> Iterator[tuple[FileTopic, BagMessage]]:
    """Messages of one file in its order. topics: only these; None for all.

    tolerant: skip damage, and end where a truncated file ends. Raises BagError that names the file.
    """
    with opened(path, tolerant) as readable:
        read = read_mcap if storage == MCAP else read_sqlite
        for topic, message in read(readable, path, topics, tolerant):
            if topic.encoding == CDR and message.data[: len(ZSTD_MAGIC)] == ZSTD_MAGIC:
                # CDR begins with a zero; rosbag2 compressed this message.
                try:
                    data = decompress(message.data, "zstd")
                except CompressionError as error:
                    if tolerant:
                        continue
                    raise BagError(
                        f"{path} is damaged: a compressed message of {topic.name} can't be read "
                        f"({error}); allow_truncated=True reads the others, or copy the bag again"
                    ) from error
                message = replace(message, data=data)
            yield topic, message


def file_summary(path: Path, storage: str) -> FileSummary:
    """The readable contents of a file. Raises BagError that names the file."""
    with opened(path, tolerant=True) as readable:
        return (summarize_mcap if storage == MCAP else summarize_sqlite)(readable, path)


def metadata_copy(path: Path, storage: str) -> str:
    """The copy of metadata.yaml in a finished file; empty where there is none.

    A file compressed as a whole is not decompressed for it.
    """
    with contextlib.suppress(BagError):
        if is_compressed(path):
            return ""
        with opened(path, tolerant=True) as readable:
            return (metadata_of_mcap if storage == MCAP else metadata_of_sqlite)(readable, path)
    return ""


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed as a whole. Raises BagError where it cannot be read."""
    with _descriptor(path) as descriptor:
        return os.pread(descriptor, len(ZSTD_MAGIC), 0) == ZSTD_MAGIC


@contextlib.contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = open_regular(path, path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(path: Path, tolerant: bool = False) -> Iterator[Path]:
    """A path at which the file can be opened, decompressed where it is compressed as a whole.

    tolerant: accept damage after the first bytes of a compressed file. Raises BagError where the
    file cannot be read, is not regular, or would become too large for the disk.
    """
    with _descriptor(path) as descriptor:
        if os.pread(descriptor, len(ZSTD_MAGIC), 0) != ZSTD_MAGIC:
            yield Path(f"/proc/self/fd/{descriptor}")
            return
        room = shutil.disk_usage(tempfile.gettempdir()).free - _ROOM_TO_LEAVE
        limit = min(
            max(_ALWAYS_ALLOWED, _LARGEST_FACTOR * os.fstat(descriptor).st_size), max(room, 0)
        )
        with tempfile.TemporaryFile() as target:
            try:
                with os.fdopen(os.dup(descriptor), "rb") as source:
                    whole = copy_decompressed(source, target, limit)
                target.flush()
            except CompressionError as error:
                raise BagError(
                    f"{path} becomes {error}, for which there is no room in "
                    f"{tempfile.gettempdir()}, or which is no bag; set TMPDIR to a disk with more, "
                    "or decompress it by 'zstd -d'"
                ) from error
            except OSError as error:
                raise BagError(
                    f"cannot decompress {path} in {tempfile.gettempdir()}: {error.strerror}; set "
                    "TMPDIR to another disk"
                ) from error
            if not whole and not (tolerant and target.tell()):
                raise BagError(
                    f"{path} is damaged or cut: it can't be decompressed to its end; 'zstd -dc' "
                    "gives what comes before, as a bag that vla.bags.reader.recover_bag repairs"
                )
            yield Path(f"/proc/self/fd/{target.fileno()}")
