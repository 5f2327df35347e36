"""Bags as people have them: more topics than the contract's, other encodings, names and units."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from foreign_bags import COLOUR, STORE, compressed, image, write_foreign_bag
from node_harness import ROOT
from PIL import Image as PillowImage
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vla.bags.episodes import read_bag_episode
from vla.contract.embodiment import load_contract
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla_cli.parser import main

CONTRACT = load_contract(ROOT / "config/contracts/sim_panda.yaml")
DATA = Path(__file__).parent / "data"
FRONT, WRIST = "/camera/front/image_raw", "/camera/wrist/image_raw"
JOINTS, POSE = "/joint_states", "/end_effector_pose"


def jpeg(time: int, colour=COLOUR):
    stream = io.BytesIO()
    PillowImage.new("RGB", (32, 24), colour).save(stream, "jpeg", quality=95)
    return compressed(time, stream.getvalue())


def topics_of(bag: Path) -> dict[str, str]:
    return read_bag_episode(bag, CONTRACT)[0].log.topics


@pytest.mark.parametrize(
    "bag",
    ["exact-topic-name/three_joint_topics", "exact-topic-name/raw_and_compressed",
     "yuv422-camera/bag"],
)  # fmt: skip
def test_bags_of_other_tools_become_data_sets(tmp_path, bag):
    command = ["data", "convert", str(DATA / bag), str(tmp_path / "set"), "--images", "stored"]
    assert main([*command, "--contract", "sim_panda"]) == 0
    data = LeRobotEpisodes(tmp_path / "set", None, CONTRACT)
    assert len(data) == 15
    sample = data.sample(0, np.random.default_rng(0))
    for pixels in sample.images.values():
        assert np.abs(pixels[0, 0].astype(int) - COLOUR).max() <= 2
    report = json.loads((tmp_path / "set/meta/conversion.json").read_text())
    assert report["streams"]["fingers"]["topic"] == JOINTS
    assert report["streams"]["camera_front"]["topic"] == FRONT


def test_an_angle_is_no_opening(tmp_path, capsys):
    case = DATA / "gripper-not-an-opening"
    command = ["data", "convert", str(case / "bag"), str(tmp_path / "set")]
    assert main([*command, "--contract", str(case / "contract.yaml")]) == 1
    assert "m apart; open is 0.085: this may be the angle of a joint" in capsys.readouterr().out
    assert not (tmp_path / "set").exists()


@pytest.mark.slow
def test_the_exact_name_wins_and_several_alike_are_all_named(tmp_path):
    more = {"/franka/joint_states": "joint_states", "/b/end_effector_pose": "end_effector_pose"}
    bag = write_foreign_bag(tmp_path / "exact", CONTRACT, more=more)
    assert topics_of(bag)["fingers"] == JOINTS and topics_of(bag)["pose"] == POSE
    bag = write_foreign_bag(
        tmp_path / "alike",
        CONTRACT,
        more={"/right/joint_states": "joint_states"},
        names=lambda topic: f"/left/{topic}",
    )
    with pytest.raises(DatasetError, match=r"several that end so: /left/joint_s.*/right/joint_s"):
        read_bag_episode(bag, CONTRACT)
    named = replace(CONTRACT, joint_states_topic="left/joint_states")
    assert read_bag_episode(bag, named)[0].log.topics["fingers"] == "/left/joint_states"
    bag = write_foreign_bag(tmp_path / "space", CONTRACT, names=lambda topic: f"/left/{topic}")
    assert topics_of(bag)["fingers"] == "/left/joint_states"


def test_a_topic_of_another_entry_is_not_taken_for_one_that_is_missing(tmp_path):
    front, wrist = CONTRACT.cameras
    cameras = (replace(front, topic="image_raw"), replace(wrist, topic="wrist/image_raw"))
    contract = replace(CONTRACT, cameras=cameras)
    bag = write_foreign_bag(
        tmp_path / "bag", contract, lambda topic, s, m: None if topic == "/image_raw" else m
    )
    with pytest.raises(DatasetError, match="needs one topic 'image_raw', but has none"):
        read_bag_episode(bag, contract)
    bag = write_foreign_bag(tmp_path / "space", contract, names=lambda topic: f"/robot/{topic}")
    assert read_bag_episode(bag, contract)[0].log.topics["camera_front"] == "/robot/image_raw"


def test_two_cameras_of_the_contract_may_share_a_topic(tmp_path):
    front, wrist = CONTRACT.cameras
    contract = replace(CONTRACT, cameras=(front, replace(wrist, topic=front.topic)))
    _, images = read_bag_episode(write_foreign_bag(tmp_path / "bag", contract), contract)
    assert (images["front"][0, 0] == COLOUR).all() and (images["wrist"][0, 0] == COLOUR).all()


@pytest.mark.parametrize(
    ("lost", "taken"),
    [(lambda s: False, FRONT), (lambda s: s == 1.0, FRONT), (lambda s: 0.4 < s < 0.6, "compressed"),
     (lambda s: True, "compressed")],
)  # fmt: skip
def test_raw_and_compressed_of_a_camera_are_one_stream(tmp_path, lost, taken):
    def spoil(topic, seconds, message):
        if topic == FRONT and lost(seconds):
            return None
        if topic.endswith("compressed"):
            return jpeg(round(1000 * seconds))
        return message

    more = {f"{FRONT}/compressed": FRONT[1:]}
    bag = write_foreign_bag(tmp_path / "bag", CONTRACT, spoil, more)
    episode, images = read_bag_episode(bag, CONTRACT)
    assert episode.log.topics["camera_front"].endswith(taken) and len(episode.times) == 15
    assert np.abs(images["front"][0, 0].astype(int) - COLOUR).max() <= 2


def test_a_topic_of_another_type_is_passed_over_or_named(tmp_path):
    bag = write_foreign_bag(
        tmp_path / "bag", CONTRACT, more={"/other/joint_states": "end_effector_pose"}
    )
    assert topics_of(bag)["fingers"] == JOINTS
    bag = write_foreign_bag(
        tmp_path / "only",
        CONTRACT,
        lambda topic, s, m: None if topic == JOINTS else m,
        more={"/other/joint_states": "end_effector_pose"},
    )
    with pytest.raises(DatasetError, match="/other/joint_states is geometry_msgs/msg/PoseStamped"):
        read_bag_episode(bag, CONTRACT)


def rename(change):
    def spoil(topic, seconds, message):
        if topic == JOINTS:
            message.name = [change(name) for name in message.name]
        return message

    return spoil


def joints(positions, after=0.5):
    """Sets positions by index from a second on."""

    def spoil(topic, seconds, message):
        if topic == JOINTS and seconds >= after:
            for index, value in positions.items():
                message.position[index] = value
        return message

    return spoil


def swapping(topic, seconds, message):
    """Two drivers: every other message says that the fingers are closed."""
    if topic == JOINTS and round(100 * seconds) % 2:
        message.position[7:] = 0.0
    return message


def at(wanted, change):
    """Changes the messages of a topic from half a second on."""

    def spoil(topic, seconds, message):
        return change(seconds, message) if topic == wanted and seconds >= 0.5 else message

    return spoil


def moved(seconds, message, to):
    message.pose.position.x = to
    return message


def stamped(seconds, message, shift):
    message.header.stamp.sec += shift
    return message


def unstamped(seconds, message):
    message.header.stamp.sec = message.header.stamp.nanosec = 0
    return message


def encoded(seconds, message, **values):
    for name, value in values.items():
        setattr(message, name, value)
    return message


HOSTILE = {
    "fr3": (rename(lambda n: n.replace("panda", "fr3")),
            "'/joint_states': the joint states call it fr3_joint1, the contract panda_joint1"),
    "left": (rename(lambda n: f"left_{n}"), "call it left_panda_joint1"),
    "slash": (rename(lambda n: f"robot1/{n}"), "call it robot1/panda_joint1"),
    "arm": (rename(lambda n: n.replace("panda_joint", "arm_joint")), "call it arm_joint1, the con"),
    "fingers": (rename(lambda n: n.replace("panda_finger", "hand_finger")),
                "call it hand_finger_joint1, the contract panda_finger_joint1"),
    "other_joints": (rename(lambda n: f"wheel{n[-1]}"), "lack panda_finger_joint1, panda_finger_j"),
    "nan": (joints({7: np.nan}), "'/joint_states': joint states give no finite position"),
    "nan_arm": (joints({2: np.inf}), "no finite position of panda_joint3: restart"),
    "degrees": (joints({3: -86.0}), "panda_joint4 is at -86.0, which is more than two turns"),
    "whole": (joints({7: 0.08, 8: 0.08}), "each finger may say the whole opening"),
    "sign": (joints({7: -0.04, 8: -0.04}), "second 0.50: the fingers are -0.080 m apart; open is"),
    "millimetres": (joints({7: 40.0, 8: 40.0}), "this looks like millimetres, percent or ticks"),
    "two_sources": (swapping, "go by 0.080 m and back again and again: two nodes publish them"),
    "pose_in_mm": (at(POSE, lambda s, m: moved(s, m, 430.0)), "430 m from the base"),
    "leap": (at(POSE, lambda s, m: moved(s, m, 0.9)), "second 0.50: the tool leaps by 0.45 m"),
    "nan_pose": (at(POSE, lambda s, m: moved(s, m, np.nan)), "pose is not finite"),
    "zero_stamps": (lambda t, s, m: unstamped(s, m) if t == POSE else m, "has zero stamps: its"),
    "zero_camera": (lambda t, s, m: unstamped(s, m) if t == FRONT else m, "has zero stamps"),
    "future": (at(JOINTS, lambda s, m: stamped(s, m, 1000 if s == 0.5 else 0)), "stamps go back"),
    "past": (at(JOINTS, lambda s, m: stamped(s, m, -1000)), "stamps go back by 1000"),
    "other_clock": (lambda t, s, m: stamped(s, m, -50) if t == POSE else m, "clocks differ"),
    "resolution": (at(FRONT, lambda s, m: image(round(1000 * s), 64, 48)),
                   "images change from 32 x 24 to 64 x 48 pixels"),
    "encoding": (at(FRONT, lambda s, m: encoded(s, m, encoding="h264")),
                 "image_raw': encoding is 'h264'; expected one of rgb8"),
    "depth": (at(FRONT, lambda s, m: encoded(s, m, encoding="16UC1")), "this is a depth image"),
    "cut": (at(FRONT, lambda s, m: encoded(s, m, data=m.data[:100])), "data has 100 bytes"),
    "empty_image": (at(FRONT, lambda s, m: encoded(s, m, height=0, data=m.data[:0])), "size is"),
    "huge": (at(FRONT, lambda s, m: encoded(s, m, width=2**32 - 1)), "step is 96 bytes; a row of"),
    "no_bytes": (at(FRONT, lambda s, m: b""), "a message of 0 bytes has no header"),
    "few_bytes": (at(FRONT, lambda s, m: b"\0\1\0\0" + bytes(8)), "image_raw'"),
    "noise": (at(JOINTS, lambda s, m: b"\0\1\0\0" + b"\xff" * 40), "joint_states': cannot decode"),
    "no_joints": (at(JOINTS, lambda s, m: encoded(s, m, position=m.position[:3])), "9 names and 3"),
    "unset": (lambda t, s, m: unstamped(s, m) if s == 0 and t != "/vla/instruction" else m,
              "is silent for 1700000000"),
    "unseen": (lambda t, s, m: encoded(s, m, instruction="pick\x00 it up")
               if t == "/vla/instruction" else m, "the instruction has a character that cannot"),
    "long": (lambda t, s, m: encoded(s, m, instruction="pick " * 5000)
             if t == "/vla/instruction" else m, "the instruction has 24999 characters"),
    "silent": (lambda t, s, m: None if t == "/vla/instruction" else m, "no instruction"),
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> dict[str, str]:
    """Reasons by bag of one conversion of all hostile bags between two good ones."""
    folder = tmp_path_factory.mktemp("hostile")
    write_foreign_bag(folder / "bags/0_good", CONTRACT)
    for name, (spoil, _) in HOSTILE.items():
        write_foreign_bag(folder / "bags" / name, CONTRACT, spoil)
    write_foreign_bag(folder / "bags/z_good", CONTRACT)
    command = ["data", "convert", str(folder / "bags"), str(folder / "set"), "--workers", "1"]
    assert main([*command, "--contract", "sim_panda"]) == 0
    report = json.loads((folder / "set/meta/conversion.json").read_text())
    assert [Path(entry["bag"]).name for entry in report["kept"]] == ["0_good", "z_good"]
    return {Path(entry["bag"]).name: entry["reason"] for entry in report["refused"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_one_bad_bag_is_named_and_the_others_are_kept(hostile, name):
    assert HOSTILE[name][1] in hostile[name]
    assert f"bags/{name}: " in hostile[name]
    assert len(hostile[name]) < 700 and "\n" not in hostile[name]


def test_messages_that_are_defined_otherwise_are_named(tmp_path):
    """A joint state of an own definition, under the standard name."""
    store = get_typestore(Stores.EMPTY)
    other = "std_msgs/Header header\nstring[] joints\nfloat64[] position\n"
    text = (
        other
        + "=" * 80
        + "\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
    )
    text += "=" * 80 + "\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
    store.register(get_types_from_msg(text, "sensor_msgs/msg/JointState"))
    kind = store.types["sensor_msgs/msg/JointState"]

    def spoil(topic, seconds, message):
        if topic != JOINTS:
            return message
        return kind(header=message.header, joints=message.name, position=message.position)

    bag = write_foreign_bag(tmp_path / "bag", CONTRACT, spoil, store=store)
    with pytest.raises(DatasetError, match="'/joint_states': the bag defines sensor_msgs/msg/Joi"):
        read_bag_episode(bag, CONTRACT)


@pytest.mark.parametrize("topic", [FRONT, JOINTS, POSE, "/vla/instruction"])
def test_messages_of_flipped_bits_are_refused_or_give_sound_frames(tmp_path, topic):
    generator = np.random.default_rng(list(topic.encode()))

    def spoil(name, seconds, message):
        if name != topic or seconds < until:
            return message
        data = bytearray(STORE.serialize_cdr(message, message.__msgtype__))
        data[place % len(data)] ^= 1 << bit
        return bytes(data)

    for number in range(12):
        until = float(generator.choice([0.0, 0.1]))
        place, bit = int(generator.integers(400)), int(generator.integers(8))
        bag = write_foreign_bag(tmp_path / str(number), CONTRACT, spoil, seconds=0.4)
        began = time.process_time()
        try:
            episode, images = read_bag_episode(bag, CONTRACT)
        except DatasetError as error:
            assert str(bag) in str(error) and len(str(error)) < 1500 and "\n" not in str(error)
        else:
            assert np.isfinite(episode.states).all() and np.isfinite(episode.actions).all()
            assert {image.shape[1:] for image in images.values()} == {(96, 96, 3)}
            assert (episode.states[:, 9] > -0.01).all() and (episode.states[:, 9] < 0.09).all()
        assert time.process_time() - began < 2.0


@pytest.mark.parametrize("turned", [True, False])
def test_fingers_that_do_the_reverse_of_what_they_are_told_are_turned_round(tmp_path, turned):
    commands = "/gripper_position_controller/commands"

    def spoil(topic, seconds, message):
        is_open = seconds < 2.0
        if topic == JOINTS:
            message.position[7:] = 0.04 if is_open else 0.0
        if topic != commands:
            return message
        data = [] if seconds == 3.0 else [0.08 if is_open is not turned else 0.0]
        layout = STORE.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        kind = STORE.types["std_msgs/msg/Float64MultiArray"]
        return kind(layout=layout, data=np.array(data, np.float64))

    bag = write_foreign_bag(
        tmp_path / "bag", CONTRACT, spoil, more={commands: "joint_states"}, seconds=4.0
    )
    if not turned:
        assert len(read_bag_episode(bag, CONTRACT)[0].times) > 35
        return
    with pytest.raises(DatasetError, match="'/joint_states': the fingers are closed where they w"):
        read_bag_episode(bag, CONTRACT)


def test_a_bag_need_not_have_the_arm_s_joints(tmp_path):
    def spoil(topic, seconds, message):
        if topic == JOINTS:
            message.name, message.position = message.name[7:], message.position[7:]
        return message

    bag = write_foreign_bag(tmp_path / "bag", CONTRACT, spoil)
    assert len(read_bag_episode(bag, CONTRACT)[0].times) == 15


def test_single_strange_messages_that_are_used_nowhere_do_no_harm(tmp_path):
    """A first stamp of zero, as of a simulation that begins, and joints of another device."""

    def spoil(topic, seconds, message):
        if topic == JOINTS and round(100 * seconds) % 3 == 1:
            message.name, message.position = ["lift"], np.array([0.2])
        return unstamped(seconds, message) if topic == POSE and seconds == 0 else message

    bag = write_foreign_bag(tmp_path / "bag", CONTRACT, spoil)
    assert len(read_bag_episode(bag, CONTRACT)[0].times) >= 14
