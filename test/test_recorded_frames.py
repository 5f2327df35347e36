"""Transforms and the robot's description in bags, for those who open an episode in a viewer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from bag_files import write_demonstration
from geometry_msgs.msg import TransformStamped
from node_harness import Graph
from rclpy.serialization import deserialize_message, serialize_message
from recorded_robot import CONTRACT, Robot, begin, end, started
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from vla_ros.srv import SaveRecent

from vla.bags.frames import read_frames
from vla.bags.reader import read_messages, read_metadata
from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.playback.bag_footage import BagFootage
from vla_nodes.core import qos
from vla_nodes.recorder.topics import joined_frames, plan_topics


def frames(*names: str, parent: str = "base") -> TFMessage:
    message = TFMessage()
    for name in names:
        transform = TransformStamped(child_frame_id=name)
        transform.header.frame_id = parent
        message.transforms.append(transform)
    return message


def transforms(uri: str, topic: str) -> list[TFMessage]:
    """The messages of a topic in a bag."""
    return [
        deserialize_message(message.data, TFMessage)
        for message in read_messages(uri)
        if message.topic == topic
    ]


def children(message: TFMessage) -> set[str]:
    return {transform.child_frame_id for transform in message.transforms}


def test_fixed_frames_of_several_nodes_become_one_message():
    joined = joined_frames(
        serialize_message(frames("hand", "camera")),
        serialize_message(frames("camera", "table", parent="world")),
    )
    parents = {
        transform.child_frame_id: transform.header.frame_id
        for transform in deserialize_message(joined, TFMessage).transforms
    }
    assert parents == {"hand": "base", "camera": "world", "table": "world"}


def test_a_topic_that_is_planned_anyway_is_planned_once():
    contract = load_contract(contract_path("sim_panda"))
    asked = ["/tf tf2_msgs/msg/TFMessage", "more std_msgs/msg/String"]
    names = [plan.name for plan in plan_topics(contract, False, False, asked)]
    assert len(names) == len(set(names)) and "more" in names
    left_out = ["/tf", "/tf_static", "robot_description"]
    names = [plan.name for plan in plan_topics(contract, False, False, excluded=left_out)]
    assert not set(names) & set(left_out)


def test_a_data_set_has_nothing_of_them(tmp_path):
    contract = load_contract(CONTRACT)
    more = [
        (0.0, "tf_static", frames("hand")),
        (0.0, "robot_description", String(data="<robot/>")),
        *((tick / 10, "tf", frames("link")) for tick in range(10)),
    ]
    plain = write_demonstration(tmp_path / "plain", contract, seconds=1.0)
    framed = write_demonstration(tmp_path / "framed", contract, seconds=1.0, more=more)
    one, other = (read_frames(folder, contract, None) for folder in (plain, framed))
    assert np.array_equal(one.states, other.states) and np.array_equal(one.actions, other.actions)
    assert one.instructions == other.instructions
    kinds = [list(BagFootage(folder, "it").everything()) for folder in (plain, framed)]
    assert len(kinds[0]) == len(kinds[1])


@pytest.mark.nodes
def test_every_episode_begins_with_the_description_and_all_fixed_frames(tmp_path):
    with Graph() as graph:
        # As in a namespace with a tree of its own, while the sensors stay where they are.
        remapped = ("-r", "/tf:=left/tf", "-r", "/tf_static:=left/tf_static")
        started(graph, tmp_path, arguments=remapped, ring_buffer=60.0)
        robot = Robot(graph)
        graph.publisher(String, "robot_description", qos.LATCHED).publish(String(data="<robot/>"))
        for name in ("hand", "camera"):
            graph.publisher(TFMessage, "left/tf_static", qos.LATCHED).publish(frames(name))
        moving = graph.publisher(TFMessage, "left/tf", qos.TRANSFORMS)
        first = begin(graph, robot)
        for _ in range(20):
            moving.publish(frames("link"))
            robot.send()
        graph.publisher(TFMessage, "left/tf_static", qos.LATCHED).publish(frames("table"))
        robot.send(5)
        stopped = end(graph, "success")
        assert stopped.success and not stopped.message
        second = begin(graph, robot)
        assert end(graph, "success").success
        request = SaveRecent.Request(duration=0.05)
        robot.send(5)
        saved = graph.call(SaveRecent, "vla/save_recent", request)
        assert saved.success, saved.message

    assert len(transforms(first.uri, "/left/tf")) == 20
    # A sender that was found late comes in a message of its own.
    fixed = [children(message) for message in transforms(first.uri, "/left/tf_static")]
    assert fixed[-1] == {"hand", "camera", "table"}
    assert all(before < after for before, after in pairwise(fixed))
    for uri in (second.uri, saved.uri):
        (fixed,) = transforms(uri, "/left/tf_static")
        assert children(fixed) == {"hand", "camera", "table"}
        metadata = read_metadata(uri)
        assert metadata.topics["/robot_description"] == 1
        begun = next(m for m in read_messages(uri) if m.topic == "/left/tf_static")
        assert begun.receive_time == metadata.start_time
