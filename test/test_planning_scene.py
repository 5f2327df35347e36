"""Chunks against a planning scene: free ones pass, others are refused, silence is told."""

import pytest
from node_harness import Graph, use_test_interfaces
from played_robot import CONTRACT_PATH, PlayedRobot

from vla.control.session import State

pytestmark = pytest.mark.nodes


def test_chunks_that_would_collide_are_refused():
    use_test_interfaces()
    with Graph() as graph:
        graph.start_robot("move_group")
        graph.start(
            "controller",
            contract=str(CONTRACT_PATH),
            parameters={"planning_scene.check": True, "planning_scene.group": "panda_arm"},
        )
        graph.wait_state("controller", "active")
        robot = PlayedRobot(graph)
        robot.instruct()
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


def test_without_move_group_it_says_so():
    use_test_interfaces()
    with Graph() as graph:
        graph.start(
            "controller", contract=str(CONTRACT_PATH), parameters={"planning_scene.check": True}
        )
        graph.wait_state("controller", "active")
        robot = PlayedRobot(graph)
        # The first chunk is taken before anything is commanded: where the arm is is not known yet.
        robot.instruct()
        words = "is move_group running?"
        graph.wait_diagnostic("controller", lambda status: words in status.message)
