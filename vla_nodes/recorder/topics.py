"""The topics that the recorder reads, and their bookkeeping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.subscription import Subscription
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, String
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory
from vla_ros.msg import (
    ActionChunk,
    Instruction,
    LatentAction,
    Observation,
    PolicyStatus,
    Response,
    SceneState,
)

from vla.bags.ring_buffer import ReceivedMessage
from vla.bags.writer import qos_entry
from vla.contract.embodiment import EmbodimentContract
from vla_nodes.core import qos
from vla_nodes.core.clock_watch import CLOCK_TOPIC
from vla_nodes.core.polled import Unattended

# A recorder may be late but must not lose messages: far deeper than for a controller.
DEPTH = 1000
IMAGE_DEPTH = 100
COMMANDS = (
    ("joint_trajectory_controller/joint_trajectory", JointTrajectory),
    ("gripper_position_controller/commands", Float64MultiArray),
)
INSTRUCTION = "vla/instruction"
POLICY = (
    (INSTRUCTION, Instruction, qos.LATCHED),
    ("vla/status", PolicyStatus, qos.LATCHED),
    ("vla/response", Response, qos.RESPONSE),
    ("vla/latent_action", LatentAction, qos.RESULT),
    ("vla/action_chunk", ActionChunk, qos.RESULT),
)
OBSERVATION = "vla/observation"


class TopicError(ValueError):
    """A topic that cannot be recorded; the message says why."""


@dataclass(frozen=True)
class TopicPlan:
    """A topic to listen to."""

    name: str
    message_class: type
    profile: QoSProfile
    required: bool = False  # an episode cannot start while it is silent
    latched: bool = False  # its last message is repeated at the start of every episode
    # Makes one message of all so far and a new one, where each of several writers has its own.
    joined: Callable[[bytes, bytes], bytes] | None = None


class TopicReader:
    """Takes the messages of one topic as bytes; keeps its freshness and losses.

    They do not wake the node, which would cost a recorder most of a processor core and gain
    nothing, since the middleware stamps their arrival.
    """

    def __init__(self, node: Node, plan: TopicPlan, group: Unattended):
        """Subscribes, at first as the plan says."""
        self.plan = plan
        self._node = node
        self._group = group
        self._subscription = self._subscribe(plan.profile)
        self.name = self._subscription.topic_name
        self.last: ReceivedMessage | None = None
        self.lost = 0
        self._sequence = 0
        self._single = False
        self.count_publishers()

    def _subscribe(self, profile: QoSProfile) -> Subscription:
        return self._node.create_subscription(
            self.plan.message_class,
            self.plan.name,
            lambda _: None,
            profile,
            callback_group=self._group,
            raw=True,
        )

    @property
    def profile(self) -> QoSProfile:
        """What the subscription asks for now."""
        return self._subscription.qos_profile

    def match_publishers(self) -> None:
        """Requests reliable delivery of a sensor's topic if, and only if, all its writers offer it.

        Best effort reads from any writer, but loses large images on a busy machine.
        """
        offered = {
            info.qos_profile.reliability
            for info in self._node.get_publishers_info_by_topic(self.name)
        }
        reliable = offered == {ReliabilityPolicy.RELIABLE}
        planned = self.plan.profile
        wanted = ReliabilityPolicy.RELIABLE if reliable else planned.reliability
        if not offered or wanted == self.profile.reliability:
            return
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe(qos.changed(planned, reliability=wanted))
        self._sequence = 0
        # Only what the new subscription hears is fresh: it may not be connected yet.
        self.last = None

    def close(self) -> None:
        """Ends the subscription."""
        self._node.destroy_subscription(self._subscription)

    def count_publishers(self) -> int:
        """How many there are now. Losses show only with one: each counts its own messages."""
        count = self._node.count_publishers(self.name)
        self._single = count == 1
        return count

    def age(self) -> float:
        """Time since the newest message [s]; infinite before the first."""
        if self.last is None:
            return math.inf
        return (time.time_ns() - self.last.receive_time) * 1e-9

    def take(self) -> list[ReceivedMessage]:
        """Everything that has arrived since the last call, oldest first."""
        messages: list[ReceivedMessage] = []
        while len(messages) < DEPTH:
            with self._subscription.handle:
                taken = self._subscription.handle.take_message(self.plan.message_class, True)
            if taken is None:
                break
            messages.append(self._receive(*taken))
        return messages

    def _receive(self, data: bytes, info: dict) -> ReceivedMessage:
        sequence = info.get("publication_sequence_number") or 0
        lost = 0
        if self._single and 0 < self._sequence < sequence:
            lost = sequence - self._sequence - 1
        self._sequence = sequence
        self.lost += lost
        receive_time = info.get("received_timestamp") or time.time_ns()
        publish_time = info.get("source_timestamp") or receive_time
        sequence &= 0xFFFFFFFF
        if self.plan.joined is not None and self.last is not None:
            data = self.plan.joined(self.last.data, data)
        self.last = ReceivedMessage(self.name, data, receive_time, publish_time, sequence, lost)
        return self.last


def plan_topics(
    contract: EmbodimentContract,
    compressed_images: bool,
    simulated: bool,
    extra: Sequence[str] = (),
    excluded: Sequence[str] = (),
) -> list[TopicPlan]:
    """Everything needed to train from an episode of this robot, and to show it in a viewer.

    compressed_images: take `<topic>/compressed` of each camera. simulated: also the clock and the
    simulator's state. extra: more topics, each as "name package/msg/Type". excluded: names to leave
    out. Raises TopicError when an extra topic is not available, or a required one is excluded,
    ContractError for a contract whose state is not that of a tool.
    """
    contract.require_tool("recording a robot")
    sensor = _deep(qos.SENSOR)
    picture = _deep(qos.SENSOR, IMAGE_DEPTH)
    plans = []
    for camera in contract.cameras:
        folder, slash, _ = camera.topic.rpartition("/")
        info = f"{folder}{slash}camera_info"
        if compressed_images:
            image = TopicPlan(f"{camera.topic}/compressed", CompressedImage, picture, True)
        else:
            image = TopicPlan(camera.topic, Image, picture, True)
        plans += [image, TopicPlan(info, CameraInfo, sensor)]
    plans += [
        TopicPlan(contract.joint_states_topic, JointState, sensor, True),
        TopicPlan(contract.end_effector_pose_topic, PoseStamped, sensor, True),
    ]
    plans += [TopicPlan(name, kind, _deep(qos.COMMAND)) for name, kind in COMMANDS]
    plans += [
        TopicPlan(name, kind, _deep(profile), latched=profile is qos.LATCHED)
        for name, kind, profile in POLICY
    ]
    plans.append(TopicPlan(OBSERVATION, Observation, _deep(qos.LATEST, IMAGE_DEPTH)))
    plans += [
        TopicPlan("/tf", TFMessage, sensor),
        TopicPlan("/tf_static", TFMessage, _deep(qos.LATCHED), latched=True, joined=joined_frames),
        TopicPlan("robot_description", String, _deep(qos.LATCHED), latched=True),
    ]
    if simulated:
        plans.append(TopicPlan(CLOCK_TOPIC, Clock, _deep(qos.CLOCK)))
        plans.append(TopicPlan("sim/state", SceneState, sensor))
    planned = {plan.name for plan in plans}
    more = [_extra_topic(text) for text in extra if text]
    plans += [plan for plan in more if plan.name not in planned]
    for plan in plans:
        if plan.required and plan.name in excluded:
            raise TopicError(f"{plan.name} cannot be left out: the contract needs it for training")
    return [plan for plan in plans if plan.name not in excluded]


def joined_frames(earlier: bytes, newer: bytes) -> bytes:
    """The transforms of two TFMessages as one, as CDR bytes; of a frame in both, the newer.

    So the last message has the fixed frames of all nodes that send some, for a bag and for those
    who join while it is played.
    """
    frames = {
        transform.child_frame_id: transform
        for data in (earlier, newer)
        for transform in deserialize_message(data, TFMessage).transforms
    }
    return serialize_message(TFMessage(transforms=list(frames.values())))


def bag_qos(profile: QoSProfile) -> dict:
    """The profile as a bag stores it, for `ros2 bag play` to offer."""
    reliable = profile.reliability == ReliabilityPolicy.RELIABLE
    latched = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return qos_entry(
        "reliable" if reliable else "best_effort",
        "transient_local" if latched else "volatile",
        depth=1 if latched else 10,
    )


def type_name(message_class: type) -> str:
    """Name of a message class as "package/msg/Name"."""
    return f"{message_class.__module__.split('.')[0]}/msg/{message_class.__name__}"


def _deep(profile: QoSProfile, depth: int = DEPTH) -> QoSProfile:
    return qos.changed(profile, depth=depth)


def _extra_topic(text: str) -> TopicPlan:
    parts = text.split()
    if len(parts) != 2 or parts[1].count("/") != 2:
        raise TopicError(f"extra topic '{text}': expected 'name package/msg/Type'")
    package, kind, name = parts[1].split("/")
    try:
        message_class = getattr(import_module(f"{package}.{kind}"), name)
    except (ImportError, AttributeError) as error:
        raise TopicError(
            f"extra topic '{text}': no such message type; source the workspace that has '{package}'"
        ) from error
    return TopicPlan(parts[0], message_class, _deep(qos.SENSOR))
