"""Writes rosbag2 bags (MCAP) from serialised messages, without ROS.

One folder per bag: `<name>.mcap` and the `metadata.yaml` that `ros2 bag info` reads. It uses the
`mcap` library directly, because a recording must survive the death of its recorder: messages leave
the process as whole chunks with a checksum, followed by a footer, and metadata.yaml is renewed at
every flush, so that the disk always holds a bag that only lacks an index. `vla.bags.reader` reads
such a bag and can complete it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import yaml
from mcap.data_stream import RecordBuilder
from mcap.records import Channel, Schema
from mcap.writer import CompressionType, Writer

from vla.bags.message_types import MessageType
from vla.bags.sealed_file import SealedFile
from vla.core.locks import lock_file
from vla.core.replacing import replace_text

METADATA_VERSION = 9
METADATA_FILE = "metadata.yaml"
COMPRESSIONS = {
    "none": CompressionType.NONE,
    "zstd": CompressionType.ZSTD,
    "lz4": CompressionType.LZ4,
}
# In custom_data: "true" once the bag was closed, "false" while it is written, and "recovered".
COMPLETE_KEY = "complete"
# rosbag2's start time of a bag without messages.
NO_START_TIME = 2**63 - 1
CHUNK_SIZE = 4 * 1024 * 1024


class BagError(RuntimeError):
    """A bag that cannot be written or read; the message says which file and what to do."""


@dataclass
class BagTopic:
    """One recorded topic."""

    name: str
    type: MessageType
    # Profiles that its publishers offered, as rosbag2 writes them (see `qos_entry`), so that `ros2
    # bag play` offers the same.
    qos: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0  # messages written so far


def qos_entry(
    reliability: str = "reliable",
    durability: str = "volatile",
    history: str = "keep_last",
    depth: int = 10,
) -> dict[str, Any]:
    """A QoS profile in the form of metadata.yaml; deadline, lifespan and lease are unlimited."""
    unlimited = {"sec": 9223372036, "nsec": 854775807}
    return {
        "history": history,
        "depth": depth,
        "reliability": reliability,
        "durability": durability,
        "deadline": dict(unlimited),
        "lifespan": dict(unlimited),
        "liveliness": "automatic",
        "liveliness_lease_duration": dict(unlimited),
        "avoid_ros_namespace_conventions": False,
    }


def dump_yaml(values: Any) -> str:
    """Block-style YAML with keys in the order given."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(
        values, Dumper=dumper, default_flow_style=False, sort_keys=False, allow_unicode=True
    )


class BagWriter:
    """Writes one bag. Not thread-safe: one thread owns it from opening to `close`.

    folder: created, must not exist. custom_data: text entries kept in the bag's metadata.
    compression: "none", "zstd" or "lz4", applied to whole chunks. Raises BagError when the folder
    exists or cannot be created.
    """

    def __init__(
        self,
        folder: str | Path,
        custom_data: Mapping[str, str] | None = None,
        compression: str = "none",
    ) -> None:
        if compression not in COMPRESSIONS:
            known = ", ".join(COMPRESSIONS)
            raise BagError(f"unknown compression '{compression}'; choose one of: {known}")
        self.folder = Path(folder)
        self.file = self.folder / f"{self.folder.name}.mcap"
        self.custom_data = dict(custom_data or {})
        self.topics: list[BagTopic] = []
        self.message_count = 0
        self._start = NO_START_TIME
        self._end = 0
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        # Records that describe topics, in a chunk that may become damaged.
        self._described: list[Schema | Channel] = []
        try:
            self.folder.mkdir(parents=True)
            self._stream = SealedFile(self.file)
        except FileExistsError as error:
            raise BagError(f"{self.folder} exists already; choose another name") from error
        except OSError as error:
            raise BagError(f"cannot create the bag {self.folder}: {error.strerror}") from error
        lock_file(self._stream)
        # It only writes and asks for the position.
        stream = cast("IO[bytes]", self._stream)
        self._writer: Writer | None = Writer(
            stream, chunk_size=CHUNK_SIZE, compression=COMPRESSIONS[compression]
        )
        self._writer.start(profile="ros2", library="vla_ros")
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._writer is None

    @property
    def duration(self) -> float:
        """From the first to the last message [s]; 0 without messages."""
        return max(0, self._end - self._start) * 1e-9 if self.message_count else 0.0

    def add_topic(
        self, name: str, message_type: MessageType, qos: Sequence[dict[str, Any]] = ()
    ) -> BagTopic:
        """Declares a topic (absolute name) before its first message.

        qos: profiles from `qos_entry`. Raises BagError when the topic was declared before.
        """
        writer = self._open_writer()
        if name in self._channels:
            raise BagError(f"topic {name} was added to {self.folder} twice")
        if message_type.name not in self._schemas:
            text = message_type.definition.encode()
            number = writer.register_schema(message_type.name, "ros2msg", text)
            self._schemas[message_type.name] = number
            self._described.append(
                Schema(id=number, name=message_type.name, encoding="ros2msg", data=text)
            )
        topic = BagTopic(name, message_type, list(qos))
        schema = self._schemas[message_type.name]
        more = {
            "offered_qos_profiles": dump_yaml(topic.qos).strip() if topic.qos else "",
            "topic_type_hash": message_type.type_hash,
        }
        number = writer.register_channel(name, "cdr", schema, more)
        self._channels[name] = number
        self._described.append(
            Channel(id=number, topic=name, message_encoding="cdr", schema_id=schema, metadata=more)
        )
        self.topics.append(topic)
        return topic

    def write(
        self,
        topic: BagTopic,
        data: bytes,
        receive_time: int,
        publish_time: int | None = None,
        sequence: int = 0,
    ) -> None:
        """Appends one message.

        data: its CDR bytes. receive_time, publish_time: nanoseconds since the epoch; the order of
        receive times is that of `ros2 bag play`. Raises OSError when the disk refuses.
        """
        self._open_writer().add_message(
            self._channels[topic.name],
            log_time=receive_time,
            data=data,
            publish_time=receive_time if publish_time is None else publish_time,
            sequence=sequence,
        )
        if self._stream.waiting_bytes:
            # A full chunk is written at once, so that it cannot be lost.
            self._stream.flush()
        topic.count += 1
        self.message_count += 1
        self._start = min(self._start, receive_time)
        self._end = max(self._end, receive_time)

    def flush(self) -> None:
        """Writes everything so far as a chunk, and renews metadata.yaml.

        Flushed messages survive this process. Raises OSError when the disk refuses.
        """
        self._open_writer().flush()
        if self._described:
            # Outside of all chunks, so that no damaged one loses the names of the topics.
            builder = RecordBuilder()
            for record in self._described:
                record.write(builder)
            self._described = []
            self._stream.write(builder.end())
            self._stream.flush()
        self._write_metadata("false")

    def close(self, complete: str = "true") -> None:
        """Writes index and metadata, and closes. May be called again.

        complete: the custom_data entry about the bag ("true", or "recovered").
        """
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        self.custom_data[COMPLETE_KEY] = complete
        try:
            writer.flush()
            writer.add_metadata(
                "rosbag2", {"serialized_metadata": dump_yaml(self._metadata()).strip()}
            )
            writer.finish()
            self._stream.finish()
        finally:
            self._stream.close()
        self._write_metadata(complete)

    def abandon(self) -> None:
        """Closes without an index, for when the disk refuses to take one."""
        self._writer = None
        self._stream.close()

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise BagError(f"the bag {self.folder} is closed")
        return self._writer

    def _write_metadata(self, complete: str) -> None:
        self.custom_data[COMPLETE_KEY] = complete
        text = dump_yaml({"rosbag2_bagfile_information": self._metadata()})
        replace_text(self.folder / METADATA_FILE, text)

    def _metadata(self) -> dict[str, Any]:
        start = {"nanoseconds_since_epoch": self._start}
        span = {"nanoseconds": max(0, self._end - self._start) if self.message_count else 0}
        return {
            "version": METADATA_VERSION,
            "storage_identifier": "mcap",
            "duration": span,
            "starting_time": start,
            "message_count": self.message_count,
            "topics_with_message_count": [topic_metadata(topic) for topic in self.topics],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self.file.name],
            "files": [
                {
                    "path": self.file.name,
                    "starting_time": dict(start),
                    "duration": dict(span),
                    "message_count": self.message_count,
                }
            ],
            "custom_data": dict(self.custom_data),
            "ros_distro": os.environ.get("ROS_DISTRO", "jazzy"),
        }


def topic_metadata(topic: BagTopic) -> dict[str, Any]:
    """A topic as metadata.yaml lists it."""
    return {
        "topic_metadata": {
            "name": topic.name,
            "type": topic.type.name,
            "serialization_format": "cdr",
            "offered_qos_profiles": topic.qos,
            "type_description_hash": topic.type.type_hash,
        },
        "message_count": topic.count,
    }
