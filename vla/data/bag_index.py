"""Completes an MCAP file that has no index, in place: what a killed recorder left.

Only the index is written, a few hundred bytes for every chunk of data, so that this works on a disk
that is nearly full, and for a long recording costs reading it once.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

from vla.data.sealed_file import MAGIC, SealedFile

_HEAD = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<HIQ")


@dataclass
class FileContent:
    """What a scan found. counts: messages by channel; end: of the last whole chunk [bytes].

    start_time, end_time: of the messages [ns]. torn_index: message indices of the last chunk, which
    the file may lack.
    """

    end: int = 0
    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    chunks: list[ChunkIndex] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    start_time: int = 0
    end_time: int = 0
    torn_index: list[MessageIndex] = field(default_factory=list)

    @property
    def message_count(self) -> int:
        """Messages in whole chunks."""
        return sum(self.counts.values())

    @property
    def topic_counts(self) -> dict[str, int]:
        """Messages by topic, without topics that have none."""
        return {self.channels[key].topic: count for key, count in self.counts.items() if count}


def scan(path: Path) -> FileContent:
    """Reads all whole chunks and checks their checksums; stops at the first that is not sound."""
    content = FileContent()
    with path.open("rb") as stream:
        stream.seek(len(MAGIC))
        for offset, opcode, body in _records(stream):
            if opcode == Opcode.HEADER:
                content.end = stream.tell()
            elif opcode == Opcode.CHUNK:
                try:
                    _take_chunk(content, offset, body)
                except (zlib.error, zstandard.ZstdError, RuntimeError, ValueError, struct.error):
                    break
                content.end = stream.tell()
            elif opcode == Opcode.MESSAGE_INDEX and content.chunks:
                (channel,) = struct.unpack_from("<H", body)
                content.chunks[-1].message_index_offsets[channel] = offset
                content.chunks[-1].message_index_length += _HEAD.size + len(body)
                if len(content.chunks[-1].message_index_offsets) == len(content.torn_index):
                    content.torn_index = []
                    content.end = stream.tell()
            else:
                break
    return content


def append_index(path: Path, content: FileContent, metadata: dict[str, str]) -> None:
    """Replaces what follows the last whole chunk by metadata, as rosbag2 keeps it, and an index.

    Raises OSError when the disk refuses; the file then stays without an index.
    """
    file = SealedFile.reopen(path, content.end)
    try:
        builder = RecordBuilder()
        if content.torn_index:
            chunk = content.chunks[-1]
            chunk.message_index_offsets = {}
            for index in content.torn_index:
                chunk.message_index_offsets[index.channel_id] = content.end + builder.count
                index.write(builder)
            chunk.message_index_length = builder.count
        start = content.end + builder.count
        Metadata("rosbag2", metadata).write(builder)
        kept = MetadataIndex(start, content.end + builder.count - start, "rosbag2")
        DataEnd(0).write(builder)
        file.write(builder.end())
        file.write(_summary(content, kept, file.tell()))
        file.finish()
    finally:
        file.close()


def _records(stream: IO[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Offset, opcode and body of each whole record."""
    while True:
        offset = stream.tell()
        head = stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return
        opcode, length = _HEAD.unpack(head)
        if opcode not in (Opcode.HEADER, Opcode.CHUNK, Opcode.MESSAGE_INDEX):
            return
        body = stream.read(length)
        if len(body) < length:
            return
        yield offset, opcode, body


def _take_chunk(content: FileContent, offset: int, body: bytes) -> None:
    """Notes what is in a chunk. Raises ValueError and others when it is damaged."""
    chunk = Chunk.read(ReadDataStream(BytesIO(body)))
    data = chunk.data
    if chunk.compression == "zstd":
        data = zstandard.decompress(data, chunk.uncompressed_size)
    elif chunk.compression == "lz4":
        data = lz4.frame.decompress(data)
    if len(data) != chunk.uncompressed_size or zlib.crc32(data) != chunk.uncompressed_crc:
        raise ValueError("checksum")
    indices: dict[int, MessageIndex] = {}
    position, view = 0, memoryview(data)
    while position < len(data):
        opcode, length = _HEAD.unpack_from(data, position)
        inside = position + _HEAD.size
        if opcode == Opcode.MESSAGE:
            channel, _, time = _MESSAGE.unpack_from(data, inside)
            index = indices.setdefault(channel, MessageIndex(channel, []))
            index.records.append((time, position))
        else:
            stream = ReadDataStream(BytesIO(view[inside : inside + length]))
            if opcode == Opcode.SCHEMA:
                schema = Schema.read(stream)
                content.schemas[schema.id] = schema
            elif opcode == Opcode.CHANNEL:
                channel_record = Channel.read(stream)
                content.channels[channel_record.id] = channel_record
        position = inside + length
    first = not content.chunks
    times = (chunk.message_start_time, chunk.message_end_time)
    content.start_time = times[0] if first else min(content.start_time, times[0])
    content.end_time = max(content.end_time, times[1])
    content.counts.update({channel: len(index.records) for channel, index in indices.items()})
    content.torn_index = list(indices.values())
    content.chunks.append(
        ChunkIndex(
            message_start_time=times[0],
            message_end_time=times[1],
            chunk_start_offset=offset,
            chunk_length=_HEAD.size + len(body),
            message_index_offsets={},
            message_index_length=0,
            compression=chunk.compression,
            compressed_size=len(chunk.data),
            uncompressed_size=chunk.uncompressed_size,
        )
    )


def _summary(content: FileContent, metadata: MetadataIndex, start: int) -> bytes:
    """The end of the file, from `start` [bytes]: summary, footer and magic."""
    statistics = Statistics(
        attachment_count=0,
        channel_count=len(content.channels),
        channel_message_counts=dict(content.counts),
        chunk_count=len(content.chunks),
        message_count=content.message_count,
        message_end_time=content.end_time,
        message_start_time=content.start_time,
        metadata_count=1,
        schema_count=len(content.schemas),
    )
    groups = (
        (Opcode.SCHEMA, content.schemas.values()),
        (Opcode.CHANNEL, content.channels.values()),
        (Opcode.STATISTICS, [statistics]),
        (Opcode.CHUNK_INDEX, content.chunks),
        (Opcode.METADATA_INDEX, [metadata]),
    )
    builder = RecordBuilder()
    offsets = []
    for opcode, records in groups:
        begin = builder.count
        for record in records:
            record.write(builder)
        if builder.count > begin:
            offsets.append(SummaryOffset(opcode, start + begin, builder.count - begin))
    offsets_start = start + builder.count
    for offset in offsets:
        offset.write(builder)
    summary = builder.end()
    # The checksum covers the footer's fields before it, too.
    head = struct.pack("<BQQQ", Opcode.FOOTER, 8 + 8 + 4, start, offsets_start)
    Footer(start, offsets_start, zlib.crc32(head, zlib.crc32(summary))).write(builder)
    return summary + builder.end() + MAGIC
