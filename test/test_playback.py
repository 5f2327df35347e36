"""Episodes of bags and data sets as people see them: facts, contact sheets, videos."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import av
import numpy as np
import pytest
from damaged_bags import places
from foreign_bags import COLOUR, STORE, TYPES, compressed, header, image, write_foreign_bag
from lerobot_files import FPS, LENGTHS, TASKS, grey_of, write_v2, write_v3
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from vla.bags.message_types import load_message_type
from vla.bags.reader import read_messages, read_metadata
from vla.bags.writer import BagError, BagWriter
from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.playback.bag_footage import CUT, KILLED, BagFootage
from vla.playback.episodes import list_episodes, open_episode
from vla.playback.footage import (
    Numbers,
    PlaybackError,
    ToolPose,
    Words,
    first_images,
)
from vla.playback.pictures import write_contact_sheet, write_episode_video

CONTRACT = load_contract(contract_path("sim_panda"))
FRONT, WRIST = "/camera/front/image_raw", "/camera/wrist/image_raw"
MARKS = '[{"name": "carry", "receive_time": 1700000000800000000, "stamp": 0}]'
CUSTOM = {"instruction": "stack the cups", "outcome": "failure", "subtasks": MARKS, "note": "Ada"}
FORMATS = [*itertools.product(StoragePlugin, (CompressionMode.NONE, *CompressionMode)[1:4])]


def mono(seconds: float, value: int = 90):
    """A grey image, 48 pixels wide, and with padding at the ends of its rows."""
    pixels = np.zeros((24, 56), np.uint8)
    pixels[:, :48] = value
    return TYPES["sensor_msgs/msg/Image"](
        header=header(round(1000 * seconds)), height=24, width=48, encoding="mono8",
        is_bigendian=0, step=56, data=pixels.reshape(-1),
    )  # fmt: skip


def as_png(seconds: float, colour):
    stream = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), colour, np.uint8)).save(stream, "PNG")
    return compressed(round(1000 * seconds), stream.getvalue(), "png")


def mixed(topic, seconds, message):
    """A grey camera at 20 Hz, a compressed one at 5 Hz, and depth."""
    milliseconds = round(1000 * seconds)
    if topic == FRONT:
        return mono(seconds)
    if topic == WRIST:
        return as_png(seconds, COLOUR) if milliseconds % 200 == 0 else None
    if topic == "/depth":
        depth = image(milliseconds)
        depth.encoding, depth.step, depth.width = "16UC1", 2 * depth.width, depth.width
        depth.data = depth.data[: depth.step * depth.height]
        return depth
    return message


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bags") / "mixed"
    more = {"/depth": CONTRACT.cameras[0].topic}
    return write_foreign_bag(folder, CONTRACT, mixed, more, CUSTOM)


def rewritten(bag: Path, folder: Path, storage: StoragePlugin, mode: CompressionMode) -> Path:
    writer = Writer(folder, version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    for key, value in read_metadata(bag).custom_data.items():
        writer.set_custom_data(key, value)
    with writer:
        topics = {}
        for message in read_messages(bag):
            if message.topic not in topics:
                topics[message.topic] = writer.add_connection(
                    message.topic, message.type_name, typestore=STORE
                )
            writer.write(topics[message.topic], message.receive_time, message.data)
    return folder


def frames_of(video: Path) -> tuple[float, list[np.ndarray]]:
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        return float(stream.average_rate), [
            frame.to_ndarray(format="rgb24") for frame in container.decode(stream)
        ]


def near(pixel: np.ndarray, colour, tolerance: int = 8) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() <= tolerance)


@pytest.mark.parametrize(("storage", "mode"), FORMATS)
def test_the_facts_are_the_same_in_every_storage(bag, tmp_path, storage, mode):
    facts = BagFootage(rewritten(bag, tmp_path / "bag", storage, mode), "bag").facts
    assert (facts.instruction, facts.outcome) == ("stack the cups", "failure")
    assert facts.notes["note"] == "Ada" and facts.flaw == ""
    assert facts.seconds == pytest.approx(1.59)
    assert {camera.name: camera.frames for camera in facts.cameras} == {
        "camera/front": 32, "camera/wrist": 8, "depth": 32,
    }  # fmt: skip
    assert [(mark.time, mark.name) for mark in facts.marks] == [(0.8, "carry")]
    assert facts.size == sum(file.stat().st_size for file in (tmp_path / "bag").glob("bag.*"))
    first, left_out = first_images(BagFootage(tmp_path / "bag", ""))
    assert list(first) == ["camera/front", "camera/wrist"] and len(left_out) == 1


def test_a_video_has_the_cameras_side_by_side_at_the_rate_of_the_fastest(bag, tmp_path):
    flaws = write_episode_video(BagFootage(bag, "mixed"), tmp_path / "out" / "v.mp4")
    assert len(flaws) == 1 and "camera depth is left out: " in flaws[0]
    assert "this is a depth image" in flaws[0]
    rate, frames = frames_of(tmp_path / "out" / "v.mp4")
    assert rate == pytest.approx(19.5, abs=0.1)
    assert len(frames) == 32
    for frame in frames:
        # 48 x 24 and 32 x 24 pixels, 240 high.
        assert frame.shape[1] == 480 + 320
        assert near(frame[120, 240], (90, 90, 90)) and near(frame[120, 640], COLOUR)


def test_a_contact_sheet_shows_each_camera_at_eight_moments(bag, tmp_path):
    flaws = write_contact_sheet(BagFootage(bag, "mixed"), tmp_path / "sheet.png")
    assert len(flaws) == 1 and "depth" in flaws[0]
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    column = pixels.shape[1] // 8
    for number in range(8):
        middle = pixels[:, number * column + 100]
        assert sum(near(pixel, (90, 90, 90), 1) for pixel in middle) >= 180
        assert sum(near(pixel, COLOUR, 1) for pixel in middle) >= 180


def test_an_instruction_that_only_the_topic_has_is_found(tmp_path):
    bag = write_foreign_bag(tmp_path / "bag", CONTRACT, seconds=0.1)
    assert BagFootage(bag, "bag").facts.instruction == "pick up the cup"


def test_everything_of_a_bag_can_be_played(bag):
    entries = list(BagFootage(bag, "mixed").everything())
    assert [entry.time for entry in entries] == sorted(entry.time for entry in entries)
    words = [entry for entry in entries if isinstance(entry, Words)]
    assert [(entry.name, entry.text) for entry in words] == [("instruction", "pick up the cup")]
    poses = [entry for entry in entries if isinstance(entry, ToolPose)]
    assert len(poses) == 160 and poses[100].position[0] == pytest.approx(0.5)
    joints = [entry for entry in entries if isinstance(entry, Numbers)]
    assert joints[0].names[0] == "panda_joint1" and joints[0].values[3] == -1.5


def test_of_a_killed_recorder_what_reached_the_disk_is_shown(bag, tmp_path):
    writer = BagWriter(tmp_path / "killed", CUSTOM)
    topics = {}
    for message in read_messages(bag, {FRONT}):
        if not topics:
            kind = load_message_type(message.type_name, ())
            topics[message.topic] = writer.add_topic(message.topic, kind)
        writer.write(topics[message.topic], message.data, message.receive_time)
        writer.flush()
    writer.abandon()
    footage = BagFootage(tmp_path / "killed", "killed")
    assert footage.facts.flaw == KILLED
    assert write_episode_video(footage, tmp_path / "v.mp4") == []
    assert len(frames_of(tmp_path / "v.mp4")[1]) == 32


def test_a_file_that_lost_its_end_or_its_middle_is_shown_and_named(bag, tmp_path):
    whole = rewritten(bag, tmp_path / "cut", StoragePlugin.MCAP, CompressionMode.NONE)
    (file,) = whole.glob("*.mcap")
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    footage = BagFootage(whole, "cut")
    assert footage.facts.flaw == CUT
    write_contact_sheet(footage, tmp_path / "cut.png")

    place = places_of(bag)
    damaged = bytearray(content)
    for offset in range(place.start + 60, place.end, 7):
        damaged[offset] ^= 255
    file.write_bytes(damaged)
    with pytest.raises(PlaybackError, match="no pictures to show"):
        # rosbags makes one chunk of so few messages.
        write_contact_sheet(BagFootage(whole, "damaged"), tmp_path / "damaged.png")
    (whole / "metadata.yaml").unlink()
    file.write_bytes(b"no bag")
    with pytest.raises(BagError, match=file.name):
        BagFootage(whole, "damaged")
    (facts,) = list_episodes(tmp_path)
    assert facts.name == str(whole) and facts.flaw


def places_of(bag: Path):
    (file,) = bag.glob("*.mcap")
    return max(places(file), key=lambda place: len(place.messages))


@pytest.mark.parametrize("write", [write_v2, write_v3])
@pytest.mark.parametrize("images", [False, True])
def test_episodes_of_data_sets(tmp_path, write, images):
    folder = write(tmp_path / "set", images)
    found = list_episodes(folder)
    assert [facts.name for facts in found] == [f"{folder}:{index}" for index in range(3)]
    assert [facts.instruction for facts in found] == list(TASKS)
    assert [facts.frames for facts in found] == list(LENGTHS)
    assert [facts.seconds for facts in found] == [length / FPS for length in LENGTHS]
    footage = open_episode(f"{folder}:1")
    assert write_episode_video(footage, tmp_path / "v.mp4") == []
    rate, frames = frames_of(tmp_path / "v.mp4")
    assert rate == FPS and len(frames) == LENGTHS[1]
    for number, frame in enumerate(frames):
        assert near(frame[120, 120], grey_of(1, number), 6), number
    write_contact_sheet(footage, tmp_path / "s.jpg")
    assert Image.open(tmp_path / "s.jpg").format == "JPEG"
    entries = list(footage.everything())
    assert {entry.name for entry in entries if isinstance(entry, Numbers)} == {"state", "action"}
    assert [entry.text for entry in entries if isinstance(entry, Words)] == [TASKS[1]]


def test_what_is_no_episode_is_refused_in_a_sentence(tmp_path, bag):
    folder = write_v3(tmp_path / "set")
    for named, reason in (
        (str(folder), f"name one of its episodes, such as {folder}:0"),
        (f"{folder}:7", "has no episode 7: it has 3, from 0 to 2"),
        (str(bag.parent), "is a folder and no bag"),
        ("nothing", "no episode 'nothing', neither here nor in output/bags"),
        ("nothing\0", "no episode"),
        ("n" * 5000, "no episode"),
    ):
        with pytest.raises(PlaybackError, match=reason):
            open_episode(named)
    with pytest.raises(PlaybackError, match="there is no folder"):
        list_episodes(tmp_path / "missing")
    with pytest.raises(PlaybackError, match=r"no bags in .*nor is it a LeRobot data set"):
        list_episodes(folder / "data")
    footage = BagFootage(bag, "mixed")
    with pytest.raises(PlaybackError, match=r"must end in \.mp4"):
        write_episode_video(footage, tmp_path / "v.avi")
    with pytest.raises(PlaybackError, match=r"must end in one of \.png"):
        write_contact_sheet(footage, tmp_path / "s.gif")
    (tmp_path / "file").write_text("")
    for write, name in ((write_episode_video, "v.mp4"), (write_contact_sheet, "s.png")):
        with pytest.raises(PlaybackError, match="cannot write"):
            write(footage, tmp_path / "file" / name)
