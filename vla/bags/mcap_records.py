"""Reads an MCAP file record by record, past damage.

A record counts only if its content fits its length, and a chunk only if its checksum fits. After
damage the walk continues at the next sound record or chunk, so that one bad byte costs at most one
chunk, in a file of any writer.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mcap.opcode import Opcode

from vla.bags.file_bytes import FileBytes
from vla.bags.mcap_chunks import MESSAGE, ChunkContent, chunk_at, chunk_ends
from vla.bags.sealed_file import HEAD, MAGIC, PRIVATE

# Not an opcode: bytes that are no sound record.
DAMAGED = 0

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
# A chunk: opcode, length, times, size, checksum, and one of the known compressions.
_CHUNK_PATTERN = re.compile(
    rb"\x06.{6}\x00\x00.{28}(?:\x00\x00\x00\x00|\x03\x00\x00\x00lz4|\x04\x00\x00\x00zstd)",
    re.DOTALL,
)
_END_PATTERN = re.compile(re.escape(HEAD.pack(Opcode.DATA_END, 4)))
_RECORD_PATTERN = re.compile(rb"[\x01-\x0f].{4}\x00\x00\x00\x00", re.DOTALL)
_LONGEST_PATTERN = 64
# Records that must follow each other for an offset without checksums to count as sound.
_CHAIN = 4


@dataclass(frozen=True)
class Piece:
    """A record, or with the opcode DAMAGED bytes that are none."""

    opcode: int
    start: int  # [bytes]
    end: int  # [bytes]
    body: bytes = b""
    chunk: ChunkContent | None = None
    torn: bool = False  # it runs to the end of the file, cut short
    flaw: str = ""  # what is wrong with it; empty for a sound record


@dataclass
class _Walk:
    """What is known so far."""

    buffer: FileBytes
    chunked: bool | None = None  # None until it is needed


def has_magic(begin: bytes) -> bool:
    """Whether these 8 bytes are MCAP's magic, one of which may be damaged."""
    return len(begin) == len(MAGIC) and sum(a != b for a, b in zip(begin, MAGIC, strict=True)) <= 1


def walk(buffer: FileBytes) -> Iterator[Piece]:
    """All pieces of a file in their order, without the magic at both ends where it is sound."""
    known, size = _Walk(buffer), len(buffer)
    if buffer[: len(MAGIC)] != MAGIC:
        yield Piece(DAMAGED, 0, len(MAGIC), flaw="the first bytes are damaged")
    position = len(MAGIC)
    while position < size:
        if size - position == len(MAGIC) and has_magic(buffer[position:]):
            if buffer[position:] != MAGIC:
                yield Piece(DAMAGED, position, size, flaw="the last bytes are damaged")
            return
        piece = _piece(known, position)
        yield piece
        position = piece.end


def _piece(known: _Walk, position: int) -> Piece:
    """The record at a place, or the damage that begins there."""
    buffer = known.buffer
    head = buffer[position : position + HEAD.size]
    if len(head) == HEAD.size:
        opcode, length = HEAD.unpack(head)
        end = position + HEAD.size + length
        fits = opcode != Opcode.CHUNK and _fits(known, position)
        if fits and (opcode != Opcode.MESSAGE or _has_length(known, position)):
            return Piece(opcode, position, end, buffer[position + HEAD.size : end])
        if (found := chunk_at(buffer, position)) is not None:
            chunk, chunk_end = found
            known.chunked = True
            flaw = "" if chunk.as_written else "the head of a chunk is damaged, its data are sound"
            return Piece(Opcode.CHUNK, position, chunk_end, b"", chunk, flaw=flaw)
        if opcode >= PRIVATE and end <= len(buffer) and _plausible_next(known, end):
            return Piece(opcode, position, end, buffer[position + HEAD.size : end])
    return _damage(known, position)


def _has_length(known: _Walk, place: int) -> bool:
    """Whether a message outside of chunks has its stated length, which nothing else confirms.

    The length is wrong where records follow each other from the offset at which it would end with
    one bit of the length flipped: within it, or after it if nothing follows it, unless that is the
    end of a record that has a flipped bit itself.
    """
    _, length = known.buffer.unpack(HEAD, place)
    begin = place + HEAD.size
    end = begin + length
    followed = _plausible_next(known, end)
    for bit in range((len(known.buffer) - begin).bit_length()):
        other = begin + (length ^ (1 << bit))
        if other < begin + MESSAGE.size or (followed and other > end):
            continue
        if not _is_chain(known, other):
            continue
        if other < end:
            return False
        first = next(_chains_from(known, end + 1, other + 1), None)
        if first == other and not _almost_a_head(known.buffer[end : end + HEAD.size], other - end):
            return False
    return True


def _almost_a_head(head: bytes, size: int) -> bool:
    """Whether these bytes are, but for one bit, the head of a record of that size."""
    found = int.from_bytes(head, "little")
    wanted = (HEAD.pack(opcode, size - HEAD.size) for opcode in _LAYOUTS)
    return size >= HEAD.size and any(
        (found ^ int.from_bytes(other, "little")).bit_count() <= 1 for other in wanted
    )


def _damage(known: _Walk, position: int) -> Piece:
    """The damage from here to the next sound record, or to the end."""
    buffer, size = known.buffer, len(known.buffer)
    following = _next_sound(known, position)
    if following is not None:
        return Piece(DAMAGED, position, following, flaw="damaged")
    head = buffer[position : position + HEAD.size]
    torn = len(head) < HEAD.size or position + HEAD.size + HEAD.unpack(head)[1] > size
    return Piece(DAMAGED, position, size, torn=torn, flaw="cut" if torn else "damaged")


def _next_sound(known: _Walk, position: int) -> int | None:
    buffer, size = known.buffer, len(known.buffer)
    candidates = []
    head = buffer[position : position + HEAD.size]
    if len(head) == HEAD.size:
        end = position + HEAD.size + HEAD.unpack(head)[1]
        if end == size or (end < size and _plausible_next(known, end)):
            candidates.append(end)
    limit = candidates[0] if candidates else size
    if known.chunked is None:
        known.chunked = next(_chunks_from(buffer, len(MAGIC), size), None) is not None
    if known.chunked:
        candidates += _first(_chunks_from(buffer, position + 1, limit))
        candidates += _first(_ends_from(buffer, position + 1, limit))
    else:
        candidates += _first(_chains_from(known, position + 1, limit))
    return min(candidates, default=None)


def _first(places: Iterator[int]) -> list[int]:
    return [place for place in [next(places, None)] if place is not None]


def _chunks_from(buffer: FileBytes, begin: int, end: int) -> Iterator[int]:
    """Offsets of chunks by their two lengths; the walk checks the checksum."""
    for place in buffer.search(_CHUNK_PATTERN, begin, end, _LONGEST_PATTERN):
        _, outer, inner = chunk_ends(buffer, place)
        if outer == inner and outer > 0:
            yield place


def _ends_from(buffer: FileBytes, begin: int, end: int) -> Iterator[int]:
    """Offsets of the record DataEnd, followed by a sound record."""
    for place in buffer.search(_END_PATTERN, begin, end, _LONGEST_PATTERN):
        if _fits(_Walk(buffer), place + HEAD.size + 4):
            yield place


def _chains_from(known: _Walk, begin: int, end: int) -> Iterator[int]:
    """Offsets at which several records follow each other, for files without chunks."""
    for place in known.buffer.search(_RECORD_PATTERN, begin, end, _LONGEST_PATTERN):
        if _is_chain(known, place):
            yield place


def _is_chain(known: _Walk, place: int) -> bool:
    for index in range(_CHAIN):
        if not _fits(known, place):
            return index > 0 and _is_cut(known, place)
        opcode, length = HEAD.unpack(known.buffer[place : place + HEAD.size])
        place += HEAD.size + length
        if opcode == Opcode.FOOTER or place == len(known.buffer):
            return True
    return True


def _is_cut(known: _Walk, place: int) -> bool:
    """Whether the last record of the file may begin here and be cut."""
    head = known.buffer[place : place + HEAD.size]
    rest = len(known.buffer) - place
    if len(head) < HEAD.size:
        return True
    opcode, length = HEAD.unpack(head)
    return opcode in _LAYOUTS and rest - HEAD.size < length < 2**32


def _plausible_next(known: _Walk, place: int) -> bool:
    """Whether a record, a chunk or the end of the file is at an offset."""
    buffer = known.buffer
    if place == len(buffer) or buffer[place : place + len(MAGIC)] == MAGIC:
        return True
    head = buffer[place : place + HEAD.size]
    if len(head) < HEAD.size:
        return False
    if head[0] == Opcode.CHUNK:
        _, outer, inner = chunk_ends(buffer, place)
        return outer == inner and outer > 0
    return head[0] == PRIVATE or _fits(known, place)


def _fits(known: _Walk, place: int) -> bool:
    """Whether a known record other than a chunk, whose content fits its length, begins here."""
    buffer = known.buffer
    head = buffer[place : place + HEAD.size]
    if len(head) < HEAD.size:
        return False
    opcode, length = HEAD.unpack(head)
    begin, end = place + HEAD.size, place + HEAD.size + length
    layout = _LAYOUTS.get(opcode)
    if end > len(buffer) or layout is None:
        return False
    if opcode != Opcode.MESSAGE:
        return _end_of(buffer, begin, end, layout) == end
    if length < MESSAGE.size:
        return False
    # Opcodes that one flipped bit turns into that of a message.
    kinds = (*_NEAR_A_MESSAGE, Opcode.MESSAGE_INDEX) if known.chunked else _NEAR_A_MESSAGE
    return not any(_end_of(buffer, begin, end, _LAYOUTS[kind]) == end for kind in kinds)


# Contents of records: a number is so many bytes, "s" a text or bytes with a length of 4 bytes in
# front, "b" bytes with one of 8.
_LAYOUTS: dict[int, tuple[int | str, ...]] = {
    Opcode.HEADER: ("s", "s"),
    Opcode.FOOTER: (20,),
    Opcode.SCHEMA: (2, "s", "s", "s"),
    Opcode.CHANNEL: (4, "s", "s", "s"),
    Opcode.MESSAGE: (),
    Opcode.MESSAGE_INDEX: (2, "s"),
    Opcode.CHUNK_INDEX: (32, "s", 8, "s", 16),
    Opcode.ATTACHMENT: (16, "s", "s", "b", 4),
    Opcode.ATTACHMENT_INDEX: (40, "s", "s"),
    Opcode.STATISTICS: (42, "s"),
    Opcode.METADATA: ("s", "s"),
    Opcode.METADATA_INDEX: (16, "s"),
    Opcode.SUMMARY_OFFSET: (17,),
    Opcode.DATA_END: (4,),
}
_NEAR_A_MESSAGE = (Opcode.HEADER, Opcode.CHANNEL, Opcode.METADATA_INDEX)


def _end_of(buffer: FileBytes, begin: int, end: int, layout: tuple[int | str, ...]) -> int:
    """Where content of that layout ends; -1 where it doesn't fit before `end`."""
    for part in layout:
        if isinstance(part, int):
            begin += part
        else:
            unpack = _U32 if part == "s" else _U64
            if begin + unpack.size > end:
                return -1
            begin += unpack.size + buffer.unpack(unpack, begin)[0]
        if begin > end:
            return -1
    return begin
