"""The contents of an MCAP file, its damage, and whether anything is missing at its end."""

from __future__ import annotations

import contextlib
import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Metadata

from vla.bags.file_bytes import FileBytes, open_regular
from vla.bags.mcap_chunks import (
    MESSAGE,
    ChunkContent,
    chunk_begin,
    read_channel,
    read_schema,
    torn_chunk,
)
from vla.bags.mcap_definitions import (
    CHECKED,
    FOOTER,
    LEFT_OVER,
    REPEATED,
    UNCHECKED,
    Definitions,
    definitions_in,
    summary_definitions,
)
from vla.bags.mcap_records import DAMAGED, Piece, has_magic, walk
from vla.bags.sealed_file import HEAD, MAGIC, MCAP_SEAL, PRIVATE
from vla.bags.writer import BagError
from vla.core.files import MOST_NUMBER
from vla.core.shown import brief

METADATA_NAME = "rosbag2"
_INDEX_ENTRY = struct.Struct("<QQ")


@dataclass
class DamagedRange:
    """One damaged range of a file."""

    start: int  # [bytes]
    end: int  # [bytes]
    chunk: bool  # whether a chunk was there
    begin_time: int = 0  # of the chunk [ns], 0 where unknown
    end_time: int = 0  # the same
    # Messages that were in it by channel, where its index says.
    counts: dict[int, int] = field(default_factory=dict)


@dataclass
class KeptChunk:
    """A sound chunk of the file: its offset, times [ns], and the offset of its index [bytes]."""

    start: int
    end: int
    begin_time: int
    end_time: int
    compression: str
    stored_size: int
    size: int
    counts: dict[int, int]
    index_offsets: dict[int, int] = field(default_factory=dict)
    index_length: int = 0


@dataclass
class Survey:
    """The contents of a file."""

    path: Path
    size: int
    definitions: Definitions = field(default_factory=Definitions)
    chunks: list[KeptChunk] = field(default_factory=list)  # that are sound
    loose: Counter[int] = field(default_factory=Counter)  # messages outside of chunks, by channel
    # Messages of the last chunk, which is cut.
    rescued: Counter[int] = field(default_factory=Counter)
    damaged: list[DamagedRange] = field(default_factory=list)
    flaws: list[str] = field(default_factory=list)  # what is wrong and costs nothing
    end: int = len(MAGIC)  # up to here everything is sound [bytes]
    sealed: bool = False  # only the mark of an unfinished file follows `end`
    finished: bool = False  # the file ends with a summary
    metadata: str = ""  # rosbag2's copy of metadata.yaml
    extras: int = 0  # attachments and metadata
    start_time: int = 0  # of all messages [ns], 0 without
    end_time: int = 0  # the same

    @property
    def counts(self) -> Counter[int]:
        """Messages that can be kept, by channel."""
        total = self.loose + self.rescued
        for chunk in self.chunks:
            total.update(chunk.counts)
        return total

    @property
    def message_count(self) -> int:
        """Messages that can be kept."""
        return self.counts.total()

    @property
    def whole(self) -> bool:
        """Whether the file is complete as its writer closed it."""
        return self.finished and not self.damaged and not self.flaws and not self.rescued

    @property
    def appendable(self) -> bool:
        """Whether only the index is missing, so that no data need be moved."""
        indexed = all(set(c.counts) == set(c.index_offsets) for c in self.chunks)
        rest = self.damaged or self.flaws or self.rescued or self.loose or self.extras
        return self.sealed and indexed and not rest

    @property
    def topic_counts(self) -> dict[str, int]:
        """Messages that can be kept, by topic, without topics that have none."""
        named: Counter[str] = Counter()
        for key, count in self.counts.items():
            named[self.topic(key)] += count
        return dict(named)

    def topic(self, channel: int) -> str:
        """Name of a channel, or a made-up one where the name is lost."""
        known = self.definitions.channels.get(channel)
        return known.topic if known else lost_topic(channel)


def lost_topic(channel: int) -> str:
    """The made-up name of a channel whose name is lost."""
    return f"/recovered/channel_{channel}"


@contextlib.contextmanager
def mapped(readable: Path, path: Path | None = None) -> Iterator[FileBytes]:
    """The bytes of an MCAP file. path: for errors, if it is opened elsewhere.

    Raises BagError where it is no MCAP file, or cannot be read.
    """
    path = path or readable
    descriptor = open_regular(readable, path)
    try:
        if not has_magic(os.pread(descriptor, len(MAGIC), 0)):
            raise BagError(
                f"{path} is no MCAP file, as it doesn't begin as one; it is left as it is"
            )
        yield FileBytes(descriptor, path)
    finally:
        os.close(descriptor)


def survey(readable: Path, path: Path | None = None) -> Survey:
    """Reads all of a file; arguments and errors as of mapped()."""
    with mapped(readable, path) as buffer:
        return _Surveyor(path or readable, buffer).survey()


class _Surveyor:
    """Reads one file."""

    def __init__(self, path: Path, buffer: FileBytes) -> None:
        self._buffer = buffer
        self._found = Survey(path, len(buffer))
        # Messages of the last chunk that its index must name, by channel.
        self._expected: dict[int, list[tuple[int, int]]] = {}
        self._times: list[tuple[int, int]] = []
        # Whether everything so far is sound, and whether the data have ended.
        self._sound = True
        self._ended = False
        # The damaged chunk whose message indices may come now.
        self._lost: DamagedRange | None = None

    def survey(self) -> Survey:
        found, buffer = self._found, self._buffer
        records, checked = summary_definitions(buffer)
        found.definitions.add(records, CHECKED if checked else REPEATED)
        for piece in walk(buffer):
            if piece.opcode == DAMAGED:
                self._take_damage(piece)
            else:
                if piece.flaw:
                    found.flaws.append(piece.flaw)
                self._take_record(piece)
            if piece.opcode not in (Opcode.MESSAGE_INDEX, DAMAGED):
                self._check_index()
                self._expected = {} if piece.chunk is None else dict(piece.chunk.messages)
                self._lost = None
            if piece.flaw:
                self._sound = False
        self._check_index()
        if unknown := sorted(found.counts.keys() - found.definitions.channels.keys()):
            found.flaws.append(f"nothing describes the channels {brief(unknown)}")
        # Later times are impossible, and metadata.yaml cannot hold them.
        if times := [span for span in self._times if span[1] < MOST_NUMBER]:
            found.start_time = min(begin for begin, _ in times)
            found.end_time = max(end for _, end in times)
        found.sealed = MCAP_SEAL.startswith(buffer[found.end : found.end + len(MCAP_SEAL) + 1])
        if buffer[-len(MAGIC) :] != MAGIC:
            found.finished = False
        for lost in found.damaged:
            self._bound(lost)
        return found

    def _take_record(self, piece: Piece) -> None:
        found = self._found
        if piece.chunk is not None:
            self._take_chunk(piece, piece.chunk)
        elif piece.opcode == Opcode.MESSAGE_INDEX:
            self._take_index(piece)
            return
        elif piece.opcode == Opcode.MESSAGE:
            channel, _, time, _ = MESSAGE.unpack_from(piece.body)
            found.loose[channel] += 1
            self._times.append((time, time))
        elif piece.opcode == Opcode.SCHEMA:
            self._define(read_schema, piece)
        elif piece.opcode == Opcode.CHANNEL:
            self._define(read_channel, piece)
        elif piece.opcode == Opcode.ATTACHMENT:
            found.extras += 1
        elif piece.opcode == Opcode.METADATA:
            found.extras += 1
            self._take_metadata(piece)
        elif piece.opcode == Opcode.DATA_END:
            (crc,) = struct.unpack("<I", piece.body)
            if crc and self._buffer.crc32(0, piece.start) != crc:
                found.flaws.append("the checksum of all data does not fit")
            self._sound, self._ended = False, True
        elif piece.opcode == Opcode.FOOTER:
            self._take_footer(piece)
        if self._sound and piece.opcode < PRIVATE:
            found.end = piece.end

    def _take_chunk(self, piece: Piece, chunk: ChunkContent) -> None:
        rank = CHECKED if chunk.crc else UNCHECKED
        self._agree(self._found.definitions.add(chunk.definitions, rank))
        self._found.chunks.append(
            KeptChunk(
                piece.start,
                piece.end,
                chunk.start_time,
                chunk.end_time,
                chunk.compression,
                len(chunk.stored),
                len(chunk.data),
                {channel: len(entries) for channel, entries in chunk.messages.items()},
            )
        )
        if chunk.messages:
            self._times.append((chunk.start_time, chunk.end_time))

    def _take_index(self, piece: Piece) -> None:
        (channel,) = struct.unpack_from("<H", piece.body)
        entries = piece.body[6:]
        if len(entries) % _INDEX_ENTRY.size:
            self._found.flaws.append("a message index is damaged")
            return
        listed = sorted(_INDEX_ENTRY.iter_unpack(entries))
        if (lost := self._lost) is not None:
            lost.counts[channel] = len(listed)
            if listed:
                lost.begin_time = min(lost.begin_time or listed[0][0], listed[0][0])
                lost.end_time = max(lost.end_time, listed[-1][0])
            return
        if not self._found.chunks:
            return
        if sorted(self._expected.pop(channel, [])) != listed:
            self._found.flaws.append("a message index is damaged")
            return
        chunk = self._found.chunks[-1]
        if self._sound and chunk.end + chunk.index_length == piece.start:
            chunk.index_offsets[channel] = piece.start
            chunk.index_length += piece.end - piece.start
            self._found.end = piece.end

    def _check_index(self) -> None:
        """Whether the index of the previous chunk is complete, or missing as a whole."""
        chunk = self._found.chunks[-1] if self._found.chunks else None
        if self._expected and chunk is not None and chunk.index_offsets:
            self._found.flaws.append("a message index is missing")
        self._expected = {}

    def _take_damage(self, piece: Piece) -> None:
        found = self._found
        self._sound = False
        tail = self._buffer[found.end : found.end + len(MCAP_SEAL) + 1]
        if piece.torn and MCAP_SEAL.startswith(tail):
            return
        if piece.torn and (chunk := torn_chunk(self._buffer, piece.start)) is not None:
            found.definitions.add(chunk.definitions, UNCHECKED)
            found.rescued.update({key: len(entries) for key, entries in chunk.messages.items()})
            self._times.append((chunk.start_time, chunk.end_time))
            return
        was_chunk = self._buffer[piece.start : piece.start + 1] == bytes([Opcode.CHUNK])
        # Without chunks, each record may have been a message.
        if piece.start == 0 or piece.torn or self._ended or (found.chunks and not was_chunk):
            found.flaws.append(f"{piece.end - piece.start} bytes are {piece.flaw}")
            return
        left = chunk_begin(self._buffer, piece.start, piece.end)
        found.definitions.add(definitions_in(left), LEFT_OVER)
        lost = DamagedRange(piece.start, piece.end, was_chunk)
        found.damaged.append(lost)
        self._lost = lost if was_chunk else None

    def _take_metadata(self, piece: Piece) -> None:
        with contextlib.suppress(Exception):
            record = Metadata.read(ReadDataStream(BytesIO(piece.body)))
            if record.name == METADATA_NAME:
                self._found.metadata = record.metadata.get("serialized_metadata", "")

    def _take_footer(self, piece: Piece) -> None:
        start, _, crc = FOOTER.unpack(piece.body)
        found = self._found
        found.finished = bool(start)
        fits = not crc or self._buffer.crc32(start, piece.start + HEAD.size + 16) == crc
        if start and (start > piece.start or not fits):
            found.flaws.append("the summary is damaged")

    def _define(self, read, piece: Piece) -> None:
        try:
            self._agree(self._found.definitions.add([read(piece.body)], UNCHECKED))
        except ValueError:
            self._found.flaws.append("a schema or channel is damaged")

    def _agree(self, agree: bool) -> None:
        if not agree:
            self._found.flaws.append("two copies of a schema or channel differ")

    def _bound(self, lost: DamagedRange) -> None:
        """Bounds a lost chunk's times by its neighbours where its index has none."""
        if lost.end_time or not lost.chunk:
            return
        before = [chunk.end_time for chunk in self._found.chunks if chunk.end <= lost.start]
        after = [chunk.begin_time for chunk in self._found.chunks if chunk.start >= lost.end]
        lost.begin_time = max(before, default=self._found.start_time)
        lost.end_time = min(after, default=self._found.end_time)
