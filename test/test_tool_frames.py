"""Perception with the tool's pose from TF: what is observed, and what is said without one."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from node_harness import Graph
from scipy.spatial.transform import Rotation
from test_perception_node import CONTRACT, FakeSensors
from tf2_msgs.msg import TFMessage
from vla_ros.msg import Observation

from vla.contract.embodiment import state_vector
from vla.observations.messages import stamp_to_nanoseconds
from vla_nodes.core import qos
from vla_nodes.core.conversions import array_to_vector, nanoseconds_to_stamp

pytestmark = pytest.mark.nodes

BASE, ELBOW, HAND, TOOL = "panda_link0", "elbow", "hand", "panda_hand_tcp"
TURN = Rotation.from_euler("xyz", [3.0, 0.2, -0.4])


def transform(parent: str, child: str, position, turn: Rotation, time: int) -> TransformStamped:
    """time: [ns]."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, nanoseconds_to_stamp(time)
    message.transform.translation = array_to_vector(position)
    rotation = message.transform.rotation
    rotation.x, rotation.y, rotation.z, rotation.w = map(float, turn.as_quat())
    return message


class SensorsWithFrames(FakeSensors):
    """Cameras and joint states as FakeSensors, and TF of an arm of two moving links."""

    def __init__(self, graph: Graph):
        self.tf = graph.publisher(TFMessage, "/tf", qos.TRANSFORMS)
        self.tf_static = graph.publisher(TFMessage, "/tf_static", qos.LATCHED)
        super().__init__(graph, has_pose=False)

    def announce(self) -> None:
        fixed = transform(HAND, TOOL, (0, 0, 0.1), Rotation.identity(), 0)
        self.tf_static.publish(TFMessage(transforms=[fixed]))

    def send(self) -> None:
        time = self.now()
        message = TFMessage(
            transforms=[
                transform(BASE, ELBOW, (0.3, 0, 0.5), TURN, time),
                transform(ELBOW, HAND, (0, 0.1, 0.1), TURN.inv(), time),
            ]
        )
        if (message := self.spoil("tf", message)) is not None:
            self.tf.publish(message)
        super().send()


@pytest.fixture(scope="module")
def running():
    with Graph() as graph:
        graph.start("perception", pose_source="tf", longest_wait=0.1)
        sensors = SensorsWithFrames(graph)
        yield graph, sensors, graph.collect(Observation, "vla/observation", qos.LATEST)


def test_until_the_frames_are_connected_it_says_which_there_are(running):
    graph, sensors, seen = running
    said = graph.wait_diagnostic("perception", lambda s: "no way from" in s.message)
    assert f"'{BASE}' to '{TOOL}'; frames known: elbow, hand, panda_link0" in said.message
    assert not seen
    sensors.announce()
    graph.wait(lambda: len(seen) >= 3, "observations")
    observation = seen[-1]
    assert observation.header.frame_id == BASE
    assert stamp_to_nanoseconds(observation.state_stamp) > 0
    position = np.array([0.3, 0, 0.5]) + TURN.apply([0, 0.1, 0.1]) + [0, 0, 0.1]
    expected = state_vector(position, np.array([0.0, 0.0, 0.0, 1.0]), 0.05, CONTRACT.state_names)
    assert np.allclose(observation.state, expected, atol=1e-9)


def nan(message):
    message.transforms[1].transform.translation.x = float("nan")
    return message


def in_millimetres(message):
    message.transforms[0].transform.translation.x = 300.0
    return message


def silent(message):
    return None


def in_the_future(message):
    for entry in message.transforms:
        entry.header.stamp.sec += 5
    return message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (nan, "'/tf': the transform from 'elbow' to 'hand' is not finite"),
        (in_millimetres, "'/tf': "),
        (silent, "no message on '/tf' is from the last 0.1 s before the image"),
        (in_the_future, "the stamps on '/tf' are 5"),
    ],
)
def test_bad_or_missing_transforms_are_named_and_nothing_is_observed(running, change, words):
    graph, sensors, seen = running
    sensors.announce()
    sensors.spoil = lambda topic, message: change(message) if topic == "tf" else message
    try:
        graph.wait_diagnostic("perception", lambda s: words in s.message and s.level == s.ERROR)
        begin = sensors.now()
        graph.wait_diagnostic("perception", lambda s: words in s.message)
        assert not [o for o in seen if stamp_to_nanoseconds(o.header.stamp) > begin]
    finally:
        sensors.spoil = lambda topic, message: message
    begin = sensors.now()
    graph.wait(
        lambda: begin < stamp_to_nanoseconds(seen[-1].header.stamp) <= sensors.now(), "it goes on"
    )


def test_others_may_send_transforms_but_not_of_the_same_frames(running):
    graph, sensors, seen = running
    sensors.announce()
    other = graph.publisher(TFMessage, "/tf", qos.TRANSFORMS)

    def send(child):
        time = sensors.now()
        frame = transform(BASE, child, (0.0, 0.0, 1.0), Rotation.identity(), time)
        other.publish(TFMessage(transforms=[frame]))

    def observed():
        send("table")
        return len(seen) >= 10

    seen.clear()
    graph.wait(observed, "observations beside another publisher")

    def named(status):
        send(ELBOW)
        return "transforms of frame 'elbow' on '/tf' come from more than one node" in status.message

    timer = graph.node.create_timer(0.02, lambda: send(ELBOW))
    graph.wait_diagnostic("perception", named)
    graph.node.destroy_timer(timer)
    graph.node.destroy_publisher(other)
