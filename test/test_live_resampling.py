"""A bag that is played to the perception node gives the samples that conversion makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from bag_files import BEGIN, MILLISECOND, write_demonstration
from geometry_msgs.msg import PoseStamped
from node_harness import ROOT, Graph
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from vla_ros.msg import Observation

from vla.bags.episodes import read_bag_episode
from vla.bags.reader import read_messages
from vla.contract.embodiment import load_contract
from vla.observations.messages import image_to_array, serialized_stamp, stamp_to_nanoseconds
from vla_nodes.core import qos
from vla_nodes.core.conversions import nanoseconds_to_stamp

pytestmark = pytest.mark.nodes

CONTRACT = load_contract(ROOT / "config/contracts/sim_panda.yaml")
# Of measurements [ms], so that no two streams have the same stamps.
DELAYS = {
    "camera/wrist/image_raw": 13,
    CONTRACT.joint_states_topic: 4,
    CONTRACT.end_effector_pose_topic: 7,
}


class BagPlayer:
    """Plays a bag as fast as the node observes, with the clock that its stamps are of."""

    def __init__(self, graph: Graph, compressed: bool):
        self.graph = graph
        kind, suffix = (CompressedImage, "/compressed") if compressed else (Image, "")
        self.reference = CONTRACT.camera(CONTRACT.reference_camera).topic + suffix
        kinds = {camera.topic + suffix: kind for camera in CONTRACT.cameras} | {
            CONTRACT.joint_states_topic: JointState,
            CONTRACT.end_effector_pose_topic: PoseStamped,
        }
        self.kinds = kinds
        self.clock = graph.publisher(Clock, "/clock", qos.CLOCK)
        self.publishers = {
            topic: graph.publisher(kind, topic, qos.SENSOR_OUTPUT) for topic, kind in kinds.items()
        }
        self.seen = graph.collect(Observation, "vla/observation", qos.LATEST)

    def warm_up(self, bag) -> None:
        """Plays the first messages, with stamps of before, until all of them are heard.

        A reader that takes what it gets has no messages of the time before it knows the writer.
        """
        first, time = {}, BEGIN - 20_000 * MILLISECOND
        for message in read_messages(bag):
            topic = message.topic.removeprefix("/robot/")
            if topic not in first:
                first[topic] = deserialize_message(message.data, self.kinds[topic])

        def heard():
            nonlocal time
            time = min(time + 10 * MILLISECOND, BEGIN - 1000 * MILLISECOND)
            self.clock.publish(Clock(clock=nanoseconds_to_stamp(time)))
            for topic, message in first.items():
                message.header.stamp = nanoseconds_to_stamp(time)
                self.publishers[topic].publish(message)
            return self.seen

        self.graph.wait(heard, "a first observation")
        # The last of these may still be on their way.
        self.graph.wait(lambda: self.stamps()[-1] == time, "the last of the first observations")
        self.seen.clear()

    def play(self, bag, begin: int) -> dict[int, Observation]:
        """Observations by stamp. begin: the first stamp [ns] at which one is waited for."""
        newest = dict.fromkeys(self.publishers, 0)
        waited: list[int] = []
        for message in read_messages(bag):
            topic = message.topic.removeprefix("/robot/")
            newest[topic] = stamp = serialized_stamp(message.data)
            self.clock.publish(Clock(clock=nanoseconds_to_stamp(stamp)))
            self.publishers[topic].publish(message.data)
            if topic == self.reference and stamp >= begin:
                waited.append(stamp)
            while waited and min(newest.values()) >= waited[0]:
                self.graph.wait(lambda: waited[0] in self.stamps(), f"observation of {waited[0]}")
                waited.pop(0)
        return dict(zip(self.stamps(), self.seen, strict=True))

    def stamps(self) -> list[int]:
        return [stamp_to_nanoseconds(observation.header.stamp) for observation in self.seen]


@pytest.mark.parametrize(
    ("compressed", "encoding"),
    [(False, "rgb8"), (True, "rgb8"), (False, "yuv422_yuy2"), (False, "bayer_gbrg8")],
)
def test_training_sees_what_the_robot_sees(tmp_path, compressed, encoding):
    bag = write_demonstration(
        tmp_path / "bag",
        CONTRACT,
        compressed=compressed,
        delays=DELAYS,
        textured=True,
        encoding=encoding,
    )
    episode, images = read_bag_episode(bag, CONTRACT)
    assert {int(age) for age in episode.log.ages["pose"]} == {3_000_000}
    assert {int(age) for age in episode.log.ages["camera_wrist"]} == {37_000_000}
    with Graph() as graph:
        graph.start("perception", compressed=compressed, use_sim_time=True, longest_wait=1.0)
        player = BagPlayer(graph, compressed)
        player.warm_up(bag)
        observations = player.play(bag, episode.times[0])
    assert len(episode.times) > 25 and set(episode.times) <= set(observations)
    assert len(observations) >= 2 * len(episode.times) - 1, "the node works at the camera's rate"
    for row, time in enumerate(episode.times):
        observation = observations[time]
        np.testing.assert_array_equal(
            np.array(observation.state, np.float32), episode.states[row], f"frame {row}"
        )
        assert list(observation.camera_names) == list(images)
        for name, image in zip(observation.camera_names, observation.images, strict=True):
            np.testing.assert_array_equal(image_to_array(image), images[name][row])
