"""Small MCAP bags of several writers, and what of them one flipped bit can cost at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mcap.records import Chunk
from mcap.records import Message as MessageRecord
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as RosbagsWriter
from rosbags.typesys import Stores, get_typestore

from vla.bags.message_types import load_message_type
from vla.bags.reader import read_messages, recover_bag, validate_bag
from vla.bags.writer import BagError, BagWriter

STORE = get_typestore(Stores.ROS2_JAZZY)
KINDS = ("std_msgs/msg/UInt8MultiArray", "std_msgs/msg/String")
TOPICS = ("/bytes", "/words")
COUNT = 90
BEGIN = 1_700_000_000_000_000_000
STEP = 10_000_000

Key = tuple[str, int, bytes]


def messages() -> list[Key]:
    """Topic, time and bytes of the messages of every bag here."""
    generator = np.random.default_rng(7)
    layout = STORE.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    found = []
    for index in range(COUNT):
        kind = KINDS[index % 2]
        if index % 2:
            value = STORE.types[kind](data=f"word {index}" * int(generator.integers(1, 9)))
        else:
            size = int(generator.integers(100, 400))
            data = generator.integers(0, 4, size, np.uint8)
            value = STORE.types[kind](layout=layout, data=data)
        data = bytes(STORE.serialize_cdr(value, kind))
        found.append((TOPICS[index % 2], BEGIN + index * STEP, data))
    return found


def write_ours(folder: Path, compression: str = "none", closed: bool = True) -> None:
    writer = BagWriter(folder, {"instruction": "pick up"}, compression)
    topics = [
        writer.add_topic(name, load_message_type(kind, ()))
        for name, kind in zip(TOPICS, KINDS, strict=True)
    ]
    for index, (_, time, data) in enumerate(messages()):
        writer.write(topics[index % 2], data, time)
        if index % 15 == 14:
            writer.flush()
    writer.close() if closed else writer.abandon()


def write_mcap(folder: Path, compression: str = "NONE", **options) -> None:
    """By the mcap library, without metadata.yaml."""
    folder.mkdir()
    with (folder / f"{folder.name}.mcap").open("wb") as stream:
        writer = McapWriter(
            stream, chunk_size=2500, compression=CompressionType[compression], **options
        )
        writer.start(profile="ros2")
        channels = []
        for name, kind in zip(TOPICS, KINDS, strict=True):
            text = load_message_type(kind, ()).definition.encode()
            schema = writer.register_schema(kind, "ros2msg", text)
            channels.append(writer.register_channel(name, "cdr", schema))
        for index, (_, time, data) in enumerate(messages()):
            writer.add_message(channels[index % 2], time, data, time, index)
        writer.finish()


def write_rosbags(folder: Path) -> None:
    """By the rosbags library, which makes one chunk of so few messages."""
    with RosbagsWriter(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = [
            writer.add_connection(name, kind, typestore=STORE)
            for name, kind in zip(TOPICS, KINDS, strict=True)
        ]
        for index, (_, time, data) in enumerate(messages()):
            writer.write(connections[index % 2], time, data)


WRITERS: dict[str, Callable[[Path], None]] = {
    "ours": write_ours,
    "ours_zstd": lambda folder: write_ours(folder, "zstd"),
    "ours_lz4": lambda folder: write_ours(folder, "lz4"),
    "ours_killed": lambda folder: write_ours(folder, closed=False),
    "ours_killed_zstd": lambda folder: write_ours(folder, "zstd", closed=False),
    "mcap": write_mcap,
    "mcap_zstd": lambda folder: write_mcap(folder, "ZSTD"),
    "mcap_lz4": lambda folder: write_mcap(folder, "LZ4"),
    "mcap_data_crc": lambda folder: write_mcap(folder, enable_data_crcs=True),
    "mcap_unchunked": lambda folder: write_mcap(folder, use_chunking=False),
    "rosbags": write_rosbags,
}


@dataclass(frozen=True)
class Place:
    """Where some messages stand in a file [bytes]."""

    start: int
    end: int
    messages: tuple[Key, ...]


def places(file: Path) -> list[Place]:
    """Each chunk, and each message outside of chunks, as the mcap library finds them."""
    found, names = [], {}
    with file.open("rb") as stream:
        reader = StreamReader(stream, emit_chunks=True).records
        position = 8
        for record in reader:
            end = stream.tell()
            inside = breakup_chunk(record) if isinstance(record, Chunk) else [record]
            keys = []
            for entry in inside:
                if hasattr(entry, "topic"):
                    names[entry.id] = entry.topic
                if isinstance(entry, MessageRecord):
                    keys.append((names[entry.channel_id], entry.log_time, entry.data))
            if keys or isinstance(record, Chunk):
                found.append(Place(position, end, tuple(keys)))
            position = end
    return found


def flipped_bits_cost_one_chunk(
    folder: Path, write: Callable[[Path], None], flips: int, seed: int
) -> Counter[str]:
    """Flips one bit at a time all over a bag, repairs it, and counts how it went.

    Asserts that every message outside of the damaged chunk is kept, with its topic, that the
    original is still there, and that nothing but a BagError is raised.
    """
    write(folder)
    file = next(folder.glob("*.mcap"))
    content, known = file.read_bytes(), places(file)
    others = {path: path.read_bytes() for path in folder.iterdir() if path != file}
    generator = np.random.default_rng(seed)
    # All over the file, and as often in what is not messages, which is less of it.
    covered = np.zeros(len(content), bool)
    for place in known:
        covered[place.start + 60 : place.end] = True
    outside = np.flatnonzero(~covered)
    bits = generator.integers(8 * len(content), size=flips // 2).tolist()
    bits += (8 * generator.choice(outside, flips // 2) + generator.integers(8)).tolist()
    outcomes: Counter[str] = Counter()
    for bit in bits:
        for path in folder.iterdir():
            path.unlink()
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        for path, text in others.items():
            path.write_bytes(text)
        expected = Counter(
            key
            for place in known
            if not place.start <= bit // 8 < place.end
            for key in place.messages
        )
        where = f"{folder.name}, bit {bit % 8} of byte {bit // 8}"
        try:
            report = recover_bag(folder)
        except BagError as error:
            assert not expected, f"{where}: {error}"
            assert file.read_bytes() == damaged, where
            outcomes["refused"] += 1
            continue
        kept = Counter((m.topic, m.receive_time, m.data) for m in read_messages(folder))
        assert not expected - kept, f"{where}: {len(expected - kept)} messages missing"
        assert validate_bag(folder).message_count == report.message_count, where
        changed = file.read_bytes() != damaged
        whole = damaged in [path.read_bytes() for path in report.originals]
        # Completed in place, where all but the mark of an unfinished file is as it was.
        appended = file.read_bytes().startswith(damaged[:-60])
        assert whole or appended or not changed, f"{where}: the original is gone"
        outcomes["lost" if report.lost else "repaired" if changed else "as it was"] += 1
    return outcomes
