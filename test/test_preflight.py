"""What `vla preflight` says about measurements: each mistake with its cure."""

import numpy as np
import pytest

from vla.contract import load_contract
from vla.control.robot_model import panda_model
from vla.preflight import (
    OK,
    PROBLEM,
    WARNING,
    CameraSeen,
    TopicSeen,
    check_camera,
    check_joints,
    check_policy,
    check_pose,
    check_topic,
    report,
)
from vla.sim import panda

KIND = "sensor_msgs/msg/JointState"
BOX = ((0.25, -0.45, 0.012), (0.75, 0.45, 0.65))


def topic(**changes):
    values = {
        "name": "joint_states",
        "kinds": (KIND,),
        "publishers": ("/driver",),
        "count": 500,
        "seconds": 5.0,
        "gap": 0.02,
        "offsets": [-0.001] * 500,
    }
    return TopicSeen(**(values | changes))


def judged(seen, known=None):
    return check_topic("joints", seen, [KIND], 20.0, known or {})


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, OK, "100.0 Hz"),
        ({"publishers": ()}, PROBLEM, "nobody publishes"),
        ({"kinds": ("std_msgs/msg/String",)}, PROBLEM, "is std_msgs/msg/String"),
        ({"publishers": ("/a", "/b")}, PROBLEM, "2 publishers: /a, /b"),
        ({"count": 0}, PROBLEM, "nothing came"),
        ({"count": 50}, PROBLEM, "10.0 Hz"),
        ({"gap": 0.6}, WARNING, "paused for 0.60 s"),
        ({"zero_stamps": 500}, PROBLEM, "zero stamps"),
        ({"standing_stamps": 499}, PROBLEM, "stand still"),
        ({"offsets": [-3.2] * 9}, PROBLEM, "-3.2 s from this machine's clock"),
        ({"offsets": [-0.08] * 9}, WARNING, "-80 ms from their arrival"),
        ({"offsets": [0.02] * 9}, WARNING, "+20 ms from their arrival"),
    ],
)
def test_topics(changes, level, says):
    (finding,) = judged(topic(**changes))
    assert finding.level == level and says in finding.message
    assert bool(finding.cure) is (level != OK)


def test_a_topic_of_another_name_is_suggested():
    known = {"/robot/joint_states": [KIND], "/other": ["std_msgs/msg/String"]}
    (finding,) = judged(topic(publishers=()), known)
    assert "there is /robot/joint_states" in finding.cure


@pytest.mark.parametrize(
    ("seen", "level", "says"),
    [
        (CameraSeen(96, 96, "rgb8", changed=True), OK, "96 x 96"),
        (CameraSeen(64, 96, "rgb8", changed=True), PROBLEM, "the contract needs 96 x 96"),
        (CameraSeen(96, 96, "rgb8", changed=False), WARNING, "a real camera is frozen"),
        (CameraSeen(96, 96, "rgb8", changed=True, mean=2.0), PROBLEM, "black"),
        (CameraSeen(error="encoding '16UC1'"), PROBLEM, "16UC1"),
    ],
)
def test_cameras(contract, seen, level, says):
    (finding,) = check_camera(contract.cameras[0], seen)
    assert finding.level == level and says in finding.message + finding.cure


def joints(**changes):
    values = dict(zip(panda.ARM_JOINTS, panda.HOME.tolist(), strict=True))
    return values | dict.fromkeys(panda.FINGER_JOINTS, 0.04) | changes


@pytest.mark.parametrize(
    ("positions", "says"),
    [
        (joints(), "9 joints"),
        ({"panda_joint1": 0.0}, "lack panda_joint2"),
        (joints(panda_joint3=np.nan), "no finite position of panda_joint3"),
        (joints(panda_joint4=0.5), "panda_joint4 is at 0.500 rad"),
        (joints(panda_finger_joint1=-0.08), "fingers are -0.040 m apart"),
    ],
)
def test_joints(contract, positions, says):
    (finding,) = check_joints(contract, positions, panda_model().limits)
    assert says in finding.message and (finding.level == OK) is (says == "9 joints")


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, OK, "agrees with the joints"),
        ({"frame": "world"}, PROBLEM, "in frame 'world'"),
        ({"quaternion": np.zeros(4)}, PROBLEM, "unit length"),
        ({"expected": (np.array([0.4, 0.0, 0.5]), 0.0)}, PROBLEM, "100 mm and 0.00 rad"),
        ({"expected": (np.array([0.4, 0.0, 0.4]), 0.79)}, PROBLEM, "0 mm and 0.79 rad"),
        ({"workspace": ((0.5, -1, 0), (1, 1, 1))}, WARNING, "outside of the workspace"),
    ],
)
def test_poses(contract, changes, level, says):
    values = {
        "frame": contract.base_frame,
        "position": np.array([0.4, 0.0, 0.4]),
        "quaternion": np.array([1.0, 0.0, 0.0, 0.0]),
        "expected": (np.array([0.4, 0.0, 0.4]), 0.0),
        "workspace": BOX,
    } | changes
    (finding,) = check_pose(contract, **values)
    assert finding.level == level and says in finding.message


def test_policies(contract, checkpoint, tmp_path):
    (finding,) = check_policy(contract, checkpoint, "", "cpu")
    assert finding.level == OK
    (finding,) = check_policy(contract, tmp_path, "", "cpu")
    assert finding.level == PROBLEM
    fr3 = load_contract("config/contracts/fr3.yaml")
    (finding,) = check_policy(fr3, checkpoint, "", "cpu")
    assert finding.level == PROBLEM and "contracts differ" in finding.message
    (finding,) = check_policy(contract, checkpoint, "", "cuda")
    assert finding.level == PROBLEM and "cuda" in finding.message


def test_the_report_counts_and_gives_cures():
    text = report([*judged(topic()), *judged(topic(publishers=()))])
    assert "-> start its driver" in text
    assert text.endswith("not ready: 1 problems, 0 warnings, 2 checks")
