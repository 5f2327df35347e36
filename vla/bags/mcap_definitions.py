"""Schemas and channels of an MCAP file, each from its most reliable copy."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass, field

from mcap.opcode import Opcode
from mcap.records import Channel, Schema

from vla.bags.file_bytes import FileBytes
from vla.bags.mcap_chunks import read_channel, read_schema, records_in
from vla.bags.sealed_file import HEAD, MAGIC

# Sources of a schema or channel, best first: where a checksum covers it, among the data and in the
# summary where none does, and what is left of a damaged chunk.
CHECKED, UNCHECKED, REPEATED, LEFT_OVER = range(4)
FOOTER = struct.Struct("<QQI")


@dataclass
class Definitions:
    """Schemas and channels of a file by their ids, each from its most reliable copy."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    _ranks: dict[tuple[type, int], int] = field(default_factory=dict)

    def add(self, records: list[Schema | Channel], rank: int) -> bool:
        """Takes records of a source. Returns False where two equally reliable ones differ."""
        agree = True
        for record in records:
            known: dict = self.schemas if isinstance(record, Schema) else self.channels
            before = self._ranks.get((type(record), record.id), LEFT_OVER + 1)
            if rank < before:
                self._ranks[type(record), record.id] = rank
                agree = agree and (record.id not in known or known[record.id] == record)
                known[record.id] = record
            elif known[record.id] != record:
                agree = False
        return agree


def summary_of(buffer: FileBytes) -> tuple[bytes, bool]:
    """The summary at the end of a file, empty without a sound one, and whether it was checked."""
    foot = len(buffer) - len(MAGIC) - HEAD.size - FOOTER.size
    if foot < len(MAGIC) or buffer[foot : foot + HEAD.size] != HEAD.pack(Opcode.FOOTER, 20):
        return b"", False
    start, _, crc = buffer.unpack(FOOTER, foot + HEAD.size)
    if not len(MAGIC) <= start < foot:
        return b"", False
    if crc and buffer.crc32(start, foot + HEAD.size + 16) != crc:
        return b"", False
    return buffer[start:foot], crc != 0


def summary_definitions(buffer: FileBytes) -> tuple[list[Schema | Channel], bool]:
    """Schemas and channels of the summary, and whether a checksum covers them."""
    summary, checked = summary_of(buffer)
    return definitions_in(summary), checked


def definitions_in(data: bytes) -> list[Schema | Channel]:
    """Schemas and channels among records, up to the first invalid one."""
    found: list[Schema | Channel] = []
    with contextlib.suppress(struct.error, ValueError):
        for opcode, _, begin, end in records_in(data):
            if opcode == Opcode.SCHEMA:
                found.append(read_schema(data[begin:end]))
            elif opcode == Opcode.CHANNEL:
                found.append(read_channel(data[begin:end]))
    return found
