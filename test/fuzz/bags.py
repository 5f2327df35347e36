"""Bags cut short and bags with one flipped bit: repair keeps all that is not in the damaged chunk.

The bags are written by the mcap library, as `ros2 bag record` writes them, with our types. What a
bag holds, and where, is told by its own records, without any of the code that is tested.
"""

from __future__ import annotations

import io
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import yaml
from mcap.records import Message
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.writer import CompressionType, Writer
from test_bag import ARRAY_TYPE, encode_array

from fuzz.report import Report
from vla.bags.reader import read_messages, recover_bag

MAGIC = 8
CHUNK = 0x06
MESSAGES = 60
COMPRESSIONS = (CompressionType.NONE, CompressionType.ZSTD, CompressionType.LZ4)
# As rosbag2 copies them from a publisher.
PROFILES = """\
- history: 1
  depth: 10
  reliability: 2
  durability: 2
  deadline: {sec: 9223372036, nsec: 854775807}
"""


@dataclass(frozen=True)
class Chunk:
    """Bytes begin..end of the file, and the payloads of the messages in it."""

    begin: int
    end: int
    numbers: frozenset[int]


def fuzz_bags(report: Report, cuts: int, flips: int, seed: int) -> None:
    """Repairs `cuts` bags that end too soon and `flips` bags with one wrong bit."""
    random = Random(seed)
    for number in range(cuts + flips):
        compression = COMPRESSIONS[number % len(COMPRESSIONS)]
        folder = report.folder / "bag"
        shutil.rmtree(folder, ignore_errors=True)
        chunks = write_bag(folder, compression, unfinished=number % 2 == 0)
        file = folder / "bag_0.mcap"
        data = bytearray(file.read_bytes())
        place = random.randrange(len(data))
        if number < cuts:
            del data[place:]
            case = f"cut at {place}"
            kept = [chunk for chunk in chunks if chunk.end <= place]
        else:
            data[place] ^= 1 << random.randrange(8)
            case = f"bit flipped at {place}"
            kept = [chunk for chunk in chunks if not chunk.begin <= place < chunk.end]
        file.write_bytes(data)
        wanted = set().union(*(chunk.numbers for chunk in kept))
        case += f" of {len(file.read_bytes())}, {compression.name}"
        report.try_case("bags", case, lambda folder=folder: recover_bag(folder))
        _judge(report, case, folder, bytes(data), wanted, chunks)


def _judge(
    report: Report, case: str, folder: Path, damaged: bytes, wanted: set[int], chunks: list[Chunk]
) -> None:
    """What was there must be there still; what is outside of the damage must be read."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    pieces = [damaged[chunk.begin : chunk.end] for chunk in chunks]
    whole = any(damaged in content for content in files)
    if not whole and not any(all(p in content for p in pieces) for content in files):
        report.add("bags", case, "data_lost", "the original is gone")
    try:
        found = {
            int(np.frombuffer(message.data[-16:], np.float64)[0])
            for message in read_messages(folder, allow_truncated=True)
        }
    except Exception as error:
        found = set()
        if not type(error).__module__.startswith("vla."):
            report.add("bags", case, "foreign_exception", repr(error))
    if lost := wanted - found:
        report.add("bags", case, "data_lost", f"{len(lost)} of {len(wanted)} messages are lost")
    if odd := found - set(range(MESSAGES)):
        report.add("bags", case, "nonsense_accepted", f"messages that nobody wrote: {odd}")


def write_bag(
    folder: Path, compression: CompressionType, unfinished: bool, profiles: str = PROFILES
) -> list[Chunk]:
    """A bag of six chunks or so. unfinished: its metadata says that its recorder never ended."""
    folder.mkdir(parents=True)
    file = folder / "bag_0.mcap"
    topic, start = "/sim/state", 1_700_000_000_000_000_000
    with file.open("wb") as stream:
        writer = Writer(stream, chunk_size=600, compression=compression)
        writer.start(profile="ros2", library="a test")
        schema = writer.register_schema(ARRAY_TYPE.name, "ros2msg", ARRAY_TYPE.definition.encode())
        channel = writer.register_channel(topic, "cdr", schema, {"offered_qos_profiles": profiles})
        for number in range(MESSAGES):
            time = start + number * 100_000_000
            data = encode_array([float(number), 0.5])
            writer.add_message(channel, time, data, time, number)
        writer.finish()
    listed = {
        "topic_metadata": {
            "name": topic,
            "type": ARRAY_TYPE.name,
            "serialization_format": "cdr",
            "offered_qos_profiles": "",
        },
        "message_count": MESSAGES,
    }
    span = {
        "duration": {"nanoseconds": (MESSAGES - 1) * 100_000_000},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": MESSAGES,
    }
    information = {
        "version": 9,
        "storage_identifier": "mcap",
        **span,
        "topics_with_message_count": [listed],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file.name],
        "files": [{"path": file.name, **span}],
        "custom_data": {"complete": "false"} if unfinished else None,
        "ros_distro": "jazzy",
    }
    text = yaml.safe_dump({"rosbag2_bagfile_information": information}, sort_keys=False)
    (folder / "metadata.yaml").write_text(text)
    return list(_chunks(file.read_bytes()))


def _chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a sound file. A message's sequence is its number."""
    place = MAGIC
    while place + 9 <= len(data) - MAGIC:
        code, length = struct.unpack_from("<BQ", data, place)
        end = place + 9 + length
        if code == CHUNK:
            reader = StreamReader(io.BytesIO(data[place:end]), skip_magic=True, emit_chunks=True)
            chunk = next(iter(reader.records))
            numbers = {r.sequence for r in breakup_chunk(chunk) if isinstance(r, Message)}
            yield Chunk(place, end, frozenset(numbers))
        place = end
