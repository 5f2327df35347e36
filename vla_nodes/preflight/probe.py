"""Measures for some seconds, on a running robot, what `vla preflight` judges.

It commands nothing, and creates no publisher.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.duration import Infinite
from rclpy.parameter import Parameter
from rclpy.qos import (
    LivelinessPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from vla_ros.msg import PolicyStatus

from vla.contract.embodiment import EmbodimentContract
from vla.observations.messages import compressed_to_array, image_to_array, raw_pose
from vla.preflight.topics import CameraStatistics, TopicStatistics
from vla_nodes.client.graph import RobotClient
from vla_nodes.core import qos
from vla_nodes.core.clock_watch import CLOCK_TOPIC
from vla_nodes.core.conversions import stamp_to_seconds

# Time for discovery [s]: at least, and at most while topics are missing.
DISCOVERY_TIME, LONGEST_DISCOVERY = 1.5, 6.0
# rmw's name for a node of which only an endpoint is known.
UNKNOWN = "_NODE_NAME_UNKNOWN_"
DESCRIPTION = "robot_description"


@dataclass
class RobotMeasurements:
    """Everything that was measured."""

    # The contract's topics by name, its cameras by their names in it.

    topics: dict[str, TopicStatistics] = field(default_factory=dict)
    cameras: dict[str, CameraStatistics] = field(default_factory=dict)
    positions: dict[str, float] = field(default_factory=dict)  # newest of each joint [rad, m]
    # Lists of joint names that came, each once.
    joint_sets: list[tuple[str, ...]] = field(default_factory=list)
    # Frame, position [3] and quaternion [4] x y z w.
    pose: tuple[str, np.ndarray, np.ndarray] | None = None
    urdf: str = ""
    status: PolicyStatus | None = None
    known: dict[str, list[str]] = field(default_factory=dict)  # types by published topic
    clock_topic: str = CLOCK_TOPIC  # where simulated time is looked for
    clocks: tuple[str, ...] = ()  # publishers of the simulated time
    clock_runs: bool = True  # whether simulated time came
    # Messages on topics that must be alive; None where their type is not installed.
    heard: dict[str, int | None] = field(default_factory=dict)


class RobotProbe:
    """Subscribes to a robot's topics while it exists."""

    def __init__(
        self,
        client: RobotClient,
        contract: EmbodimentContract,
        compressed: bool,
        use_sim_time: bool,
        alive: Sequence[str] = (),
    ):
        """Subscribes.

        compressed: take `<topic>/compressed` of each camera. alive: topics of any type whose
        messages are only counted.
        """
        self._client, self._node, self._contract = client, client.node, contract
        self._use_sim_time, self._alive = use_sim_time, alive
        self._set_sim_time(use_sim_time)
        self.seen = RobotMeasurements()
        self._arm_came = False
        self._checksums: dict[str, int] = {}
        suffix, kind = ("/compressed", CompressedImage) if compressed else ("", Image)
        for camera in contract.cameras:
            self.seen.cameras[camera.name] = CameraStatistics()
            self._watch(
                kind,
                camera.topic + suffix,
                lambda message, name=camera.name: self._on_image(name, message),
            )
        self._watch(JointState, contract.joint_states_topic, self._on_joints)
        self._watch(PoseStamped, contract.end_effector_pose_topic, self._on_pose)
        subscribe = self._node.create_subscription
        subscribe(String, DESCRIPTION, self._on_urdf, qos.LATCHED)
        subscribe(PolicyStatus, "vla/status", self._on_status, qos.LATCHED)

    def measure(self, seconds: float) -> RobotMeasurements:
        """Measures for some seconds."""
        seen = self.seen
        self._client.spin(DISCOVERY_TIME)
        self._spin_while(self._is_missing)
        if self._use_sim_time and self._now() == 0.0:
            # Everything else can still be measured with this machine's clock.
            seen.clock_runs = False
            self._set_sim_time(False)
        for name in self._alive:
            self._listen(name)
        self._forget()
        began, began_steady = self._now(), time.monotonic()
        self._client.spin(seconds)
        self._spin_while(self._is_nameless)
        passed = self._now() - began
        # A restarted simulator sets its time back.
        passed = passed if passed > 0.0 else time.monotonic() - began_steady
        seen.clock_topic = self._node.resolve_topic_name(CLOCK_TOPIC)
        clocks = self._node.get_publishers_info_by_topic(seen.clock_topic)
        seen.clocks = tuple(map(node_name, clocks))
        seen.known = {
            name: kinds
            for name, kinds in self._node.get_topic_names_and_types()
            if self._node.count_publishers(name) > 0
        }
        for name, topic in seen.topics.items():
            infos = self._node.get_publishers_info_by_topic(name)
            topic.seconds = passed
            topic.publishers = tuple(map(node_name, infos))
            topic.kinds = tuple(dict.fromkeys(info.topic_type for info in infos))
            topic.best_effort = any(
                info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for info in infos
            )
            topic.incompatible = incompatible(infos, qos.RESAMPLED)
        return seen

    def _is_missing(self) -> bool:
        """Whether the clock or a topic of the contract is still missing."""
        silent = [name for name, topic in self.seen.topics.items() if not topic.count]
        return bool(silent) or (self._use_sim_time and self._now() == 0.0)

    def _is_nameless(self) -> bool:
        """Whether a publisher's node is still unknown."""
        return any(
            UNKNOWN in node_name(info)
            for name, _ in self._node.get_topic_names_and_types()
            for info in self._node.get_publishers_info_by_topic(name)
        )

    def _spin_while(self, condition: Callable[[], bool]) -> None:
        started = time.monotonic()
        while condition() and time.monotonic() - started < LONGEST_DISCOVERY:
            self._client.spin(0.1)

    def _now(self) -> float:
        return self._node.get_clock().now().nanoseconds * 1e-9

    def _set_sim_time(self, value: bool) -> None:
        self._node.set_parameters([Parameter("use_sim_time", value=value)])

    def _forget(self) -> None:
        for topic in self.seen.topics.values():
            topic.arrivals.clear()
            topic.stamps.clear()
        for name in self.seen.cameras:
            self.seen.cameras[name] = CameraStatistics()
        self._checksums.clear()

    def _watch(self, kind, topic: str, take: Callable[..., bool]) -> None:
        seen = self.seen.topics[topic] = TopicStatistics(topic)

        def on_message(message) -> None:
            if take(message):
                seen.arrivals.append(self._now())
                seen.stamps.append(stamp_to_seconds(message.header.stamp))

        self._node.create_subscription(kind, topic, on_message, qos.RESAMPLED)

    def _listen(self, topic: str) -> None:
        """Counts the messages of a topic of any type."""
        topic = self._node.resolve_topic_name(topic)
        infos = self._node.get_publishers_info_by_topic(topic)
        if not infos:
            return
        package, kind, name = infos[0].topic_type.split("/")
        try:
            message_type = getattr(import_module(f"{package}.{kind}"), name)
        except (ImportError, AttributeError):
            self.seen.heard[topic] = None
            return
        self.seen.heard[topic] = 0

        def count(message) -> None:
            self.seen.heard[topic] = (self.seen.heard[topic] or 0) + 1

        self._node.create_subscription(message_type, topic, count, qos.NEWEST_SENSOR, raw=True)

    def _on_image(self, name: str, message) -> bool:
        seen = self.seen.cameras[name]
        checksum = zlib.crc32(message.data)
        seen.changed |= self._checksums.setdefault(name, checksum) != checksum
        if seen.width or seen.error:
            return True
        compressed = isinstance(message, CompressedImage)
        try:
            pixels = compressed_to_array(message) if compressed else image_to_array(message)
        except ValueError as error:
            seen.error = str(error)
            return True
        seen.height, seen.width = pixels.shape[:2]
        seen.encoding = message.format if compressed else message.encoding
        seen.mean = float(pixels.mean())
        return True

    def _on_joints(self, message: JointState) -> bool:
        """Whether the message counts: where arm and gripper publish separately, the arm's."""
        names = tuple(message.name)
        if names not in self.seen.joint_sets:
            self.seen.joint_sets.append(names)
        self.seen.positions |= zip(names, message.position, strict=False)
        has_arm = self._contract.joint_names[0] in names
        self._arm_came |= has_arm
        return has_arm or not self._arm_came

    def _on_pose(self, message: PoseStamped) -> bool:
        self.seen.pose = (message.header.frame_id, *raw_pose(message.pose))
        return True

    def _on_urdf(self, message: String) -> None:
        self.seen.urdf = message.data

    def _on_status(self, message: PolicyStatus) -> None:
        self.seen.status = message


def node_name(info) -> str:
    """Full name of the node of an endpoint."""
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def incompatible(infos: Sequence, ours: QoSProfile, ours_writes: bool = False) -> tuple[str, ...]:
    """Why our profile does not match those of other endpoints, a sentence for each.

    ours_writes: ours is the writer's, and theirs are readers'.
    """
    reasons = []
    # Profiles from the graph have an infinite deadline and lease; ours, which leave them open,
    # would count as different.
    ours = qos.changed(
        ours,
        deadline=Infinite,
        liveliness=LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=Infinite,
    )
    for info in infos:
        theirs = info.qos_profile
        pair = (ours, theirs) if ours_writes else (theirs, ours)
        verdict, reason = qos_check_compatible(*pair)
        if verdict == QoSCompatibility.ERROR:
            reasons.append(f"{node_name(info)}: {reason.replace('ERROR: ', ' ').strip('; ')}")
    return tuple(reasons)
