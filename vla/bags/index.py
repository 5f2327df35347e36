"""Completes MCAP files: the index, summary and footer that a killed recorder did not write."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Attachment,
    AttachmentIndex,
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

from vla.bags.mcap_chunks import ChunkContent, chunk_content, torn_chunk
from vla.bags.mcap_records import DAMAGED, Piece, walk
from vla.bags.mcap_survey import METADATA_NAME, KeptChunk, Survey, lost_topic, mapped
from vla.bags.sealed_file import HEAD, MAGIC, SealedFile

# Messages outside of chunks are put into chunks of this size [bytes].
_CHUNK_SIZE = 4 * 1024 * 1024


@dataclass
class FileIndex:
    """The contents of a file's summary."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    chunks: list[ChunkIndex] = field(default_factory=list)
    attachments: list[AttachmentIndex] = field(default_factory=list)
    metadata: list[MetadataIndex] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)  # messages by channel
    start_time: int = 0  # [ns]
    end_time: int = 0  # [ns]


def append_index(found: Survey, metadata: dict[str, str]) -> None:
    """Replaces the mark "unfinished" by metadata, as rosbag2 stores it, and an index.

    Raises OSError when the disk refuses; the file then stays without an index.
    """
    file = SealedFile.reopen(found.path, found.end)
    try:
        index = _index_of(found)
        index.chunks = [_chunk_index(chunk) for chunk in found.chunks]
        _finish(file, index, metadata)
    finally:
        file.close()


def write_sound_parts(found: Survey, target: Path, metadata: dict[str, str]) -> None:
    """Copies all sound parts of a file into a new one, chunk by chunk, with an index.

    target: replaced if it exists. Raises OSError when the disk refuses.
    """
    target.unlink(missing_ok=True)
    file = SealedFile(target)
    try:
        with mapped(found.path) as buffer:
            copy = _Copy(file, _index_of(found))
            for piece in walk(buffer):
                chunk = piece.chunk
                if piece.opcode == DAMAGED and piece.torn:
                    chunk = torn_chunk(buffer, piece.start)
                copy.take(piece, chunk)
            copy.flush()
        _finish(file, copy.index, metadata)
    finally:
        file.close()


def _index_of(found: Survey) -> FileIndex:
    """An index without offsets."""
    index = FileIndex(
        dict(found.definitions.schemas),
        dict(found.definitions.channels),
        counts=found.counts,
        start_time=found.start_time,
        end_time=found.end_time,
    )
    for key in found.counts:
        if key not in index.channels:
            index.channels[key] = Channel(
                id=key, topic=lost_topic(key), message_encoding="", schema_id=0, metadata={}
            )
    for key, channel in index.channels.items():
        if channel.schema_id not in index.schemas:
            index.channels[key] = replace(channel, schema_id=0)
    return index


def _chunk_index(chunk: KeptChunk) -> ChunkIndex:
    return ChunkIndex(
        message_start_time=chunk.begin_time,
        message_end_time=chunk.end_time,
        chunk_start_offset=chunk.start,
        chunk_length=chunk.end - chunk.start,
        message_index_offsets=chunk.index_offsets,
        message_index_length=chunk.index_length,
        compression=chunk.compression,
        compressed_size=chunk.stored_size,
        uncompressed_size=chunk.size,
    )


class _Copy:
    """Writes sound parts, and records their offsets. Loose messages are gathered in chunks."""

    def __init__(self, file: SealedFile, index: FileIndex) -> None:
        self._file, self.index = file, index
        self._loose: list[bytes] = []
        self._loose_size = 0
        builder = RecordBuilder()
        Header("ros2", "vla_ros").write(builder)
        # Repeated outside of all chunks, so that no damaged chunk can lose them.
        for record in (*index.schemas.values(), *index.channels.values()):
            record.write(builder)
        file.write(MAGIC + builder.end())

    def take(self, piece: Piece, chunk: ChunkContent | None) -> None:
        """Takes one piece of the other file, with the content of its chunk."""
        if chunk is not None:
            self.flush()
            self._write_chunk(chunk)
        elif piece.opcode == Opcode.MESSAGE:
            self._loose.append(HEAD.pack(piece.opcode, len(piece.body)) + piece.body)
            self._loose_size += len(self._loose[-1])
            if self._loose_size >= _CHUNK_SIZE:
                self.flush()
        elif piece.opcode in (Opcode.METADATA, Opcode.ATTACHMENT):
            self.flush()
            self._copy_extra(piece)
        self._file.flush()

    def flush(self) -> None:
        """Writes the loose messages so far as a chunk."""
        if self._loose:
            data = b"".join(self._loose)
            self._loose, self._loose_size = [], 0
            self._write_chunk(chunk_content(data, data, "", zlib.crc32(data)))

    def _write_chunk(self, chunk: ChunkContent) -> None:
        file, builder, offset = self._file, RecordBuilder(), self._file.tell()
        Chunk(
            compression=chunk.compression,
            data=chunk.stored,
            message_start_time=chunk.start_time,
            message_end_time=chunk.end_time,
            uncompressed_crc=zlib.crc32(chunk.data),
            uncompressed_size=len(chunk.data),
        ).write(builder)
        length = builder.count
        offsets = {}
        for channel, entries in chunk.messages.items():
            offsets[channel] = offset + builder.count
            MessageIndex(channel, entries).write(builder)
        index_length = builder.count - length
        file.write(builder.end())
        self.index.chunks.append(
            ChunkIndex(
                message_start_time=chunk.start_time,
                message_end_time=chunk.end_time,
                chunk_start_offset=offset,
                chunk_length=length,
                message_index_offsets=offsets,
                message_index_length=index_length,
                compression=chunk.compression,
                compressed_size=len(chunk.stored),
                uncompressed_size=len(chunk.data),
            )
        )

    def _copy_extra(self, piece: Piece) -> None:
        """Copies an attachment, or metadata other than rosbag2's, which is rewritten at the end."""
        offset, length = self._file.tell(), piece.end - piece.start
        stream = ReadDataStream(BytesIO(piece.body))
        try:
            if piece.opcode == Opcode.METADATA:
                record = Metadata.read(stream)
                if record.name == METADATA_NAME:
                    return
                self.index.metadata.append(MetadataIndex(offset, length, record.name))
            else:
                attachment = Attachment.read(stream)
                self.index.attachments.append(
                    AttachmentIndex(
                        offset=offset,
                        length=length,
                        create_time=attachment.create_time,
                        log_time=attachment.log_time,
                        data_size=len(attachment.data),
                        name=attachment.name,
                        media_type=attachment.media_type,
                    )
                )
        except ValueError:
            return
        self._file.write(HEAD.pack(piece.opcode, len(piece.body)) + piece.body)


def _finish(file: SealedFile, index: FileIndex, metadata: dict[str, str]) -> None:
    builder, start = RecordBuilder(), file.tell()
    Metadata(METADATA_NAME, metadata).write(builder)
    index.metadata.append(MetadataIndex(start, builder.count, METADATA_NAME))
    DataEnd(0).write(builder)
    file.write(builder.end())
    file.write(_summary(index, file.tell()))
    file.finish()


def _summary(content: FileIndex, start: int) -> bytes:
    """The end of the file, from `start` [bytes]: summary, footer and magic."""
    statistics = Statistics(
        attachment_count=len(content.attachments),
        channel_count=len(content.channels),
        channel_message_counts=dict(content.counts),
        chunk_count=len(content.chunks),
        message_count=content.counts.total(),
        message_end_time=content.end_time,
        message_start_time=content.start_time,
        metadata_count=len(content.metadata),
        schema_count=len(content.schemas),
    )
    groups = (
        (Opcode.SCHEMA, content.schemas.values()),
        (Opcode.CHANNEL, content.channels.values()),
        (Opcode.STATISTICS, [statistics]),
        (Opcode.CHUNK_INDEX, content.chunks),
        (Opcode.ATTACHMENT_INDEX, content.attachments),
        (Opcode.METADATA_INDEX, content.metadata),
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
