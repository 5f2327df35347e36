"""Completing a bag in place: the same file that closing it would have made, whatever was torn."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader

from vla.bags.mcap_survey import survey
from vla.bags.message_types import load_message_type
from vla.bags.reader import read_messages, read_metadata, recover_bag, validate_bag
from vla.bags.sealed_file import MCAP_SEAL, SealedFile
from vla.bags.writer import BagError, BagWriter

TYPE = load_message_type("std_msgs/msg/UInt8MultiArray", ())


def encoded(size: int) -> bytes:
    return bytes([0, 1, 0, 0]) + bytes(8) + size.to_bytes(4, "little") + os.urandom(size)


def write_unfinished(folder: Path, count: int = 60, compression: str = "none") -> Path:
    """Two topics, flushed every 20 messages, then left."""
    writer = BagWriter(folder, {"note": "killed"}, compression)
    topics = [writer.add_topic(name, TYPE) for name in ("/a", "/b")]
    for index in range(count):
        writer.write(topics[index % 2], encoded(100), 1000 + index, sequence=index)
        if index % 20 == 19:
            writer.flush()
    writer.abandon()
    return folder / f"{folder.name}.mcap"


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_completed_bag_has_index_and_metadata(tmp_path, compression):
    bag = tmp_path / "bag"
    file = write_unfinished(bag, compression=compression)
    before = file.read_bytes()[: -len(MCAP_SEAL)]
    messages = list(read_messages(bag, allow_truncated=True))
    report = recover_bag(bag)
    assert report.counts == {"/a": 30, "/b": 30} and report.message_count == 60
    assert report.duration == pytest.approx(59e-9)
    assert file.read_bytes().startswith(before)
    assert list(read_messages(bag)) == messages
    assert validate_bag(bag).counts == report.counts
    metadata = read_metadata(bag)
    assert (metadata.message_count, metadata.start_time, metadata.duration) == (60, 1000, 59)
    with file.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        summary = reader.get_summary()
        assert summary.statistics.message_count == 60 and len(summary.chunk_indexes) == 3
        assert all(len(index.message_index_offsets) == 2 for index in summary.chunk_indexes)
        assert [m.log_time for _, _, m in reader.iter_messages()] == list(range(1000, 1060))
        assert [m.name for m in reader.iter_metadata()] == ["rosbag2"]
    with AnyReader([bag]) as reader:
        assert len(list(reader.messages())) == 60


@pytest.mark.slow
@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 10_000))
def test_every_message_before_a_cut_is_kept(tmp_path_factory, cut):
    bag = tmp_path_factory.mktemp("torn") / "bag"
    file = write_unfinished(bag)
    content = file.read_bytes()
    payloads = [message.data for message in read_messages(bag, allow_truncated=True)]
    ends = [content.index(payload) + len(payload) for payload in payloads]
    cut = max(ends[0], len(content) - cut)
    file.write_bytes(content[:cut])
    kept = sum(end <= cut for end in ends)
    tolerated = [message.data for message in read_messages(bag, allow_truncated=True)]
    assert tolerated == payloads[:kept]
    report = recover_bag(bag)
    assert report.message_count == kept and not report.lost
    assert [message.data for message in read_messages(bag)] == payloads[:kept]
    assert validate_bag(bag).message_count == kept
    with AnyReader([bag]) as reader:
        assert len(list(reader.messages())) == kept
    originals = [path.read_bytes() for path in report.originals]
    appended = file.read_bytes().startswith(content[:cut][: -len(MCAP_SEAL)])
    assert originals == [content[:cut]] if originals else appended
    with file.open("rb") as stream:
        indices = make_reader(stream).get_summary().chunk_indexes
    assert all(index.message_index_offsets for index in indices)


def test_what_looks_like_a_chunk_just_before_a_cut_is_payload(tmp_path):
    bag = tmp_path / "bag"
    file = write_unfinished(bag)
    content = bytearray(file.read_bytes()[:-650])
    # The head of a chunk without its last bytes, in a message that the cut takes anyway.
    content[-48:-7] = b"\x06" + b"A" * 6 + b"\x00\x00" + b"A" * 28 + b"\x00" * 4
    file.write_bytes(content)
    assert len(list(read_messages(bag, allow_truncated=True))) == 58
    assert recover_bag(bag).message_count == 58


def test_a_completion_that_was_interrupted_is_done_again(tmp_path):
    bag = tmp_path / "bag"
    write_unfinished(bag)
    metadata = (bag / "metadata.yaml").read_text()
    recover_bag(bag)
    # As if the recorder had died between the file and its metadata.
    (bag / "metadata.yaml").write_text(metadata)
    assert recover_bag(bag).message_count == 60
    assert validate_bag(bag).message_count == 60
    assert read_metadata(bag).custom_data == {"note": "killed", "complete": "recovered"}


def test_only_the_damaged_chunk_is_left_out(tmp_path):
    bag = tmp_path / "bag"
    file = write_unfinished(bag)
    messages = list(read_messages(bag, allow_truncated=True))
    damaged = bytearray(file.read_bytes())
    middle = survey(file).chunks[1]
    damaged[middle.end - 20] ^= 0xFF
    file.write_bytes(damaged)
    assert list(read_messages(bag, allow_truncated=True)) == messages[:20] + messages[40:]
    report = recover_bag(bag)
    assert report.message_count == 40
    assert "1 of 3 chunks" in report.lost and "20 messages: /a 10, /b 10" in report.lost
    assert read_metadata(bag).custom_data["lost"] == report.lost
    assert list(read_messages(bag)) == messages[:20] + messages[40:]
    assert report.originals == [bag / "bag.mcap.damaged"]
    assert report.originals[0].read_bytes() == damaged
    assert recover_bag(bag).message_count == 40 and len(list(bag.iterdir())) == 3


def test_bag_in_use_is_left_alone(tmp_path):
    writer = BagWriter(tmp_path / "bag")
    with pytest.raises(BagError, match="alive"):
        recover_bag(tmp_path / "bag")
    writer.close()
    assert validate_bag(tmp_path / "bag").message_count == 0


def test_sealed_file_ends_with_its_seal_whatever_is_written(tmp_path):
    file = SealedFile(tmp_path / "file")
    data = b""
    for size in (30, 1, 5, 70, 0, 3000):
        piece = os.urandom(size)
        file.write(piece)
        data += piece
        assert file.tell() == len(data)
        file.flush()
        assert (tmp_path / "file").read_bytes() == data + MCAP_SEAL
    file.write(b"end" * 30)
    file.finish()
    file.close()
    file.close()
    assert (tmp_path / "file").read_bytes() == data + b"end" * 30
