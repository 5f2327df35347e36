"""`vla preflight` on real processes: a robot that is ready, and one with a lab's mistakes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from node_harness import ROOT, Graph
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from vla.sim import panda
from vla_nodes import qos
from vla_nodes.conversions import array_to_image, arrays_to_pose

pytestmark = pytest.mark.nodes


def preflight(graph, tmp_path, *arguments):
    """Exit status and findings; the graph goes on meanwhile."""
    file = tmp_path / "findings.json"
    command = [sys.executable, "-m", "vla.cli", "preflight", "--json", str(file), *arguments]
    process = subprocess.Popen(
        command, env=graph.environment, cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    graph.wait(lambda: process.poll() is not None, "the end of preflight", 60.0)
    return process.returncode, json.loads(file.read_text()), process.stdout.read()


def test_a_robot_that_is_ready(tmp_path):
    with Graph() as graph:
        graph.start("sim")
        graph.wait_state("sim", "active")
        status, findings, text = preflight(
            graph, tmp_path, "--use-sim-time", "--checkpoint", "checkpoints/nano", "--seconds", "3"
        )
        assert status == 0, text
        assert text.splitlines()[-1].startswith("ready: 0 problems")
        assert {finding["area"] for finding in findings} == {
            "middleware", "cameras", "joints", "end-effector pose", "robot model", "commands",
            "policy",
        }  # fmt: skip


def test_a_robot_with_mistakes(tmp_path):
    with Graph() as graph:
        node, noise = graph.node, np.random.default_rng(0)
        front = node.create_publisher(Image, "camera/front/image_raw", qos.SENSOR)
        wrist = node.create_publisher(Image, "wrist/image_raw", qos.SENSOR)
        states = node.create_publisher(JointState, "joint_states", qos.SENSOR)
        poses = node.create_publisher(PoseStamped, "end_effector_pose", qos.SENSOR)
        node.create_publisher(JointTrajectory, "joint_trajectory_controller/joint_trajectory", 1)
        same = noise.integers(0, 256, (48, 48, 3), np.uint8)

        def publish():
            now = node.get_clock().now().to_msg()
            front.publish(array_to_image(same, now, "front"))
            wrist.publish(array_to_image(same, now, "wrist"))
            # No fingers, and stamps of an hour ago.
            names = list(panda.ARM_JOINTS)
            message = JointState(name=names, position=panda.HOME.tolist())
            message.header.stamp.sec, message.header.stamp.nanosec = now.sec - 3600, now.nanosec
            states.publish(message)
            place = np.array([0.5, 0.0, 0.3])
            pose = PoseStamped(pose=arrays_to_pose(place, np.array([1.0, 0.0, 0.0, 0.0])))
            pose.header.stamp, pose.header.frame_id = now, "world"
            poses.publish(pose)

        node.create_timer(0.03, publish)
        status, findings, text = preflight(graph, tmp_path, "--seconds", "2")
        assert status == 1
        problems = [finding["message"] for finding in findings if finding["level"] == "problem"]
        for words in (
            "camera 'front' sends 48 x 48",
            "nobody publishes camera/wrist/image_raw",
            "-3600.0 s from this machine's clock",
            "lack panda_finger_joint1, panda_finger_joint2",
            "is in frame 'world'",
            "from where the joints put 'panda_hand_tcp'",
            "nobody serves the topic /joint_trajectory_controller/joint_trajectory",
            "nobody serves the topic /gripper_position_controller/commands",
        ):
            assert any(words in message for message in problems), f"{words}\n{text}"
        assert "there is /wrist/image_raw" in text
        assert "sent the same image all the time" in text


def test_bad_arguments_are_refused(tmp_path):
    command = [sys.executable, "-m", "vla.cli", "preflight", "--robot", "nobody"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "there is no contract 'nobody'" in done.stderr
