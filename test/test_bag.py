"""Bags: what is written is read back, also by other readers, and survives a killed recorder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from vla.bags.message_types import MessageTypeError, load_message_type
from vla.bags.reader import (
    read_decoded,
    read_messages,
    read_metadata,
    recover_bag,
    unfinished_bags,
    validate_bag,
)
from vla.bags.writer import BagError, BagWriter, qos_entry

REPOSITORY = Path(__file__).resolve().parent.parent
STORE = get_typestore(Stores.ROS2_JAZZY)
ARRAY_TYPE = load_message_type("std_msgs/msg/Float64MultiArray", ())
IMAGE_TYPE = load_message_type("sensor_msgs/msg/Image", ())


def encode_array(values) -> bytes:
    layout = STORE.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    message = STORE.types[ARRAY_TYPE.name](layout=layout, data=np.asarray(values, np.float64))
    return bytes(STORE.serialize_cdr(message, ARRAY_TYPE.name))


def encode_image(pixels: np.ndarray, stamp: int) -> bytes:
    height, width, _ = pixels.shape
    time_type = STORE.types["builtin_interfaces/msg/Time"]
    header = STORE.types["std_msgs/msg/Header"](time_type(stamp // 10**9, stamp % 10**9), "camera")
    message = STORE.types[IMAGE_TYPE.name](
        header, height, width, "rgb8", 0, width * 3, pixels.reshape(-1)
    )
    return bytes(STORE.serialize_cdr(message, IMAGE_TYPE.name))


def write_sample(folder: Path, compression: str = "none", count: int = 50) -> list[np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 255, (count, 6, 8, 3), dtype=np.uint8)
    custom = {"instruction": "pick up the red block: now", "contract": "a: 1\nb: [x, y]\n"}
    with BagWriter(folder, custom, compression) as writer:
        images = writer.add_topic("/camera/front/image_raw", IMAGE_TYPE, [qos_entry("best_effort")])
        states = writer.add_topic("/sim/state", ARRAY_TYPE)
        for index in range(count):
            stamp = 1_700_000_000_000_000_000 + index * 100_000_000
            writer.write(images, encode_image(pixels[index], stamp), stamp + 2_000_000, stamp)
            writer.write(states, encode_array([index, 0.5]), stamp + 1_000_000, stamp)
    return list(pixels)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_reads_back_what_was_written(tmp_path, compression):
    pixels = write_sample(tmp_path / "bag", compression)
    report = validate_bag(tmp_path / "bag")
    assert report.counts == {"/camera/front/image_raw": 50, "/sim/state": 50}
    assert report.duration == pytest.approx(4.901)
    decoded = list(read_decoded(tmp_path / "bag"))
    times = [message.receive_time for message, _ in decoded]
    assert times == sorted(times)
    images = [value for message, value in decoded if message.topic.endswith("image_raw")]
    assert all((image.data == p.reshape(-1)).all() for image, p in zip(images, pixels, strict=True))
    states = [value.data[0] for message, value in decoded if message.topic == "/sim/state"]
    assert states == list(range(50))


def test_selects_topics(tmp_path):
    write_sample(tmp_path / "bag")
    topics = {message.topic for message in read_messages(tmp_path / "bag", {"/sim/state"})}
    assert topics == {"/sim/state"}


def test_another_reader_accepts_the_bag(tmp_path):
    pixels = write_sample(tmp_path / "bag")
    with AnyReader([tmp_path / "bag"]) as reader:
        assert reader.message_count == 100
        connection = next(c for c in reader.connections if c.msgtype == IMAGE_TYPE.name)
        assert connection.ext.offered_qos_profiles[0].reliability.name == "BEST_EFFORT"
        for (_, _, data), expected in zip(reader.messages([connection]), pixels, strict=True):
            image = reader.deserialize(data, connection.msgtype)
            assert (image.data == expected.reshape(-1)).all()


def test_metadata_has_what_rosbag2_reads(tmp_path):
    write_sample(tmp_path / "bag")
    content = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
    info = content["rosbag2_bagfile_information"]
    assert info["version"] == 9
    assert info["storage_identifier"] == "mcap"
    assert info["relative_file_paths"] == ["bag.mcap"]
    assert info["message_count"] == 100
    assert info["files"][0]["message_count"] == 100
    assert info["starting_time"]["nanoseconds_since_epoch"] == 1_700_000_000_001_000_000
    assert info["duration"]["nanoseconds"] == 4_901_000_000
    topic = info["topics_with_message_count"][0]["topic_metadata"]
    assert topic["type_description_hash"].startswith("RIHS01_")
    assert topic["serialization_format"] == "cdr"
    assert topic["offered_qos_profiles"][0]["reliability"] == "best_effort"
    custom = read_metadata(tmp_path / "bag").custom_data
    assert custom["instruction"] == "pick up the red block: now"
    assert custom["contract"] == "a: 1\nb: [x, y]\n"
    assert custom["complete"] == "true"


def test_own_interfaces_have_definitions(tmp_path):
    # Where only the source tree is at hand, its msg folder serves as an installed package.
    (tmp_path / "vla_ros").symlink_to(REPOSITORY)
    for path in sorted((REPOSITORY / "msg").glob("*.msg")):
        message_type = load_message_type(f"vla_ros/msg/{path.stem}", (tmp_path,))
        assert message_type.type_hash.startswith("RIHS01_")
    with pytest.raises(MessageTypeError, match="nowhere_msgs"):
        load_message_type("nowhere_msgs/msg/Nothing", (tmp_path,))


def count_by_other_readers(bag: Path) -> int:
    """Messages in a bag as both rosbags and the mcap library find them."""
    with AnyReader([bag]) as reader:
        count = sum(1 for _ in reader.messages())
    with (bag / f"{bag.name}.mcap").open("rb") as stream:
        assert sum(1 for _ in make_reader(stream).iter_messages()) == count
    return count


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_unfinished_bag_is_whole_for_other_readers_after_every_flush(tmp_path, compression):
    writer = BagWriter(tmp_path / "bag", compression=compression)
    topic = writer.add_topic("/sim/state", ARRAY_TYPE, [qos_entry(depth=3)])
    for index in range(60):
        writer.write(topic, encode_array([index]), 1000 + index)
        if index % 20 == 19:
            writer.flush()
            assert count_by_other_readers(tmp_path / "bag") == index + 1
            assert len(list(read_messages(tmp_path / "bag", allow_truncated=True))) == index + 1
    with pytest.raises(BagError, match=r"truncated.*recover_bag"):
        validate_bag(tmp_path / "bag")
    writer.close()
    assert validate_bag(tmp_path / "bag").message_count == 60
    assert count_by_other_readers(tmp_path / "bag") == 60


def test_full_chunks_go_out_without_a_flush(tmp_path):
    writer = BagWriter(tmp_path / "bag")
    topic = writer.add_topic("/sim/state", ARRAY_TYPE)
    data = encode_array(np.zeros(200_000))
    for index in range(6):
        writer.write(topic, data, index)
    assert len(list(read_messages(tmp_path / "bag", allow_truncated=True))) >= 3
    writer.abandon()


def test_truncated_bag_is_named_and_repaired(tmp_path):
    write_sample(tmp_path / "whole")
    bag = tmp_path / "torn"
    writer = BagWriter(bag, {"note": "killed"})
    topic = writer.add_topic("/sim/state", ARRAY_TYPE, [qos_entry(depth=3)])
    for index in range(200):
        writer.write(topic, encode_array([index]), 1000 + index)
        if index % 20 == 19:
            writer.flush()
    # A recorder that dies leaves whole chunks, at worst followed by the beginning of another.
    torn = (bag / "torn.mcap").read_bytes() + b"\x06\xff\x00\x00\x00\x00\x00\x00\x00half a chunk"
    writer.abandon()
    (bag / "torn.mcap").write_bytes(torn)

    assert read_metadata(bag).custom_data["complete"] == "false"
    with pytest.raises(BagError, match=r"truncated.*recover_bag"):
        validate_bag(bag)
    kept = [value.data[0] for _, value in read_decoded(bag, allow_truncated=True)]
    assert kept == list(range(200))
    assert unfinished_bags(tmp_path) == [bag]

    report = recover_bag(bag)
    assert report.counts == {"/sim/state": 200}
    assert read_metadata(bag).custom_data == {"note": "killed", "complete": "recovered"}
    assert unfinished_bags(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["torn", "whole"]
    with AnyReader([bag]) as reader:
        assert reader.message_count == 200


def test_damaged_chunk_is_named(tmp_path):
    write_sample(tmp_path / "bag")
    path = tmp_path / "bag" / "bag.mcap"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(BagError, match=r"damaged.*checksum"):
        validate_bag(tmp_path / "bag")


def test_wrong_counts_are_named(tmp_path):
    write_sample(tmp_path / "bag")
    path = tmp_path / "bag" / "metadata.yaml"
    path.write_text(path.read_text().replace("message_count: 50", "message_count: 51"))
    with pytest.raises(BagError, match="counts"):
        validate_bag(tmp_path / "bag")


def test_refuses_what_it_cannot_do(tmp_path):
    write_sample(tmp_path / "bag", count=1)
    with pytest.raises(BagError, match="exists already"):
        BagWriter(tmp_path / "bag")
    with pytest.raises(BagError, match="unknown compression"):
        BagWriter(tmp_path / "other", compression="rar")
    with pytest.raises(BagError, match="not a bag"):
        read_metadata(tmp_path)
    with BagWriter(tmp_path / "twice") as writer:
        writer.add_topic("/a", ARRAY_TYPE)
        with pytest.raises(BagError, match="twice"):
            writer.add_topic("/a", ARRAY_TYPE)
    with pytest.raises(BagError, match="closed"):
        writer.flush()


def test_bag_without_messages_is_valid(tmp_path):
    with BagWriter(tmp_path / "empty") as writer:
        writer.add_topic("/a", ARRAY_TYPE)
    assert validate_bag(tmp_path / "empty").message_count == 0


WRITE_FOR_EVER = """
import sys
from vla.bags.writer import BagWriter
from vla.bags.message_types import load_message_type
writer = BagWriter(sys.argv[1])
topic = writer.add_topic("/bytes", load_message_type("std_msgs/msg/UInt8MultiArray", ()))
data = bytes([0, 1, 0, 0]) + bytes(8) + (20_000).to_bytes(4, "little") + bytes(20_000)
index = 0
while True:
    index += 1
    writer.write(topic, data, index)
    if index % 50 == 0:
        writer.flush()
        print(index, flush=True)
"""


@pytest.mark.slow
def test_killed_writer_loses_only_what_was_not_flushed(tmp_path):
    for attempt in range(5):
        bag = tmp_path / f"bag{attempt}"
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(bag)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        for _ in range(3 + attempt):
            process.stdout.readline()
        # Another moment of the write cycle each time, not a wait for anything.
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        flushed = [int(line) for line in process.stdout.read().split()]
        process.wait()
        at_least = flushed[-1] if flushed else 50 * (3 + attempt)
        assert read_metadata(bag).message_count >= at_least
        assert count_by_other_readers(bag) >= at_least
        report = recover_bag(bag)
        assert report.counts["/bytes"] >= at_least
        assert [m.receive_time for m in read_messages(bag)] == list(
            range(1, report.message_count + 1)
        )
