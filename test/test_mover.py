"""Planned motions: the policy stops first, and every way to fail is told."""

import os

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from node_harness import ROBOTS, Graph, use_test_interfaces
from played_robot import CONTRACT_PATH, PlayedPolicy
from rclpy.action import ActionClient
from vla_ros.action import MoveTo

from vla.control.session import State
from vla.sim import panda

pytestmark = pytest.mark.nodes


@pytest.fixture(scope="module")
def policy():
    use_test_interfaces()
    before = os.environ["PYTHONPATH"]
    with Graph() as graph:
        arm = {"joints": list(panda.ARM_JOINTS), "start": panda.HOME.tolist()}
        graph.start_robot("joint_trajectory_controller", parameters=arm)
        graph.start("controller", contract=str(CONTRACT_PATH))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROBOTS / "moveit_double"), before])
        graph.start("mover")
        os.environ["PYTHONPATH"] = before
        for name in ("controller", "mover"):
            graph.wait_state(name, "active")
        policy = PlayedPolicy(graph)
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


def at(policy, joints):
    return np.abs(policy.joints - joints).max() < 0.01


def test_the_policy_stops_and_the_arm_goes_where_it_is_sent(policy):
    policy.instruct()
    policy.wait_state(State.EXECUTING)
    handle, phases = send(policy, target="corner")
    done = result(policy, handle)
    assert done.success and done.message == "moved to corner"
    assert phases == ["stopping", "planning", "moving"]
    policy.graph.wait(lambda: at(policy, panda.HOME + 0.4), "the arm in the corner")
    assert policy.wait_state(State.STOPPED)
    handle, _ = send(policy, target="home")
    assert result(policy, handle).success
    policy.graph.wait(lambda: at(policy, panda.HOME), "the arm at home")
    # The policy goes on from where the arm is now.
    assert policy.trigger("vla/resume").success
    policy.wait_state(State.EXECUTING)


@pytest.mark.parametrize(
    ("goal", "says"),
    [
        ({"target": "nowhere"}, "does not know the target 'nowhere'"),
        ({"target": "abort"}, "ended with ABORTED"),
    ],
)
def test_failures_are_told(policy, goal, says):
    handle, _ = send(policy, **goal)
    done = result(policy, handle)
    assert not done.success and says in done.message


def test_a_pose_out_of_reach_has_no_plan(policy):
    pose = PoseStamped()
    pose.header.frame_id = "fr3_link0"
    pose.pose.position.z, pose.pose.orientation.w = 2.0, 1.0
    handle, _ = send(policy, pose=pose)
    assert "no plan to 'the pose' was found (MoveIt error -1)" in result(policy, handle).message


def test_goals_without_sense_are_rejected(policy):
    assert not send(policy)[0].accepted
    assert not send(policy, target="home", speed_scale=2.0)[0].accepted


def test_a_cancelled_motion_ends(policy):
    handle, phases = send(policy, target="corner")
    policy.graph.wait(lambda: "moving" in phases, "the motion")
    assert not send(policy, target="home")[0].accepted, "one motion at a time"
    handle.cancel_goal_async()
    assert result(policy, handle).message == "cancelled by the caller"


def test_a_new_instruction_ends_the_motion(policy):
    handle, phases = send(policy, target="home")
    policy.graph.wait(lambda: "moving" in phases, "the motion")
    policy.instruct()
    assert "took over" in result(policy, handle).message


def test_without_moveit_it_says_what_to_install():
    with Graph() as graph:
        graph.start("mover")
        status = graph.wait_diagnostic("mover", lambda s: "MoveIt is not installed" in s.message)
        assert "ros-jazzy-moveit-py" in status.message
        assert graph.state("mover") == "unconfigured"
