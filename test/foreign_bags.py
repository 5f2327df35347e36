"""Bags as other people's tools write them: two seconds of a sim_panda, written by rosbags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from node_harness import ROOT
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vla.contract.embodiment import EmbodimentContract

WALL = 1_700_000_000_000_000_000
MILLISECOND = 1_000_000
COLOUR = (200, 0, 40)
STORE = get_typestore(Stores.ROS2_JAZZY)
STORE.register(
    get_types_from_msg((ROOT / "msg/Instruction.msg").read_text(), "vla_ros/msg/Instruction")
)
TYPES = STORE.types

# Changes a message, or gives the bytes that take its place, or None for no message.
Spoil = Callable[[str, float, Any], Any]


def write_foreign_bag(
    folder: Path,
    contract: EmbodimentContract,
    spoil: Spoil = lambda topic, seconds, message: message,
    more: dict[str, str] | None = None,
    custom: dict[str, str] | None = None,
    names: Callable[[str], str] = lambda topic: f"/{topic}",
    seconds: float = 1.6,
    first: str = "pick up the cup",
    store: Any = None,
) -> Path:
    """Cameras at 20 Hz, joints and poses at 100 Hz, with custom data only where it is given.

    more: topics beside the contract's, with the one of which each repeats the messages. names: how
    the bag calls a topic of the contract. store: of types that `spoil` gives of its own.
    """
    again: dict[str, list[str]] = {}
    for name, of in (more or {}).items():
        again.setdefault(of, []).append(name)
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for key, value in (custom or {}).items():
            writer.set_custom_data(key, value)
        connections: dict[str, Any] = {}

        def put(topic: str, time: int, kind: str, message: Any) -> None:
            for name in (names(topic), *again.get(topic, ())):
                changed = spoil(name, time / 1000, message)
                if changed is None:
                    continue
                known = STORE if changed is message or store is None else store
                if name not in connections:
                    used = kind if isinstance(changed, bytes) else changed.__msgtype__
                    connections[name] = writer.add_connection(name, used, typestore=known)
                data = changed
                if not isinstance(changed, bytes):
                    data = known.serialize_cdr(changed, changed.__msgtype__)
                writer.write(connections[name], WALL + time * MILLISECOND, data)

        put("vla/instruction", 0, "vla_ros/msg/Instruction", instruction(first))
        for time in range(0, round(1000 * seconds), 10):
            put(contract.joint_states_topic, time, "sensor_msgs/msg/JointState",
                joint_states(contract, time))  # fmt: skip
            put(contract.end_effector_pose_topic, time, "geometry_msgs/msg/PoseStamped",
                pose(contract, time))  # fmt: skip
            for camera in contract.cameras if time % 50 == 0 else ():
                put(camera.topic, time, "sensor_msgs/msg/Image", image(time))
    return folder


def header(time: int, frame: str = "") -> Any:
    seconds, nanoseconds = divmod(WALL + time * MILLISECOND, 1_000_000_000)
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)


def instruction(text: str) -> Any:
    return TYPES["vla_ros/msg/Instruction"](
        header=header(0), instruction_id=1, instruction=text, mode="act"
    )


def joint_states(contract: EmbodimentContract, time: int) -> Any:
    names = [*contract.joint_names, *contract.finger_joint_names]
    positions = [0.0] * len(contract.joint_names) + [0.04] * len(contract.finger_joint_names)
    if contract.joint_limits is not None and len(contract.joint_names) == 7:
        positions[:7] = [0.0, 0.0, 0.0, -1.5, 0.0, 1.5, 0.0]
    return TYPES["sensor_msgs/msg/JointState"](
        header=header(time), name=names, position=np.array(positions),
        velocity=np.zeros(0), effort=np.zeros(0),
    )  # fmt: skip


def pose(contract: EmbodimentContract, time: int) -> Any:
    point = TYPES["geometry_msgs/msg/Point"](x=0.4 + 0.1 * time / 1000, y=0.0, z=0.3)
    turn = TYPES["geometry_msgs/msg/Quaternion"](x=1.0, y=0.0, z=0.0, w=0.0)
    return TYPES["geometry_msgs/msg/PoseStamped"](
        header=header(time, contract.base_frame),
        pose=TYPES["geometry_msgs/msg/Pose"](position=point, orientation=turn),
    )


def image(time: int, width: int = 32, height: int = 24, colour=COLOUR) -> Any:
    pixels = np.full((height, width, 3), colour, np.uint8)
    return TYPES["sensor_msgs/msg/Image"](
        header=header(time), height=height, width=width, encoding="rgb8", is_bigendian=0,
        step=3 * width, data=pixels.reshape(-1),
    )  # fmt: skip


def compressed(time: int, data: bytes, form: str = "jpeg") -> Any:
    return TYPES["sensor_msgs/msg/CompressedImage"](
        header=header(time), format=form, data=np.frombuffer(data, np.uint8)
    )
