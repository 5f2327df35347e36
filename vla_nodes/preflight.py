"""Looks at a running robot for some seconds and measures what `vla preflight` judges.

Nothing is commanded, and no publisher is created.
"""

from __future__ import annotations

import importlib.util
import os
import time
import zlib
from dataclasses import dataclass, field

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from vla.contract import EmbodimentContract
from vla.data.messages import compressed_to_array, image_to_array
from vla.preflight import PROBLEM, CameraSeen, Finding, TopicSeen
from vla_nodes import qos
from vla_nodes.client import RobotClient
from vla_nodes.conversions import stamp_to_seconds

IMAGE_KINDS = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
JOINT_KINDS = ("sensor_msgs/msg/JointState",)
POSE_KINDS = ("geometry_msgs/msg/PoseStamped",)

# What each backend, gripper and monitor needs on the graph, by kind. Names in braces are
# parameters of the controller.
NEEDS = {
    "joint_trajectory": [("topic", "{joint_trajectory.controller}/joint_trajectory")],
    "joint_trajectory.action": [
        ("action", "{joint_trajectory.controller}/follow_joint_trajectory")
    ],
    "moveit_servo": [
        ("service", "{moveit_servo.node}/switch_command_type"),
        ("status", "{moveit_servo.node}/status"),
    ],
    "cartesian_pose": [("topic", "{cartesian_pose.topic}")],
    "gripper.position": [("topic", "{gripper_position.topic}")],
    "gripper.gripper_command": [("action", "{gripper_command.action}")],
    "gripper.parallel_gripper_command": [("action", "{gripper_command.action}")],
    "gripper.franka": [
        ("action", "{franka_gripper.node}/move"),
        ("action", "{franka_gripper.node}/grasp"),
    ],
    "monitor.none": [],
    "monitor.franka": [
        ("status", "{franka.state_topic}"),
        ("action", "{franka.recovery_action}"),
    ],
}
PACKAGES = {
    "moveit_servo": "moveit_msgs",
    "joint_trajectory.action": "control_msgs",
    "gripper.gripper_command": "control_msgs",
    "gripper.parallel_gripper_command": "control_msgs",
    "gripper.franka": "franka_msgs",
    "monitor.franka": "franka_msgs",
}


@dataclass
class RobotSeen:
    """Everything that was measured.

    topics: by name, those of the contract. cameras: by the contract's name. positions: newest of
    each joint [rad, m]. pose: frame, position [3] and quaternion [4] x y z w; None without one.
    urdf: "" without one. known: all topics of the graph with their types.
    """

    topics: dict[str, TopicSeen] = field(default_factory=dict)
    cameras: dict[str, CameraSeen] = field(default_factory=dict)
    positions: dict[str, float] = field(default_factory=dict)
    pose: tuple[str, np.ndarray, np.ndarray] | None = None
    urdf: str = ""
    known: dict[str, list[str]] = field(default_factory=dict)


class Look:
    """Subscribes to a robot's topics while it exists."""

    def __init__(self, client: RobotClient, contract: EmbodimentContract, compressed: bool):
        self._client, self._node = client, client.node
        self.seen = RobotSeen()
        self._last: dict[str, tuple[float, float]] = {}
        self._checksums: dict[str, int] = {}
        suffix = "/compressed" if compressed else ""
        kind = CompressedImage if compressed else Image
        for camera in contract.cameras:
            self.seen.cameras[camera.name] = CameraSeen()
            self._watch(
                kind,
                camera.topic + suffix,
                lambda message, name=camera.name: self._on_image(name, message),
            )
        self._watch(JointState, contract.joint_states_topic, self._on_joints)
        self._watch(PoseStamped, contract.end_effector_pose_topic, self._on_pose)
        self._node.create_subscription(String, "robot_description", self._on_urdf, qos.LATCHED)

    def _watch(self, kind, topic: str, function) -> None:
        seen = self.seen.topics[topic] = TopicSeen(topic)

        def on_message(message) -> None:
            now = self._node.get_clock().now().nanoseconds * 1e-9
            stamp = stamp_to_seconds(message.header.stamp)
            seen.count += 1
            if stamp == 0.0:
                seen.zero_stamps += 1
            else:
                seen.offsets.append(stamp - now)
            steady = time.monotonic()
            if topic in self._last:
                before, earlier = self._last[topic]
                seen.gap = max(seen.gap, steady - before)
                seen.standing_stamps += stamp == earlier
            self._last[topic] = (steady, stamp)
            function(message)

        self._node.create_subscription(kind, topic, on_message, qos.RESAMPLED)

    def _on_image(self, name: str, message) -> None:
        seen = self.seen.cameras[name]
        checksum = zlib.crc32(message.data)
        seen.changed |= self._checksums.setdefault(name, checksum) != checksum
        if seen.width:
            return
        compressed = isinstance(message, CompressedImage)
        try:
            pixels = compressed_to_array(message) if compressed else image_to_array(message)
        except ValueError as error:
            seen.error = str(error)
            return
        seen.height, seen.width = pixels.shape[:2]
        seen.encoding = message.format if compressed else message.encoding
        seen.mean = float(pixels.mean())

    def _on_joints(self, message: JointState) -> None:
        self.seen.positions |= zip(message.name, message.position, strict=False)

    def _on_pose(self, message: PoseStamped) -> None:
        place, turn = message.pose.position, message.pose.orientation
        self.seen.pose = (
            message.header.frame_id,
            np.array([place.x, place.y, place.z]),
            np.array([turn.x, turn.y, turn.z, turn.w]),
        )

    def _on_urdf(self, message: String) -> None:
        self.seen.urdf = message.data

    def finish(self, seconds: float) -> RobotSeen:
        """Looks for some seconds and gives what was seen."""
        # Discovery takes a moment, which is no pause of the robot's.
        self._client.spin(1.0)
        for topic in self.seen.topics.values():
            topic.count = topic.zero_stamps = topic.standing_stamps = 0
            topic.gap = 0.0
            topic.offsets.clear()
        self._last.clear()
        started = time.monotonic()
        self._client.spin(seconds)
        self.seen.known = {
            name: kinds
            for name, kinds in self._node.get_topic_names_and_types()
            if self._node.count_publishers(name) > 0
        }
        for name, topic in self.seen.topics.items():
            topic.seconds = time.monotonic() - started
            infos = self._node.get_publishers_info_by_topic(name)
            topic.publishers = tuple(f"{i.node_namespace.rstrip('/')}/{i.node_name}" for i in infos)
            topic.kinds = tuple(dict.fromkeys(info.topic_type for info in infos))
            topic.best_effort = any(_best_effort(info.qos_profile) for info in infos)
        return self.seen


def _best_effort(profile: QoSProfile) -> bool:
    return profile.reliability == ReliabilityPolicy.BEST_EFFORT


def check_commands(node, parameters: dict, own: str = "controller") -> list[Finding]:
    """Whether backend, gripper and monitor find what they need, and nobody else commands.

    parameters: of the controller, by name. own: the controller's node name, which may publish.
    """
    findings = []
    backend = parameters["backend"]
    if backend == "joint_trajectory" and parameters["joint_trajectory.interface"] == "action":
        backend = "joint_trajectory.action"
    chosen = (backend, f"gripper.{parameters['gripper']}", f"monitor.{parameters['monitor']}")
    actions, services = _actions(node), dict(node.get_service_names_and_types())
    for name in chosen:
        package = PACKAGES.get(name)
        if package and not _importable(package):
            findings.append(
                Finding(
                    "commands",
                    f"{name} needs {package}, which is not installed",
                    PROBLEM,
                    f"install ros-jazzy-{package.replace('_', '-')}, and source it first",
                )
            )
        for kind, pattern in NEEDS[name]:
            wanted = node.resolve_topic_name(pattern.format_map(_Dotted(parameters)))
            there = {
                "topic": lambda w: node.count_subscribers(w) > 0,
                "status": lambda w: node.count_publishers(w) > 0,
                "action": lambda w: w in actions,
                "service": lambda w: w in services,
            }[kind](wanted)
            if not there:
                findings.append(
                    Finding(
                        "commands",
                        f"{name}: nobody serves the {kind} {wanted}",
                        PROBLEM,
                        "load and activate its controller or driver, or correct the parameter",
                    )
                )
            elif kind == "topic":
                others = [
                    info.node_name
                    for info in node.get_publishers_info_by_topic(wanted)
                    if info.node_name != own
                ]
                if others:
                    findings.append(
                        Finding(
                            "commands",
                            f"{', '.join(others)} publishes on {wanted}",
                            PROBLEM,
                            "stop it: two must not command one arm",
                        )
                    )
    names = [name for name, _ in node.get_node_names_and_namespaces()]
    if names.count(own) > 1:
        findings.append(
            Finding(
                "commands",
                f"there are {names.count(own)} nodes '{own}'",
                PROBLEM,
                "end all but one",
            )
        )
    return findings or [
        Finding("commands", f"{', '.join(chosen)}: what they need is there, and ours alone")
    ]


class _Dotted(dict):
    """Lets "{a.b}" mean the key "a.b", which str.format would take for an attribute."""

    def __missing__(self, key: str):
        return _Prefix(self, key)


class _Prefix:
    def __init__(self, values: dict, name: str):
        self._values, self._name = values, name

    def __getattr__(self, name: str):
        return self._values.get(f"{self._name}.{name}") or _Prefix(
            self._values, f"{self._name}.{name}"
        )


def _actions(node) -> set[str]:
    """Names of the actions that somebody serves."""
    suffix = "/_action/send_goal"
    return {
        name.removesuffix(suffix)
        for name, _ in node.get_service_names_and_types()
        if name.endswith(suffix)
    }


def _importable(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def check_middleware() -> list[Finding]:
    """The ROS environment of this shell."""
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    text = f"ROS_DOMAIN_ID {domain}, discovery range {reach}"
    if reach == "LOCALHOST":
        text += ": robots and cameras on other machines are not heard"
    return [Finding("middleware", text)]
