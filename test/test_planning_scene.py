"""Chunks against a planning scene: free ones pass, others are refused, silence is told."""

import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fake_robot import CONTRACT, CONTRACT_PATH, KINEMATICS, FakeRobot
from node_harness import Graph, use_test_interfaces

from vla.control.robots import panda
from vla.control.session import State
from vla_nodes.controller import planning_scene
from vla_nodes.controller.planning_scene import PlanningSceneCheck

pytestmark = pytest.mark.nodes


WAY = np.linspace(panda.HOME, panda.HOME + 0.2, 5)


class Asker:
    """A check on the test's own node, ticked as the controller ticks it."""

    def __init__(self, graph, **settings):
        self.graph, self.answers = graph, []
        defaults = {setting.name: setting.default for setting in planning_scene.SETTINGS}
        graph.node.settings = defaults | {"planning_scene.group": "panda_arm"} | settings
        self.check = PlanningSceneCheck(graph.node, CONTRACT.joint_names)
        graph.node.create_timer(0.005, self.check.tick)

    def ask(self, way=WAY):
        self.answers.clear()
        self.check.ask(way, self.answers.append)
        self.graph.wait(lambda: self.answers, "an answer", 5.0)
        return self.answers[0]


def test_a_way_is_free_or_it_is_said_what_is_in_it():
    use_test_interfaces()
    with Graph() as graph:
        graph.start_robot("move_group")
        asker = Asker(graph, **{"planning_scene.timeout": 1.0})
        assert "is move_group running?" in asker.ask()
        client = asker.check._client
        graph.wait(client.service_is_ready, "the service")
        assert asker.ask() == ""
        times = []
        for _ in range(20):
            start = time.perf_counter()
            assert asker.ask() == ""
            times.append(time.perf_counter() - start)
        print(f"five waypoints: {1e3 * np.median(times):.1f} ms")
        # The wall is where the third waypoint is.
        tools = [KINEMATICS.tool_pose(joints)[0][0] for joints in WAY]
        graph.set_parameters("move_group", wall_x=float((tools[1] + tools[2]) / 2))
        words = "panda_hand touches wall at waypoint"
        assert words in asker.ask() and asker.ask(WAY[:2]) == ""
        graph.set_parameters("move_group", wall_x=10.0, forbid=True)
        assert "does not allow the arm's position at waypoint" in asker.ask()
        graph.set_parameters("move_group", forbid=False)
        # A newer question takes the place of the one under way, whose answer is not heard.
        old = []
        asker.check.ask(WAY, old.append)
        assert asker.ask(WAY[:1]) == "" and old == []
        # Nothing is left behind, not even of questions that are not answered.
        graph.set_parameters("move_group", silent=True)
        asker.check._timeout = 0.05
        assert asker.ask() == "MoveIt did not answer within 0.05 s"
        assert not client._pending_requests


def test_without_the_interfaces_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "moveit_msgs.srv", None)
    node = SimpleNamespace(settings={})
    with pytest.raises(ValueError, match="install ros-jazzy-moveit-msgs"):
        PlanningSceneCheck(node, CONTRACT.joint_names)


def start_checked(graph) -> FakeRobot:
    """An instructed robot whose controller asks the planning scene."""
    graph.start(
        "controller",
        contract=str(CONTRACT_PATH),
        parameters={"planning_scene.check": True, "planning_scene.group": "panda_arm"},
    )
    graph.wait_state("controller", "active")
    robot = FakeRobot(graph)
    robot.instruct()
    return robot


def test_chunks_that_would_collide_are_refused():
    use_test_interfaces()
    with Graph() as graph:
        graph.start_robot("move_group")
        robot = start_checked(graph)
        robot.wait_state(State.EXECUTING)
        robot.assert_moving()
        graph.set_parameters("move_group", wall_x=0.0)
        words = "panda_hand touches wall at waypoint 0"
        graph.wait_diagnostic("controller", lambda status: words in status.message)
        status = robot.wait_status(lambda s: s.state == State.HOLDING, "a hold")
        reasons = dict(zip(status.intervention_reasons, status.intervention_counts, strict=True))
        assert reasons["planning_scene"] >= 1 and status.chunks_rejected >= 1
        graph.set_parameters("move_group", wall_x=10.0)
        robot.wait_state(State.EXECUTING)
        graph.set_parameters("move_group", silent=True)
        words = "MoveIt did not answer within 0.1 s"
        graph.wait_diagnostic("controller", lambda status: words in status.message)


def test_nothing_moves_if_the_very_first_chunk_would_collide():
    use_test_interfaces()
    with Graph() as graph:
        graph.start_robot("move_group")
        graph.set_parameters("move_group", wall_x=0.0)
        robot = start_checked(graph)
        status = robot.wait_status(lambda s: s.chunks_rejected >= 3, "refusals")
        assert status.chunks_accepted == 0
        assert np.abs(robot.joints - panda.HOME).max() < 1e-6


def test_without_move_group_it_says_so():
    use_test_interfaces()
    with Graph() as graph:
        graph.start(
            "controller", contract=str(CONTRACT_PATH), parameters={"planning_scene.check": True}
        )
        graph.wait_state("controller", "active")
        robot = FakeRobot(graph)
        robot.instruct()
        words = "is move_group running?"
        graph.wait_diagnostic("controller", lambda status: words in status.message)
