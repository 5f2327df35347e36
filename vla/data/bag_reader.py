"""Reads, checks and repairs rosbag2 bags (MCAP), without ROS.

Any bag that `ros2 bag record -s mcap` or our recorder wrote can be read, also one whose recorder
was killed: everything up to the last whole chunk is there.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from mcap.exceptions import McapError
from mcap.records import Channel, Footer, Message, Schema
from mcap.stream_reader import CRCValidationError, StreamReader

from vla.data.bag import (
    COMPLETE_KEY,
    METADATA_FILE,
    NO_START_TIME,
    BagError,
    BagTopic,
    dump_yaml,
    lock_bag,
    replace_text,
    topic_metadata,
)
from vla.data.bag_copy import copied_custom_data
from vla.data.bag_index import FileContent, append_index, scan
from vla.data.message_types import MessageDecoder, MessageType

# Messages of different topics reach a recorder slightly out of order, by less than this [ns].
REORDER_WINDOW = 1_000_000_000


@dataclass(frozen=True)
class BagMetadata:
    """What metadata.yaml says. Times in nanoseconds; counts are those at the last flush."""

    files: tuple[Path, ...]
    message_count: int
    start_time: int
    duration: int
    topics: dict[str, int]
    types: dict[str, str]
    custom_data: dict[str, str]


@dataclass(frozen=True)
class BagMessage:
    """One message. receive_time, publish_time: nanoseconds since the epoch. data: CDR bytes."""

    topic: str
    type_name: str
    receive_time: int
    publish_time: int
    sequence: int
    data: bytes


@dataclass
class BagReport:
    """What `validate_bag` and `recover_bag` found: messages by topic, duration [s]."""

    folder: Path
    message_count: int = 0
    duration: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)


def read_metadata(folder: str | Path) -> BagMetadata:
    """Reads metadata.yaml. Raises BagError when it is missing or not rosbag2's.

    Custom data that it has lost, as by `ros2 bag reindex`, is taken from the copy in the file.
    """
    path = Path(folder) / METADATA_FILE
    try:
        info = _load_yaml(path)["rosbag2_bagfile_information"]
        listed = info["topics_with_message_count"]
        files = tuple(Path(folder) / name for name in info["relative_file_paths"])
        custom = dict(info.get("custom_data") or {})
        if COMPLETE_KEY not in custom:
            # Of another recorder, or made anew by a tool that did not know of it.
            custom = copied_custom_data(files) | custom
        return BagMetadata(
            files=files,
            message_count=info["message_count"],
            start_time=info["starting_time"]["nanoseconds_since_epoch"],
            duration=info["duration"]["nanoseconds"],
            topics={entry["topic_metadata"]["name"]: entry["message_count"] for entry in listed},
            types={
                entry["topic_metadata"]["name"]: entry["topic_metadata"]["type"] for entry in listed
            },
            custom_data=custom,
        )
    except OSError as error:
        raise BagError(
            f"{folder} is not a bag: cannot read {path.name}: {error.strerror}"
        ) from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise BagError(f"{path} is not the metadata of a rosbag2 bag: {error!r}") from error


def update_custom_data(folder: str | Path, changes: Mapping[str, str]) -> BagMetadata:
    """Adds to or replaces the custom data of a bag, at once or not at all; returns what is there.

    Only metadata.yaml changes, not the copy of it inside the MCAP file. Raises BagError when there
    is no bag, it is being written or completed, or metadata.yaml cannot be written.
    """
    metadata = read_metadata(folder)
    path = Path(folder) / METADATA_FILE
    try:
        with metadata.files[0].open("rb") as stream:
            if not lock_bag(stream):
                raise BagError(f"{folder} is being written or completed just now; try again later")
            content = _load_yaml(path)
            info = content["rosbag2_bagfile_information"]
            info["custom_data"] = dict(info.get("custom_data") or {}) | dict(changes)
            replace_text(path, dump_yaml(content), durable=True)
    except (OSError, IndexError) as error:
        reason = getattr(error, "strerror", None) or "it names no file"
        raise BagError(f"cannot change {path}: {reason}") from error
    return read_metadata(folder)


def read_messages(
    folder: str | Path, topics: Collection[str] | None = None, allow_truncated: bool = False
) -> Iterator[BagMessage]:
    """Yields the messages of a bag in the order of their receive times.

    topics: only these; None for all. allow_truncated: take what can be read from a bag whose
    recorder was killed. Chunk checksums are checked. Raises BagError for a damaged bag, and for a
    truncated one unless allowed.
    """
    for _, message in _read_bag(Path(folder), topics, allow_truncated):
        yield message


def read_decoded(
    folder: str | Path, topics: Collection[str] | None = None, allow_truncated: bool = False
) -> Iterator[tuple[BagMessage, Any]]:
    """As read_messages, with each message decoded: attributes as in the `.msg`, arrays as numpy."""
    for message, decode in read_undecoded(folder, topics, allow_truncated):
        yield message, decode()


def read_undecoded(
    folder: str | Path, topics: Collection[str] | None = None, allow_truncated: bool = False
) -> Iterator[tuple[BagMessage, Callable[[], Any]]]:
    """As read_decoded, with a function that decodes the message, for when it is needed."""
    decoder = MessageDecoder()
    known: set[str] = set()
    for message_type, message in _read_bag(Path(folder), topics, allow_truncated):
        if message_type.name not in known:
            decoder.add(message_type.name, message_type.definition)
            known.add(message_type.name)
        yield message, partial(decoder.decode, message.type_name, message.data)


def validate_bag(folder: str | Path) -> BagReport:
    """Reads every record of a bag and checks checksums, index and message counts.

    Raises BagError that says what is wrong, and for a truncated bag how to repair it.
    """
    report = _report(Path(folder), read_messages(folder))
    stated = {name: count for name, count in read_metadata(folder).topics.items() if count}
    if stated != report.counts:
        raise BagError(
            f"{folder}: metadata.yaml counts {stated}, but the file holds {report.counts}; "
            "repair it with vla.data.bag_reader.recover_bag"
        )
    return report


def recover_bag(folder: str | Path) -> BagReport:
    """Completes a bag whose recorder was killed: drops a torn end, writes index and metadata.

    Works in place and needs hardly any room on the disk. Custom metadata is kept, with "complete:
    recovered". A bag that is already whole is left as it is. Raises BagError when nothing can be
    read, or the disk refuses.
    """
    folder = Path(folder)
    metadata = read_metadata(folder)
    if metadata.custom_data.get(COMPLETE_KEY) != "false":
        return validate_bag(folder)
    if len(metadata.files) != 1:
        raise BagError(f"{folder} consists of {len(metadata.files)} files; only one is supported")
    try:
        with metadata.files[0].open("rb") as torn:
            if not lock_bag(torn):
                raise BagError(
                    f"{folder} is being written by a recorder that is alive; stop that first"
                )
            return _complete(folder, metadata.files[0])
    except OSError as error:
        raise BagError(f"cannot complete {folder}: {error.strerror}") from error


def _complete(folder: Path, file: Path) -> BagReport:
    found = scan(file)
    content = _load_yaml(folder / METADATA_FILE)
    info = content["rosbag2_bagfile_information"]
    topics = [_listed_topic(found, key) for key in found.channels]
    span = found.end_time - found.start_time if found.chunks else 0
    for entry in (info, info["files"][0]):
        entry["message_count"] = found.message_count
        entry["duration"] = {"nanoseconds": span}
        start = found.start_time if found.chunks else NO_START_TIME
        entry["starting_time"] = {"nanoseconds_since_epoch": start}
    info["topics_with_message_count"] = [topic_metadata(topic) for topic in topics]
    info["custom_data"][COMPLETE_KEY] = "recovered"
    append_index(file, found, {"serialized_metadata": dump_yaml(info).strip()})
    # The file first: until metadata.yaml follows, the bag still counts as unfinished.
    replace_text(folder / METADATA_FILE, dump_yaml(content), durable=True)
    return BagReport(folder, found.message_count, span * 1e-9, found.topic_counts)


def _listed_topic(found: FileContent, key: int) -> BagTopic:
    channel = found.channels[key]
    entry = _file_topic(channel, found.schemas[channel.schema_id])
    qos = yaml.safe_load(entry.qos) if entry.qos else []
    return BagTopic(entry.name, entry.type, qos, found.counts[key])


def unfinished_bags(parent: str | Path) -> list[Path]:
    """Bags directly under `parent` whose recorder was killed, oldest first."""
    found = []
    for path in sorted(Path(parent).glob(f"*/{METADATA_FILE}")):
        try:
            metadata = read_metadata(path.parent)
            if metadata.custom_data.get(COMPLETE_KEY) != "false":
                continue
            with metadata.files[0].open("rb") as stream:
                if lock_bag(stream):
                    found.append(path.parent)
        except (BagError, OSError, IndexError):
            continue
    return found


def _load_yaml(path: Path) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def _bag_files(folder: Path) -> list[Path]:
    files = list(read_metadata(folder).files)
    for path in files:
        if not path.is_file():
            raise BagError(f"{folder}: the file {path.name} that metadata.yaml names is missing")
    return files


def _read_bag(
    folder: Path, topics: Collection[str] | None, allow_truncated: bool
) -> Iterator[tuple[MessageType, BagMessage]]:
    """Messages with their types in the order of receive times."""
    files = _bag_files(folder)
    for file in files:
        yield from _in_time_order(
            (entry.type, message)
            for entry, message in _read_file(file, allow_truncated)
            if topics is None or message.topic in topics
        )
    if not allow_truncated and read_metadata(folder).custom_data.get(COMPLETE_KEY) == "false":
        raise _truncated(files[-1])


@dataclass(frozen=True)
class _FileTopic:
    """A topic as one file declares it; qos is the YAML text of the offered profiles."""

    name: str
    type: MessageType
    qos: str


def _read_file(path: Path, allow_truncated: bool) -> Iterator[tuple[_FileTopic, BagMessage]]:
    """Messages in the order of the file."""
    schemas: dict[int, Schema] = {}
    topics: dict[int, _FileTopic] = {}
    finished = False
    with open(path, "rb") as stream:
        try:
            for record in StreamReader(stream, validate_crcs=True).records:
                if isinstance(record, Message):
                    topic = topics[record.channel_id]
                    yield (
                        topic,
                        BagMessage(
                            topic.name,
                            topic.type.name,
                            record.log_time,
                            record.publish_time,
                            record.sequence,
                            record.data,
                        ),
                    )
                elif isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    topics[record.id] = _file_topic(record, schemas[record.schema_id])
                elif isinstance(record, Footer):
                    finished = True
        except CRCValidationError as error:
            if not allow_truncated:
                raise BagError(f"{path} is damaged: a checksum does not fit ({error})") from error
        except (McapError, struct.error, KeyError) as error:
            if not allow_truncated:
                raise _truncated(path) from error
    if not finished and not allow_truncated:
        raise _truncated(path)


def _file_topic(channel: Channel, schema: Schema) -> _FileTopic:
    message_type = MessageType(
        schema.name, schema.data.decode(), channel.metadata.get("topic_type_hash", "")
    )
    return _FileTopic(channel.topic, message_type, channel.metadata.get("offered_qos_profiles", ""))


def _truncated(path: Path) -> BagError:
    return BagError(
        f"{path} is truncated: its recorder was killed or the disk was full. Read it with "
        "allow_truncated=True, or repair it with vla.data.bag_reader.recover_bag"
    )


def _in_time_order(
    entries: Iterator[tuple[MessageType, BagMessage]],
) -> Iterator[tuple[MessageType, BagMessage]]:
    heap: list[tuple[int, int, tuple[MessageType, BagMessage]]] = []
    newest = 0
    for index, entry in enumerate(entries):
        time = entry[1].receive_time
        heapq.heappush(heap, (time, index, entry))
        newest = max(newest, time)
        while heap[0][0] < newest - REORDER_WINDOW:
            yield heapq.heappop(heap)[2]
    while heap:
        yield heapq.heappop(heap)[2]


def _report(folder: Path, messages: Iterator[BagMessage]) -> BagReport:
    report = BagReport(folder)
    first = last = None
    for message in messages:
        report.message_count += 1
        report.counts[message.topic] = report.counts.get(message.topic, 0) + 1
        first = message.receive_time if first is None else min(first, message.receive_time)
        last = message.receive_time if last is None else max(last, message.receive_time)
    if first is not None and last is not None:
        report.duration = (last - first) * 1e-9
    return report
