"""Planned motions: the policy stops first, and every way to fail is told."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from fake_robot import CONTRACT_PATH, FakePolicy
from geometry_msgs.msg import PoseStamped
from node_harness import ROBOTS, ROOT, Graph, use_test_interfaces
from rcl_interfaces.srv import GetParameters
from rclpy.action import ActionClient
from rclpy.node import NodeNameNonExistentError
from vla_ros.action import MoveTo
from vla_ros.msg import PolicyStatus

from vla.control.robots import panda
from vla.control.session import State
from vla_nodes.backends.moveit_py import MoveError, read_targets
from vla_nodes.core import qos

pytestmark = pytest.mark.nodes

CONTROLLER = "joint_trajectory_controller"
PARAMETERS = {
    "targets.home": "ready",
    "targets.side": (panda.HOME + 0.3).tolist(),
    "speed_scale": 0.4,
}


def start_mover(graph, monkeypatch, **parameters):
    """The node with the package that stands in for MoveIt, for its process alone."""
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROBOTS / "moveit_double"), prepend=os.pathsep)
        return graph.start("mover", parameters=PARAMETERS | parameters)


@pytest.fixture(scope="module")
def policy():
    use_test_interfaces()
    with Graph() as graph, pytest.MonkeyPatch.context() as monkeypatch:
        arm = {"joints": list(panda.ARM_JOINTS), "start": panda.HOME.tolist()}
        graph.start_robot(CONTROLLER, parameters=arm)
        graph.start("controller", contract=str(CONTRACT_PATH))
        start_mover(graph, monkeypatch)
        for name in ("controller", "mover"):
            graph.wait_state(name, "active")
        policy = FakePolicy(graph)
        policy.client = ActionClient(graph.node, MoveTo, "vla/move_to")
        graph.wait(policy.client.server_is_ready, "vla/move_to")
        graph.wait(lambda: policy.places, "joint states")
        yield policy


def send(policy, **goal):
    phases = []
    sent = policy.client.send_goal_async(
        MoveTo.Goal(**goal), lambda message: phases.append(message.feedback.phase)
    )
    policy.graph.wait(sent.done, "the goal's acceptance")
    return sent.result(), phases


def result(policy, handle):
    future = handle.get_result_async()
    policy.graph.wait(future.done, "the result")
    return future.result().result


def move(policy, **goal):
    handle, _ = send(policy, **goal)
    return result(policy, handle)


def at(policy, joints):
    return np.abs(policy.joints - joints).max() < 0.01


def pose_at(height):
    pose = PoseStamped()
    pose.header.frame_id = "fr3_link0"
    pose.pose.position.z, pose.pose.orientation.w = height, 1.0
    return pose


def assert_arm_rests(policy):
    """The arm stands still soon, and stays so."""
    policy.graph.wait(
        lambda: len(policy.places) > 30 and np.ptp(policy.places[-30:], axis=0).max() < 1e-6,
        "rest",
        2.0,
    )


def test_the_policy_stops_and_the_arm_goes_where_it_is_sent(policy):
    policy.instruct()
    policy.wait_state(State.EXECUTING)
    policy.commands.clear()
    handle, phases = send(policy, target="corner")
    policy.graph.wait(lambda: "planning" in phases, "the planning")
    policy.commands.clear()
    done = result(policy, handle)
    assert done.success and done.message == "moved to corner"
    assert phases == ["stopping", "planning", "moving"]
    assert policy.commands == [], "the controller has let go before MoveIt plans"
    policy.graph.wait(lambda: at(policy, panda.HOME + 0.4), "the arm in the corner")
    assert policy.wait_state(State.STOPPED)
    assert move(policy, target="home").success
    policy.graph.wait(lambda: at(policy, panda.HOME), "the arm at home")
    # The policy goes on from where the arm is now.
    assert policy.trigger("vla/resume").success
    policy.wait_state(State.EXECUTING)


def test_targets_by_joint_positions_and_by_pose_and_faster(policy):
    start = time.monotonic()
    assert move(policy, target="side", speed_scale=0.2).success
    slow = time.monotonic() - start
    policy.graph.wait(lambda: at(policy, panda.HOME + 0.3), "the arm at its side")
    start = time.monotonic()
    assert move(policy, pose=pose_at(0.5), speed_scale=1.0).message == "moved to the pose"
    assert time.monotonic() - start < slow - 0.8, "the speed is the goal's"
    policy.graph.wait(lambda: at(policy, panda.HOME), "the arm at the pose")


def test_a_target_that_is_not_known_moves_nothing(policy):
    start = policy.joints.copy()
    done = move(policy, target="nowhere")
    assert "'nowhere': known are corner, far, home, ready, side" in done.message
    assert not done.success and at(policy, start)


@pytest.mark.parametrize(
    ("height", "says"),
    [(2.0, "in reach, and free of obstacles? (MoveIt error -1)"), (-0.1, "would collide there")],
)
def test_a_pose_without_a_plan_is_told_in_words(policy, height, says):
    assert says in move(policy, pose=pose_at(height)).message


@pytest.mark.parametrize(("fault", "status"), [("abort", "ABORTED"), ("refuse", "ABORTED")])
def test_a_motion_that_is_not_carried_out_is_told(policy, fault, status):
    policy.graph.set_parameters(CONTROLLER, **{fault: True})
    assert f"the motion ended with {status}" in move(policy, target="home").message
    policy.graph.set_parameters(CONTROLLER, **{fault: False})
    words = "did not move to home"
    policy.graph.wait_diagnostic("mover", lambda status: words in status.message)


def test_goals_without_sense_are_rejected(policy):
    assert not send(policy)[0].accepted
    assert not send(policy, target="home", speed_scale=2.0)[0].accepted


def test_a_cancelled_motion_ends(policy):
    assert move(policy, target="home").success
    handle, phases = send(policy, target="corner")
    policy.graph.wait(lambda: "moving" in phases, "the motion")
    assert not send(policy, target="home")[0].accepted, "one motion at a time"
    handle.cancel_goal_async()
    assert result(policy, handle).message == "cancelled by the caller"
    assert_arm_rests(policy)
    assert not at(policy, panda.HOME + 0.4), "it rests on its way"


@pytest.mark.parametrize(
    ("target", "phase"), [("corner", "stopping"), ("far", "planning"), ("home", "moving")]
)
def test_a_new_instruction_ends_the_motion(policy, target, phase):
    handle, phases = send(policy, target=target)
    policy.graph.wait(lambda: phase in phases, phase)
    if phase == "stopping":
        # While the arm is being let go.
        policy.wait_state(State.STOPPED)
    policy.instruct()
    assert "took over" in result(policy, handle).message
    assert phases[-1] == phase, "no further phase has begun"
    policy.wait_state(State.EXECUTING)


def test_an_emergency_stop_ends_the_motion_and_keeps_the_next_from_beginning(policy):
    handle, phases = send(policy, target="corner")
    policy.graph.wait(lambda: "moving" in phases, "the motion")
    policy.trigger("vla/emergency_stop")
    assert "emergency stop" in result(policy, handle).message
    assert_arm_rests(policy)
    assert "vla/reset_emergency_stop" in move(policy, target="home").message
    assert policy.trigger("vla/reset_emergency_stop").success


def test_while_two_publish_the_status_no_motion_begins_and_one_under_way_ends(policy):
    node = policy.graph.node
    assert move(policy, target="home").success
    handle, phases = send(policy, target="corner")
    policy.graph.wait(lambda: "moving" in phases, "the motion")
    foreign = node.create_publisher(PolicyStatus, "vla/status", qos.LATCHED)
    # It says that the policy rests, as the controller does, which may no longer be true.
    foreign.publish(PolicyStatus(state=PolicyStatus.STOPPED))
    named = "statuses on '/vla/status' come from more than one node (/controller and /test_obs"
    assert named in result(policy, handle).message
    assert_arm_rests(policy)
    assert not at(policy, panda.HOME + 0.4), "it rests on its way"
    handle, phases = send(policy, target="home")
    assert named in result(policy, handle).message
    assert phases == []
    policy.graph.wait_diagnostic("mover", lambda status: named in status.message)
    node.destroy_publisher(foreign)
    policy.graph.wait(lambda: move(policy, target="home").success, "a motion after it has left")


def test_an_inactive_controller_does_not_keep_the_arm_from_moving(policy):
    assert policy.graph.transition("controller", "deactivate")
    assert move(policy, target="home").success
    assert policy.graph.transition("controller", "activate")


def test_a_node_that_is_stopped_stops_the_arm(policy):
    _, phases = send(policy, target="corner")
    policy.graph.wait(lambda: "moving" in phases, "the motion")
    mover = policy.graph.processes.pop()
    assert mover.stop(signal.SIGINT) == 0, mover.output
    assert "cleaned up" in mover.output
    assert_arm_rests(policy)
    assert not at(policy, panda.HOME + 0.4)


def test_without_a_controller_or_with_targets_that_do_not_fit(monkeypatch):
    use_test_interfaces()
    with Graph() as graph:
        start_mover(graph, monkeypatch, **{"targets.short": [0.1, 0.2]})
        words = "targets.short has 2 joint positions, group 'fr3_arm' has 7 joints"
        graph.wait_diagnostic("mover", lambda status: words in status.message)
        graph.set_parameters("mover", **{"targets.short": "ready"})
        assert graph.transition("mover", "configure") and graph.transition("mover", "activate")
        client = ActionClient(graph.node, MoveTo, "vla/move_to")
        graph.wait(client.server_is_ready, "vla/move_to")
        sent = client.send_goal_async(MoveTo.Goal(target="home"))
        graph.wait(sent.done, "the goal's acceptance")
        future = sent.result().get_result_async()
        graph.wait(future.done, "the result")
        assert "is the controller running?" in future.result().result.message


def test_without_moveit_it_says_what_to_install():
    with Graph() as graph:
        graph.start("mover", parameters_file=ROOT / "config" / "mover.yaml")
        status = graph.wait_diagnostic("mover", lambda s: "MoveIt is not installed" in s.message)
        assert "ros-jazzy-moveit-py" in status.message
        assert graph.state("mover") == "unconfigured"


def test_moveits_own_node_follows_the_same_time(monkeypatch):
    use_test_interfaces()
    with Graph() as graph, monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROBOTS / "moveit_double"), prepend=os.pathsep)
        words = ("-r", "__ns:=/left", "-r", "/clock:=clock")
        graph.start("mover", parameters=PARAMETERS, arguments=words, use_sim_time=True)
        graph.wait_state("left/mover", "active")
        request = GetParameters.Request(names=["use_sim_time"])
        (value,) = graph.call(GetParameters, "left/vla_moveit/get_parameters", request).values
        assert value.bool_value

        def heard() -> set[str]:
            try:
                found = graph.node.get_subscriber_names_and_types_by_node("vla_moveit", "/left")
            except NodeNameNonExistentError:  # Its service is discovered before its name.
                return set()
            return {name for name, _ in found}

        graph.wait(lambda: "/left/clock" in heard(), "the clock's subscription")
        assert "/clock" not in heard()


def test_what_a_target_may_be():
    given = {"home": "ready", "rest": [0, 1.5], "packed": np.array([1.0, 2.0]).tolist()}
    assert read_targets(given) == {"home": "ready", "rest": [0.0, 1.5], "packed": [1.0, 2.0]}
    for wrong in ("", True, None, [float("nan")], ["a"], [True], []):
        with pytest.raises(MoveError, match=r"targets\.x cannot be"):
            read_targets({"x": wrong})


def test_the_shipped_targets_can_be_read():
    import yaml

    text = (Path(ROOT) / "config" / "mover.yaml").read_text()
    targets = read_targets(yaml.safe_load(text)["/**/mover"]["ros__parameters"]["targets"])
    assert targets["home"] == "ready" and len(targets["retreat"]) == 7
