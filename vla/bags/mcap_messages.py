"""Messages of one MCAP file, chunked or not, finished or not."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Metadata, MetadataIndex

from vla.bags.contents import BagMessage, FileSummary, FileTopic
from vla.bags.mcap_chunks import MESSAGE, read_channel, read_schema, records_in, torn_chunk
from vla.bags.mcap_definitions import (
    CHECKED,
    REPEATED,
    UNCHECKED,
    Definitions,
    summary_definitions,
    summary_of,
)
from vla.bags.mcap_records import DAMAGED, Piece, walk
from vla.bags.mcap_survey import METADATA_NAME, Survey, lost_topic, mapped, survey
from vla.bags.message_types import MessageType
from vla.bags.sealed_file import HEAD, MAGIC
from vla.bags.writer import BagError, BagTopic, topic_metadata
from vla.core.files import read_yaml_text

_TEXT_DEFINITION = "ros2msg"


def read_mcap(
    readable: Path, path: Path, topics: Collection[str] | None, tolerant: bool
) -> Iterator[tuple[FileTopic, BagMessage]]:
    """See vla.bags.storage.read_file. readable: where to open the file, if not at `path`."""
    with mapped(readable, path) as buffer:
        found = Definitions()
        records, checked = summary_definitions(buffer)
        found.add(records, CHECKED if checked else REPEATED)
        named: dict[int, FileTopic | None] = {}
        finished = False
        for piece in walk(buffer):
            if piece.flaw and not tolerant:
                raise _truncated(path) if piece.torn else _damaged(path, piece)
            finished = finished or piece.opcode == Opcode.FOOTER
            chunk = piece.chunk
            if piece.opcode == DAMAGED and piece.torn:
                chunk = torn_chunk(buffer, piece.start)
            if chunk is not None:
                named.clear()
                rank = CHECKED if chunk.crc else UNCHECKED
                found.add(chunk.definitions, rank)
                data = chunk.data
                places = [r[2:] for r in records_in(data) if r[0] == Opcode.MESSAGE]
            elif piece.opcode == Opcode.MESSAGE:
                data, places = piece.body, [(0, len(piece.body))]
            else:
                if piece.opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                    named.clear()
                    read = read_schema if piece.opcode == Opcode.SCHEMA else read_channel
                    with contextlib.suppress(ValueError):
                        found.add([read(piece.body)], UNCHECKED)
                continue
            for begin, end in places:
                key, sequence, received, published = MESSAGE.unpack_from(data, begin)
                if key not in named:
                    named[key] = file_topic(found, key)
                topic = named[key]
                if topic is None:
                    if tolerant:
                        continue
                    raise BagError(
                        f"{path} is damaged: a message is of channel {key}, which is nowhere "
                        "described; vla.bags.reader.recover_bag keeps the rest"
                    )
                if topics is None or topic.name in topics:
                    body = data[begin + MESSAGE.size : end]
                    yield (
                        topic,
                        BagMessage(
                            topic.name, topic.type.name, received, published, sequence, body
                        ),
                    )
        if not finished and not tolerant:
            raise _truncated(path)


def file_topic(found: Definitions, key: int) -> FileTopic | None:
    """The topic of a channel; None where nothing describes it."""
    channel = found.channels.get(key)
    if channel is None:
        return None
    schema = found.schemas.get(channel.schema_id)
    definition = ""
    if schema is not None and schema.encoding == _TEXT_DEFINITION:
        with contextlib.suppress(UnicodeDecodeError):
            definition = schema.data.decode()
    message_type = MessageType(
        schema.name if schema else "", definition, channel.metadata.get("topic_type_hash", "")
    )
    qos = channel.metadata.get("offered_qos_profiles", "")
    return FileTopic(channel.topic, message_type, channel.message_encoding, qos)


def summarize_mcap(readable: Path, path: Path) -> FileSummary:
    """The sound contents of a file. Raises BagError where it is no MCAP file."""
    return summary_of_survey(survey(readable, path))


def summary_of_survey(found: Survey) -> FileSummary:
    """A survey in the form of metadata.yaml."""
    counts = found.counts
    topics = []
    for key in sorted(found.definitions.channels.keys() | counts.keys()):
        topic = file_topic(found.definitions, key)
        if topic is None:
            topic = FileTopic(lost_topic(key), MessageType("", "", ""), "")
        listed = topic_metadata(BagTopic(topic.name, topic.type, qos_profiles(topic), counts[key]))
        listed["topic_metadata"]["serialization_format"] = topic.encoding
        topics.append(listed)
    return FileSummary(topics, found.message_count, found.start_time, found.end_time)


def qos_profiles(topic: FileTopic) -> list:
    """A topic's profiles in a file; empty where they are unsound."""
    with contextlib.suppress(BagError):
        profiles = read_yaml_text(topic.qos, "offered_qos_profiles", BagError, most_nodes=10_000)
        return profiles if isinstance(profiles, list) else []
    return []


def metadata_of_mcap(readable: Path, path: Path) -> str:
    """rosbag2's copy of metadata.yaml in a finished file, or "". Raises BagError for no MCAP."""
    with mapped(readable, path) as buffer, contextlib.suppress(ValueError, struct.error):
        summary, _ = summary_of(buffer)
        for opcode, _, begin, end in records_in(summary):
            if opcode != Opcode.METADATA_INDEX:
                continue
            index = MetadataIndex.read(ReadDataStream(BytesIO(summary[begin:end])))
            if index.name == METADATA_NAME:
                body = buffer[index.offset + HEAD.size : index.offset + index.length]
                record = Metadata.read(ReadDataStream(BytesIO(body)))
                return record.metadata.get("serialized_metadata", "")
    return ""


def ends_well(path: Path) -> bool:
    """Whether a file ends as a closed MCAP file does, or as one of our unfinished ones."""
    with mapped(path) as buffer:
        foot = len(buffer) - len(MAGIC) - HEAD.size - 20
        marked = buffer[foot : foot + HEAD.size] == HEAD.pack(Opcode.FOOTER, 20)
        return foot > 0 and marked and buffer[-len(MAGIC) :] == MAGIC


def _damaged(path: Path, piece: Piece) -> BagError:
    return BagError(
        f"{path} is damaged at byte {piece.start}: a checksum or a length does not fit; "
        "vla.bags.reader.recover_bag keeps all that is sound"
    )


def _truncated(path: Path) -> BagError:
    return BagError(
        f"{path} is truncated: its recorder was killed or the disk was full. Read it with "
        "allow_truncated=True, or repair it with vla.bags.reader.recover_bag"
    )
