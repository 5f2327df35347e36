"""Messages of one file in rosbag2's sqlite3 storage, the default until ROS 2 Humble."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, cast

from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from vla.bags.contents import BagMessage, FileSummary, FileTopic
from vla.bags.message_types import MessageType
from vla.bags.writer import BagError
from vla.core.text import one_line

_BEGIN = b"SQLite format 3\0"


def read_sqlite(
    readable: Path, path: Path, topics: Collection[str] | None, tolerant: bool
) -> Iterator[tuple[FileTopic, BagMessage]]:
    """See vla.bags.storage.read_file. The time of publication is that of receipt."""
    _require_closed(path, tolerant)
    with _opened(readable, path) as reader:
        known = {
            connection.id: file_topic(connection)
            for connection in reader.connections
            if topics is None or connection.topic in topics
        }
        wanted = [connection for connection in reader.connections if connection.id in known]
        rows = reader.messages(wanted) if wanted else iter(())
        while True:
            try:
                connection, time, data = next(rows)
                topic = known[connection.id]
                message = BagMessage(topic.name, topic.type.name, int(time), int(time), 0, data)
                if not isinstance(data, bytes):
                    raise TypeError("a message that is no bytes")
            except StopIteration:
                return
            except Exception as error:
                if tolerant:
                    return
                raise _unreadable(path, error) from error
            yield topic, message


def summarize_sqlite(readable: Path, path: Path) -> FileSummary:
    """A file's contents. Raises BagError where it is no bag or damaged."""
    with _opened(readable, path) as reader:
        topics = [
            {
                "topic_metadata": {
                    "name": connection.topic,
                    "type": connection.msgtype,
                    "serialization_format": file_topic(connection).encoding,
                    "offered_qos_profiles": [],
                    "type_description_hash": connection.digest,
                },
                "message_count": connection.msgcount,
            }
            for connection in reader.connections
        ]
        span = reader.metadata
        return FileSummary(topics, span.message_count, span.start_time, max(0, span.end_time - 1))


def metadata_of_sqlite(readable: Path, path: Path) -> str:
    """rosbag2's copy of metadata.yaml in a file, or "". Raises BagError for no bag."""
    with _opened(readable, path) as reader, contextlib.suppress(Exception):
        if reader.dbconn is not None:
            query = "SELECT metadata FROM metadata ORDER BY id DESC LIMIT 1"
            text = next(iter(reader.dbconn.execute(query)))[0]
            return text if isinstance(text, str) else ""
    return ""


def file_topic(connection: Any) -> FileTopic:
    """A topic as the file declares it."""
    text = connection.msgdef.data
    definition = text if connection.msgdef.format == MessageDefinitionFormat.MSG else ""
    message_type = MessageType(connection.msgtype, definition, connection.digest)
    return FileTopic(connection.topic, message_type, connection.ext.serialization_format)


class _Unnamed:
    """A file without a name for rosbags, since sqlite3 cannot open one."""

    def __init__(self, readable: Path) -> None:
        self._readable = readable

    def __str__(self) -> str:
        return "bag"

    def open(self, mode: str) -> Any:
        """The file, opened once more."""
        return self._readable.open(mode)

    def stat(self) -> Any:
        """Its size among others."""
        return self._readable.stat()


@contextlib.contextmanager
def _opened(readable: Path, path: Path) -> Iterator[Sqlite3Reader]:
    with readable.open("rb") as stream:
        if stream.read(len(_BEGIN)) != _BEGIN:
            raise BagError(f"{path} is no sqlite3 file: it doesn't begin as one")
    # rosbags only formats it and calls open() and stat().
    reader = Sqlite3Reader(cast("Path", _Unnamed(readable)))
    try:
        reader.open()
    except Exception as error:
        raise _unreadable(path, error) from error
    try:
        yield reader
    finally:
        reader.close()


def _require_closed(path: Path, tolerant: bool) -> None:
    rest = path.with_name(f"{path.name}-wal")
    if not tolerant and rest.is_file() and rest.stat().st_size:
        raise BagError(
            f"{path} was not closed, and {rest.name} holds the rest of it; 'sqlite3 {path.name} "
            '"PRAGMA wal_checkpoint(TRUNCATE)"\' puts both together'
        )


def _unreadable(path: Path, error: Exception) -> BagError:
    reason = one_line(error)
    return BagError(
        f"{path} is damaged, or no bag ({reason}); 'sqlite3 {path.name} .recover' writes out what "
        "is left of it"
    )
