"""Episodes of a LeRobot data set as rosbag2 bags, to replay and inspect; without ROS."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vla import __version__
from vla.bags.message_types import load_message_type
from vla.bags.topics import COMPRESSED, INSTRUCTION
from vla.bags.writer import BagWriter, qos_entry
from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.files import read_json
from vla.datasets.frames import DatasetError
from vla.datasets.language_motion import poses_of_states
from vla.datasets.lerobot.dataset import CONTRACT_FILE, LeRobotEpisodes
from vla.datasets.lerobot.writer import REPORT_FILE
from vla.observations.messages import NANOSECONDS

# The time of the first frame, which a data set does not store: 2020-01-01, UTC.
EPOCH = 1_577_836_800 * NANOSECONDS
JPEG_QUALITY = 95
IMAGE, JPEG = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINT_STATE, POSE_STAMPED = "sensor_msgs/msg/JointState", "geometry_msgs/msg/PoseStamped"
SPOKEN = "vla_ros/msg/Instruction"
MOST_REPORT = 2**28
PROVENANCE = ("episode_id", "outcome", "note", "checkpoint_id")


def export_episodes(
    dataset: str | Path, folder: str | Path, chosen: slice = slice(None), raw: bool = False
) -> Iterator[Path]:
    """Writes a bag for each chosen episode into a folder, and yields its finished path.

    raw: images as sensor_msgs/Image instead of JPEG. The bags hold cameras, tool pose, finger
    positions and instructions at the data set's rate, and the contract in their metadata. Raises
    DatasetError where the data set has no contract, no images or no such episode, and BagError
    where a bag exists already.
    """
    dataset, folder = Path(dataset), Path(folder)
    path = dataset / "meta" / CONTRACT_FILE
    if not path.is_file():
        raise DatasetError(f"{dataset} was not written by 'vla data convert': {path} is missing")
    contract = load_contract(path)
    data = LeRobotEpisodes(dataset, None, contract)
    if not data.mapping.images:
        raise DatasetError(f"{dataset} has no images to put into bags; export its twin with images")
    ends = data.episode_ends
    episodes = range(len(ends))[chosen]
    if not episodes:
        raise DatasetError(f"{dataset} has no such episodes; it has {len(ends)}, from 0 on")
    sources = kept_episodes(dataset)
    for index in episodes:
        begin = int(ends[index - 1]) if index else 0
        custom = {name: str(sources.get(index, {}).get(name, "")) for name in PROVENANCE}
        bag = folder / f"episode_{index:06d}"
        with BagWriter(bag, custom | _metadata(contract, f"{dataset.name}, episode {index}")) as to:
            _Episode(to, contract, raw).write(data, range(begin, int(ends[index])))
        yield bag


def _metadata(contract: EmbodimentContract, source: str) -> dict[str, str]:
    return {
        "contract": yaml.safe_dump(contract.to_dict(), sort_keys=False),
        "contract_id": contract.contract_id,
        "robot": contract.name,
        "package_version": __version__,
        "exported_from": source,
    }


def kept_episodes(dataset: Path) -> dict[int, dict[str, Any]]:
    """What the report of a conversion says of each episode; empty without a report."""
    try:
        kept = read_json(dataset / "meta" / REPORT_FILE, DatasetError, MOST_REPORT)["kept"]
        return {int(episode["episode_index"]): episode for episode in kept}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {}


def finger_width(state: np.ndarray, contract: EmbodimentContract) -> float:
    """Opening between the fingers [m] in a state [S]."""
    value, name = float(state[-1]), contract.state_names[-1]
    if name == "gripper_width":
        return value
    openness = 1.0 - value if name == "gripper_closed" else value
    return openness * contract.gripper_open_width


class _Episode:
    """Writes one bag."""

    def __init__(self, writer: BagWriter, contract: EmbodimentContract, raw: bool):
        self._writer, self._contract, self._raw = writer, contract, raw
        self._store = get_typestore(Stores.ROS2_JAZZY)
        spoken = load_message_type(SPOKEN)
        self._store.register(get_types_from_msg(spoken.definition, SPOKEN))
        sensor, latched = [qos_entry(depth=5)], [qos_entry(durability="transient_local", depth=1)]
        kinds = {
            c.topic + ("" if raw else COMPRESSED): IMAGE if raw else JPEG for c in contract.cameras
        }
        kinds |= {
            contract.joint_states_topic: JOINT_STATE,
            contract.end_effector_pose_topic: POSE_STAMPED,
        }
        self._topics = {
            name: writer.add_topic(_absolute(name), load_message_type(kind), sensor)
            for name, kind in kinds.items()
        }
        self._topics[INSTRUCTION] = writer.add_topic(_absolute(INSTRUCTION), spoken, latched)

    def write(self, data: LeRobotEpisodes, rows: range) -> None:
        """Writes these frames of a data set."""
        generator, said, given = np.random.default_rng(0), "", 0
        states = data.states()[rows.start : rows.stop]
        positions, quaternions = poses_of_states(states, self._contract.state_names)
        for row, index in enumerate(rows):
            sample = data.sample(index, generator)
            time = EPOCH + round(row * NANOSECONDS / self._contract.rate)
            if sample.instruction != said:
                said, given = sample.instruction, given + 1
                self._writer.custom_data.setdefault("instruction", said)
                self._put(INSTRUCTION, SPOKEN, time, "", given, said, "act")
            self._put_state(time, positions[row], quaternions[row], states[row])
            for camera in self._contract.cameras:
                self._put_image(time, camera.name, camera.topic, sample.images[camera.name])

    def _put_state(
        self, time: int, position: np.ndarray, quaternion: np.ndarray, state: np.ndarray
    ) -> None:
        contract, make = self._contract, self._make
        names = list(contract.finger_joint_names)
        each = finger_width(state, contract) / len(names)
        self._put(
            contract.joint_states_topic,
            JOINT_STATE,
            time,
            "",
            names,
            np.full(len(names), each),
            np.zeros(len(names)),
            np.zeros(len(names)),
        )
        pose = make("geometry_msgs/msg/Pose")(
            make("geometry_msgs/msg/Point")(*map(float, position)),
            make("geometry_msgs/msg/Quaternion")(*map(float, quaternion)),
        )
        topic = contract.end_effector_pose_topic
        self._put(topic, POSE_STAMPED, time, contract.base_frame, pose)

    def _put_image(self, time: int, name: str, topic: str, image: np.ndarray) -> None:
        if self._raw:
            height, width = image.shape[:2]
            pixels = np.ascontiguousarray(image).ravel()
            self._put(topic, IMAGE, time, name, height, width, "rgb8", 0, 3 * width, pixels)
            return
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "jpeg", quality=JPEG_QUALITY, subsampling=0)
        content = np.frombuffer(stream.getvalue(), np.uint8)
        self._put(topic + COMPRESSED, JPEG, time, name, "jpeg", content)

    def _put(self, topic: str, kind: str, time: int, frame: str, *values: Any) -> None:
        """Writes a message that begins with a header; values: its other fields, in order."""
        stamp = self._make("builtin_interfaces/msg/Time")(time // NANOSECONDS, time % NANOSECONDS)
        header = self._make("std_msgs/msg/Header")(stamp, frame)
        message = self._make(kind)(header, *values)
        data = bytes(self._store.serialize_cdr(message, kind))
        self._writer.write(self._topics[topic], data, time, time)

    def _make(self, kind: str) -> Callable[..., Any]:
        return self._store.types[kind]


def _absolute(name: str) -> str:
    return f"/{name.lstrip('/')}"
