"""A recorded demonstration whose every frame is known: an arm that moves evenly, then grasps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from geometry_msgs.msg import PoseStamped
from PIL import Image as PillowImage
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, JointState
from vla_ros.msg import Instruction

from vla.bags.message_types import load_message_type
from vla.bags.writer import BagWriter
from vla.contract.embodiment import EmbodimentContract
from vla.core.rotations import from_rotation_vector
from vla.observations.image_encodings import ENCODINGS
from vla_nodes.core.conversions import array_to_image, arrays_to_pose, nanoseconds_to_stamp
from vla_nodes.recorder.topics import type_name

BEGIN = 50_000_000_000
MILLISECOND = 1_000_000
WALL = 1_700_000_000_000_000_000
SPEED = np.array([0.1, -0.05, 0.02])
TURN = np.array([0.0, 0.0, 0.3])
GRASP = 1.0  # seconds after the beginning, at which the fingers start to close
HELD = 0.03


def position(seconds: float) -> np.ndarray:
    """Of the tool [m]."""
    return np.array([0.3, 0.0, 0.4]) + SPEED * seconds


def width(seconds: float) -> float:
    """Between the fingers [m]: they close at 0.1 m/s on something 3 cm wide."""
    return float(np.clip(0.08 - 0.1 * (seconds - GRASP), HELD, 0.08))


def grey(milliseconds: int) -> int:
    """Of the images taken then."""
    return milliseconds // 50 % 250


def write_demonstration(
    folder: Path,
    contract: EmbodimentContract,
    seconds: float = 3.0,
    silent: dict[str, tuple[float, float]] | None = None,
    compressed: bool = False,
    custom: dict[str, str] | None = None,
    frame: str = "",
    instructions: tuple[tuple[float, str, str], ...] = (),
    delays: dict[str, int] | None = None,
    bad_pose_at: float = -1.0,
    textured: bool = False,
    encoding: str = "rgb8",
    more: Sequence[tuple[float, str, Any]] = (),
) -> Path:
    """Images at 20 Hz, joints and poses at 100 Hz. silent: seconds without messages, by topic.

    instructions: second, text and mode of those that are given on the way. delays: of a topic's
    measurements [ms]. bad_pose_at: second at which the pose is not finite. textured: noisy images
    instead of grey ones. encoding: of raw images, whatever the bytes then show.
    more: second, topic and message of others.
    """
    custom = {
        "contract": yaml.safe_dump(contract.to_dict()),
        "instruction": "pick up the cup",
        "outcome": "success",
    } | (custom or {})
    messages = []

    def put(topic: str, milliseconds: int, message) -> None:
        begin, end = (silent or {}).get(topic, (0, 0))
        if not begin <= milliseconds / 1000 < end:
            milliseconds += (delays or {}).get(topic.removesuffix("/compressed"), 0)
            if topic != "vla/instruction" and hasattr(message, "header"):
                stamp = BEGIN + milliseconds * MILLISECOND
                message.header.stamp = nanoseconds_to_stamp(stamp)
            messages.append((milliseconds, topic, message))

    fingers = contract.finger_joint_names
    for milliseconds in range(0, round(seconds * 1000), 10):
        time = milliseconds / 1000
        stamp = nanoseconds_to_stamp(BEGIN + milliseconds * MILLISECOND)
        joints = JointState(name=[*contract.joint_names, *fingers])
        joints.position = [0.0] * len(contract.joint_names) + [width(time) / len(fingers)] * len(
            fingers
        )
        joints.velocity = joints.effort = [0.0] * len(joints.name)
        joints.header.stamp = stamp
        put(contract.joint_states_topic, milliseconds, joints)
        pose = PoseStamped(pose=arrays_to_pose(position(time), from_rotation_vector(TURN * time)))
        if time == bad_pose_at:
            pose.pose.position.z = float("nan")
        pose.header.stamp, pose.header.frame_id = stamp, frame or contract.base_frame
        put(contract.end_effector_pose_topic, milliseconds, pose)
        for camera in contract.cameras if milliseconds % 50 == 0 else ():
            pixels = np.full((120, 160, 3), grey(milliseconds), np.uint8)
            if textured:
                generator = np.random.default_rng([milliseconds, *camera.name.encode()])
                pixels = generator.integers(0, 256, pixels.shape, np.uint8)
            image = array_to_image(pixels, stamp, camera.name)
            if compressed:
                image = _compress(pixels, image.header)
            elif encoding != "rgb8":
                layout = ENCODINGS[encoding]
                image.encoding, image.step = encoding, layout.row(image.width)
                image.data = image.data[: image.step * layout.rows(image.height)]
            put(camera.topic + ("/compressed" if compressed else ""), milliseconds, image)
    for time, text, mode in instructions:
        put("vla/instruction", round(time * 1000), Instruction(instruction=text, mode=mode))
    for time, topic, message in more:
        put(topic, round(time * 1000), message)
    with BagWriter(folder, custom) as writer:
        topics = {}
        for milliseconds, name, message in sorted(messages, key=lambda entry: entry[0]):
            if name not in topics:
                kind = load_message_type(type_name(type(message)))
                topics[name] = writer.add_topic(f"/robot/{name}", kind)
            received = WALL + milliseconds * MILLISECOND
            writer.write(topics[name], serialize_message(message), received, received)
    return folder


def _compress(pixels: np.ndarray, header) -> CompressedImage:
    stream = io.BytesIO()
    PillowImage.fromarray(pixels).save(stream, format="png")
    return CompressedImage(header=header, format="png", data=stream.getvalue())
