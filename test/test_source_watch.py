"""Whom a shared topic's messages are taken from, with publishers in processes of their own."""

import signal
import time

import pytest
from node_harness import Graph
from std_msgs.msg import Int64

from vla_nodes.core import qos
from vla_nodes.core.sources import SourceWatch, publishers_of

pytestmark = pytest.mark.nodes

# speaker.py NAME VALUE: publishes the value a hundred times a second.
SPEAKER = """
import sys
import rclpy
from std_msgs.msg import Int64
from vla_nodes.core import qos

rclpy.init(args=[])
node = rclpy.create_node(sys.argv[1])
output = node.create_publisher(Int64, "joints", qos.SENSOR_OUTPUT)
node.create_timer(0.01, lambda: output.publish(Int64(data=int(sys.argv[2]))))
rclpy.spin(node)
"""


class Listener:
    """What a watch has accepted, and from whom it came."""

    def __init__(self, graph, tmp_path):
        self.graph, self.heard = graph, []
        self.script = tmp_path / "speaker.py"
        self.script.write_text(SPEAKER)
        self.watch = SourceWatch(graph.node, "joints", "joint states")
        graph.node.create_subscription(Int64, "joints", self.on_message, qos.SENSOR)

    def on_message(self, message, info):
        if self.watch.accepts(info):
            self.heard.append(message.data)

    def start(self, name, value):
        return self.graph.run_script(self.script, (name, str(value)))

    def wait_for(self, value):
        self.heard.clear()
        self.graph.wait(lambda: value in self.heard, f"messages of {value}", alive=False)

    def wait_for_name(self, name):
        def names():
            return [publisher.node for publisher in publishers_of(self.graph.node, "/joints")]

        self.graph.wait(lambda: name in names(), f"a publisher called {name}", alive=False)

    def wait_for_problem(self, *names):
        def is_told():
            self.watch.poll()
            return all(name in self.watch.problem for name in names)

        self.graph.wait(is_told, f"a problem that names {names}", alive=False)

    def wait_for_no_problem(self):
        """A busy machine may read two that followed each other together, and doubts both."""
        self.graph.wait(lambda: not self.watch.problem, "an end of the problem", alive=False)


@pytest.fixture
def listener(tmp_path):
    with Graph() as graph:
        yield Listener(graph, tmp_path)


def test_nobody_speaks_for_a_driver_that_pauses(listener):
    driver = listener.start("driver", 1)
    # Its numbers must be told from those of one that has just begun.
    listener.graph.wait(lambda: len(listener.heard) > 300, "messages")
    driver.process.send_signal(signal.SIGSTOP)
    silent_at = time.monotonic()
    listener.graph.wait(lambda: time.monotonic() > silent_at + 0.5, "silence", alive=False)
    listener.heard.clear()
    listener.start("player", 2)
    listener.wait_for_problem("/driver", "/player")
    begin = time.monotonic()
    listener.graph.wait(lambda: time.monotonic() > begin + 1.0, "its messages", alive=False)
    assert 2 not in listener.heard
    driver.process.send_signal(signal.SIGCONT)
    listener.wait_for(1)
    assert listener.watch.problem and 2 not in listener.heard


def test_a_driver_that_was_killed_is_followed_when_it_is_back(listener):
    driver = listener.start("driver", 1)
    listener.start("gripper", 0).stop(signal.SIGKILL)
    listener.wait_for(1)
    # A nameless one has no successor, and a name comes some time after the first message.
    listener.wait_for_name("/driver")
    driver.stop(signal.SIGKILL)
    listener.start("driver", 3)
    listener.wait_for(3)
    listener.wait_for_no_problem()
    listener.wait_for(3)
