"""The chunks of an MCAP file and their contents: sound, damaged or cut."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Schema

from vla.bags.decompression import CompressionError, decompress, decompress_begin
from vla.bags.file_bytes import FileBytes
from vla.bags.sealed_file import HEAD, PRIVATE

MESSAGE = struct.Struct("<HIQQ")
_CHUNK = struct.Struct("<QQQII")
_CHUNK_BYTE = bytes([Opcode.CHUNK])
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class ChunkContent:
    """A sound chunk."""

    data: bytes  # decompressed records
    stored: bytes  # as the file holds them
    compression: str
    crc: int
    start_time: int  # of its messages [ns], 0 without
    end_time: int  # likewise
    schemas: dict[int, Schema]
    channels: dict[int, Channel]
    messages: dict[int, list[tuple[int, int]]]  # by channel, time [ns] and offset in `data`
    as_written: bool = True  # False where a field beside the data was wrong

    @property
    def definitions(self) -> list[Schema | Channel]:
        """Its schemas and channels."""
        return [*self.schemas.values(), *self.channels.values()]


def chunk_ends(buffer: FileBytes, place: int) -> tuple[int, int, int]:
    """Where a chunk's data begin, and where they end by the record's length and by their own.

    Zeros where there is no chunk.
    """
    fixed = place + HEAD.size + _CHUNK.size
    if fixed > len(buffer):
        return 0, 0, 0
    name = buffer.unpack(_CHUNK, place + HEAD.size)[4]
    begin = fixed + name + _U64.size
    if name > 4 or begin > len(buffer):
        return 0, 0, 0
    outer = place + HEAD.size + buffer.unpack(HEAD, place)[1]
    return begin, outer, begin + buffer.unpack(_U64, fixed + name)[0]


def chunk_at(buffer: FileBytes, place: int) -> tuple[ChunkContent, int] | None:
    """The sound chunk at an offset, and its end; None where there is none.

    A chunk with a wrong opcode or one wrong length is sound if its checksum fits.
    """
    begin, outer, inner = chunk_ends(buffer, place)
    if not begin:
        return None
    start, stop, size, crc, name = buffer.unpack(_CHUNK, place + HEAD.size)
    fixed = place + HEAD.size + _CHUNK.size
    compression = buffer[fixed : fixed + name].decode("ascii", "replace")
    exact = outer == inner and buffer[place : place + 1] == _CHUNK_BYTE
    for end in dict.fromkeys((outer, inner)):
        if not begin <= end <= len(buffer) or not (crc or exact):
            continue
        stored = buffer[begin:end]
        try:
            data = decompress(stored, compression)
            if crc and zlib.crc32(data) != crc:
                continue
            content = chunk_content(data, stored, compression, crc)
        except (CompressionError, ValueError, struct.error):
            continue
        times = (content.start_time, content.end_time)
        same = exact and size == len(data) and (not content.messages or times == (start, stop))
        return (content if same else replace(content, as_written=False)), end
    return None


def chunk_content(data: bytes, stored: bytes, compression: str, crc: int) -> ChunkContent:
    """Parses a chunk's data. Raises ValueError or struct.error where they are no records."""
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    messages: dict[int, list[tuple[int, int]]] = {}
    first, last = 2**64, 0
    for opcode, start, begin, end in records_in(data):
        if end > len(data):
            raise ValueError("a record in the chunk is longer than the chunk")
        if opcode == Opcode.MESSAGE:
            channel, _, time, _ = MESSAGE.unpack_from(data, begin)
            messages.setdefault(channel, []).append((time, start))
            first, last = min(first, time), max(last, time)
        elif opcode == Opcode.SCHEMA:
            schema = read_schema(data[begin:end])
            schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            found = read_channel(data[begin:end])
            channels[found.id] = found
        elif opcode < PRIVATE:
            raise ValueError("a chunk holds a record that no chunk holds")
    times = (first, last) if messages else (0, 0)
    return ChunkContent(data, stored, compression, crc, *times, schemas, channels, messages)


def records_in(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Opcode, offset, and content range of each record of a chunk.

    The last may end beyond the data. Raises struct.error where one begins just before the end.
    """
    position, size = 0, len(data)
    while position < size:
        opcode, length = HEAD.unpack_from(data, position)
        begin = position + HEAD.size
        yield opcode, position, begin, begin + length
        position = begin + length


def chunk_begin(buffer: FileBytes, place: int, end: int) -> bytes:
    """What can be decompressed of a damaged chunk, unchecked; empty where it is none."""
    begin = chunk_ends(buffer, place)[0]
    if not 0 < begin <= end:
        return b""
    fixed = place + HEAD.size + _CHUNK.size
    name = buffer.unpack(_CHUNK, place + HEAD.size)[4]
    compression = buffer[fixed : fixed + name].decode("ascii", "replace")
    try:
        return decompress_begin(buffer[begin:end], compression)[0]
    except CompressionError:
        return b""


def torn_chunk(buffer: FileBytes, place: int) -> ChunkContent | None:
    """The rest of a chunk that the end of the file cuts; None without a whole message."""
    _, outer, _ = chunk_ends(buffer, place)
    if buffer[place : place + 1] != _CHUNK_BYTE or outer <= len(buffer):
        return None
    data = chunk_begin(buffer, place, len(buffer))
    end = 0
    try:
        for opcode, _, _, stop in records_in(data):
            if stop > len(data) or opcode not in (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE):
                break
            end = stop
    except struct.error:
        pass
    data = data[:end]
    try:
        content = chunk_content(data, data, "", zlib.crc32(data))
    except (ValueError, struct.error):
        return None
    return content if content.messages else None


def read_schema(body: bytes) -> Schema:
    """Raises ValueError for an invalid one."""
    return _read(Schema.read, body)


def read_channel(body: bytes) -> Channel:
    """Raises ValueError for an invalid one."""
    return _read(Channel.read, body)


def _read(read: Callable, body: bytes):
    try:
        return read(ReadDataStream(BytesIO(body)))
    except Exception as error:
        # The library's errors for invalid UTF-8 or a wrong length vary.
        raise ValueError("a record that cannot be read") from error
