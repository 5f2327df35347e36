"""Two simulated robots in one ROS domain, each in a namespace with its own time and transforms."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from background_launch import start_launch
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_harness import Graph
from rosgraph_msgs.msg import Clock
from vla_ros.msg import Observation

from vla_nodes.core import qos

pytestmark = pytest.mark.nodes

SIDES = ("left", "right")


def test_each_has_its_own_time_and_transforms():
    with Graph() as graph, ExitStack() as launches:
        for side in SIDES:
            words = ["sim.launch.xml", f"namespace:={side}", "bringup:=false"]
            launches.enter_context(start_launch(words, environment=graph.environment))
            # As bringup.launch.xml starts it for a simulator.
            own = ("/clock:=clock", "/tf:=tf", "/tf_static:=tf_static")
            places = ("-r", f"__ns:=/{side}", *(word for rule in own for word in ("-r", rule)))
            graph.start("perception", arguments=places, use_sim_time=True, pose_source="tf")
        clocks = {s: graph.collect(Clock, f"{s}/clock", qos.CLOCK) for s in SIDES}
        seen = {s: graph.collect(Observation, f"{s}/vla/observation", qos.LATEST) for s in SIDES}
        graph.wait(lambda: all(len(seen[side]) > 3 for side in SIDES), "observations", 240.0)
        for topic in ("clock", "tf", "tf_static"):
            assert [graph.node.count_publishers(f"/{side}/{topic}") for side in SIDES] == [1, 1]
            assert graph.node.count_publishers(f"/{topic}") == 0

        # The time of one stands still, and that of the other does not notice.
        stop = ChangeState.Request(transition=Transition(label="deactivate"))
        assert graph.call(ChangeState, "left/sim/change_state", stop, 120.0).success
        clocks["left"].clear()
        for messages in (clocks["right"], seen["right"]):
            messages.clear()
        graph.wait(lambda: len(seen["right"]) > 10, "observations on the right", 120.0)
        assert nanoseconds(clocks["right"][-1].clock) > nanoseconds(clocks["right"][0].clock)
        assert len({nanoseconds(message.clock) for message in clocks["left"]}) <= 1


def nanoseconds(stamp) -> int:
    return stamp.sec * 10**9 + stamp.nanosec
