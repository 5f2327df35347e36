"""The fake robot of the recorder's tests, and the calls that start and stop an episode."""

from __future__ import annotations

import time
from pathlib import Path

from geometry_msgs.msg import PoseStamped
from node_harness import ROOT, Graph
from sensor_msgs.msg import CompressedImage, Image, JointState
from vla_ros.srv import StartEpisode, StopEpisode

from vla_nodes.core import qos

CONTRACT = ROOT / "config/contracts/sim_panda.yaml"
SENSOR_TOPICS = (
    ("camera/front/image_raw", Image),
    ("camera/wrist/image_raw", Image),
    ("joint_states", JointState),
    ("end_effector_pose", PoseStamped),
)


class Robot:
    """Publishes what a robot's drivers do, and counts it. size: side of the images [px]."""

    def __init__(self, graph: Graph, without: str = "", compressed: bool = False, size: int = 16):
        self.graph = graph
        self.size = size
        self.sent: dict[str, int] = {}
        self.publishers = {}
        for topic, kind in SENSOR_TOPICS:
            if compressed and kind is Image:
                topic, kind = f"{topic}/compressed", CompressedImage
            if topic != without:
                self.publishers[topic] = (graph.publisher(kind, topic, qos.SENSOR_OUTPUT), kind)

    def send(self, times: int = 1) -> None:
        for _ in range(times):
            for topic, (publisher, kind) in self.publishers.items():
                message = kind()
                now = time.time_ns()
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
                if kind is Image:
                    message.height = message.width = self.size
                    message.encoding, message.step = "rgb8", 3 * self.size
                    message.data = bytes(3 * self.size**2)
                elif kind is CompressedImage:
                    message.format, message.data = "jpeg", b"not decoded by anybody"
                publisher.publish(message)
                self.sent[topic] = self.sent.get(topic, 0) + 1
            self.graph.spin(0.005)


def started(graph: Graph, directory: Path, **parameters):
    """The process of an active recorder that writes into `directory`."""
    process = graph.start(
        "recorder", contract=str(CONTRACT), directory=str(directory), **parameters
    )
    graph.wait_state("recorder", "active")
    return process


def begin(
    graph: Graph, robot: Robot, note: str = "", instruction: str = ""
) -> StartEpisode.Response:
    """Publishes until the recorder has heard every topic, and starts."""
    request = StartEpisode.Request(note=note, instruction=instruction)

    def accepted():
        robot.send()
        response = graph.call(StartEpisode, "vla/start_episode", request)
        return response if response.success else None

    response = graph.wait(accepted, "episode that starts")
    robot.sent.clear()
    return response


def end(graph: Graph, outcome: str, note: str = "") -> StopEpisode.Response:
    """Stops the episode."""
    request = StopEpisode.Request(outcome=outcome, note=note)
    return graph.call(StopEpisode, "vla/stop_episode", request)
