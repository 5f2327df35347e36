"""What `vla preflight` says about measurements: each mistake with its cure."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from linear_policy import LinearConfig, LinearModel

from vla.contract.embodiment import dimension_kinds, load_contract
from vla.contract.normalization import measure
from vla.control.robot_model import panda_model
from vla.control.robots import panda
from vla.control.safety import SafetyLimits
from vla.core.findings import OK, PROBLEM, WARNING, report, verdict
from vla.policies.base import PolicyFeatures
from vla.policies.checkpoint import open_checkpoint, save_checkpoint
from vla.policies.robots import Robot
from vla.preflight.checks import check_clock, check_joints, check_limits, check_pose
from vla.preflight.policy import check_features, check_policy
from vla.preflight.topics import (
    CameraStatistics,
    TopicStatistics,
    check_camera,
    check_joint_publishers,
    check_stamps,
    check_together,
    check_topic,
)

KIND = "sensor_msgs/msg/JointState"
BOX = ((0.25, -0.45, 0.012), (0.75, 0.45, 0.65))
MAX_AGE = 0.1


def topic(rate=100.0, offset=-0.001, seconds=5.0, **changes):
    """A sound topic, and what is to be wrong with it."""
    arrivals = 1000.0 + np.arange(round(rate * seconds)) / rate if rate else np.zeros(0)
    values = {
        "name": "joint_states",
        "kinds": (KIND,),
        "publishers": ("/driver",),
        "seconds": seconds,
        "arrivals": arrivals.tolist(),
        "stamps": (arrivals + offset).tolist(),
    }
    return TopicStatistics(**(values | changes))


def judged(seen, known=None):
    return check_topic("joints", seen, KIND, 20.0, MAX_AGE, known or {})


PAUSED = (1000.0 + np.r_[np.arange(200), 260 + np.arange(240)] / 100.0).tolist()


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, OK, "100.0 Hz, longest gap 10 ms, jitter 0.0 ms, stamps -1 ms, reliable"),
        ({"publishers": ()}, PROBLEM, "nobody publishes"),
        ({"kinds": ("std_msgs/msg/String",)}, PROBLEM, "is std_msgs/msg/String"),
        ({"incompatible": ("/driver: it has a deadline",)}, PROBLEM, "/driver: it has a deadline"),
        ({"publishers": ("/a", "/b")}, PROBLEM, "2 publishers: /a, /b"),
        ({"rate": 0.0}, PROBLEM, "nothing came"),
        ({"rate": 10.0}, PROBLEM, "10.0 Hz"),
        ({"arrivals": PAUSED, "stamps": PAUSED}, WARNING, "paused for 0.61 s"),
        ({"stamps": [0.0] * 500}, PROBLEM, "zero stamps"),
        ({"stamps": [1000.0] * 500}, PROBLEM, "stand still"),
        ({"offset": -3.2}, PROBLEM, "-3.2 s from this machine's clock"),
        ({"offset": -0.12}, PROBLEM, "-120 ms from their arrival"),
        ({"offset": -0.08}, WARNING, "-80 ms from their arrival"),
        ({"offset": 0.02}, WARNING, "+20 ms from their arrival"),
    ],
)
def test_topics(changes, level, says):
    (finding,) = judged(topic(**changes))
    assert finding.level == level and says in finding.message
    assert bool(finding.cure) is (level != OK)


def test_jitter_is_the_deviation_of_the_times_between():
    arrivals = 1000.0 + np.arange(100) * 0.02 + np.resize([0.0, 0.004], 100)
    seen = topic(arrivals=arrivals.tolist(), stamps=arrivals.tolist(), seconds=2.0)
    assert seen.jitter == pytest.approx(0.004, rel=0.01)
    assert seen.gap == pytest.approx(0.024)


def test_a_topic_of_another_name_is_suggested():
    known = {"/robot/joint_states": [KIND], "/other": ["std_msgs/msg/String"]}
    (finding,) = judged(topic(publishers=()), known)
    assert "there is /robot/joint_states" in finding.cure


@pytest.mark.parametrize(
    ("name", "there", "says"),
    [
        ("front/image", "/front/image/compressed", "only /front/image/compressed is there: give"),
        ("front/image/compressed", "/front/image", "only /front/image is there: leave"),
    ],
)
def test_the_other_form_of_a_camera_is_suggested(name, there, says):
    (finding,) = judged(topic(name=name, publishers=()), {there: ["sensor_msgs/msg/Any"]})
    assert says in finding.cure


@pytest.mark.parametrize(
    ("publishers", "sets", "says"),
    [
        (("/arm",), [("j1", "j2"), ("j1",)], None),
        (("/arm", "/hand"), [("j1", "j2"), ("f1",)], None),
        (("/arm", "/hand"), [("j1", "j2"), ("f1", "j2")], "2 publishers of j2: /arm, /hand"),
        (("/arm", "/fake"), [("j1", "j2")], "2 publishers of j1, j2: /arm, /fake"),
    ],
)
def test_arm_and_gripper_may_share_a_topic_but_no_joint(publishers, sets, says):
    found = check_joint_publishers(topic(publishers=publishers), sets)
    assert [says in finding.message for finding in found] == ([] if says is None else [True])


@pytest.mark.parametrize(
    ("other", "level", "age"),
    [
        ({"rate": 100.0, "offset": 0.0}, OK, "0 ms"),
        # Each is on time, but the newest before an image is three periods old.
        ({"rate": 100.0, "offset": -0.06}, OK, "40 ms"),
        ({"rate": 100.0, "offset": -0.15}, PROBLEM, "130 ms"),
        # Of a clock that is ahead, nothing is from before the image.
        ({"rate": 100.0, "offset": 3.0}, PROBLEM, "inf ms"),
    ],
)
def test_topics_must_fit_in_time(other, level, age):
    images = topic(rate=20.0, offset=0.0, name="image")
    (finding,) = check_together(images, [("joint states", topic(**other), MAX_AGE)])
    assert finding.level == level and f"joint states: {age} older" in finding.message


def test_what_never_came_is_not_told_of_again():
    assert check_together(topic(name="image"), [("pose", topic(rate=0.0), MAX_AGE)]) == []
    assert check_stamps("", topic(rate=0.0), MAX_AGE) == []


@pytest.mark.parametrize(
    ("seen", "level", "says"),
    [
        (CameraStatistics(96, 96, "rgb8", changed=True), OK, "96 x 96"),
        (CameraStatistics(64, 96, "rgb8", changed=True), PROBLEM, "the contract needs 96 x 96"),
        (CameraStatistics(96, 96, "rgb8", changed=False), PROBLEM, "is frozen"),
        (CameraStatistics(96, 96, "rgb8", changed=True, mean=2.0), PROBLEM, "black"),
        (CameraStatistics(96, 96, "rgb8", changed=True, mean=254.0), PROBLEM, "white"),
        (CameraStatistics(error="encoding '16UC1'"), PROBLEM, "16UC1"),
    ],
)
def test_cameras(contract, seen, level, says):
    (finding,) = check_camera(contract.cameras[0], seen, simulated=False)
    assert finding.level == level and says in finding.message + finding.cure


def test_a_simulated_scene_may_be_at_rest(contract):
    seen = CameraStatistics(96, 96, "rgb8", changed=False)
    (finding,) = check_camera(contract.cameras[0], seen, simulated=True)
    assert finding.level == OK and "nothing moves" in finding.message


@pytest.mark.parametrize(
    ("publishers", "runs", "use_sim_time", "level", "says"),
    [
        ((), True, False, OK, "this machine"),
        (("/sim",), True, True, OK, "simulated"),
        ((), False, True, PROBLEM, "nothing comes on /clock"),
        (("/sim", "/bag"), True, True, PROBLEM, "2 publishers: /sim, /bag"),
        (("/sim",), True, False, WARNING, "--use-sim-time"),
    ],
)
def test_clocks(publishers, runs, use_sim_time, level, says):
    (finding,) = check_clock(publishers, runs, use_sim_time)
    assert finding.level == level and says in finding.message + finding.cure


def joints(**changes):
    values = dict(zip(panda.ARM_JOINTS, panda.HOME.tolist(), strict=True))
    return values | dict.fromkeys(panda.FINGER_JOINTS, 0.04) | changes


@pytest.mark.parametrize(
    ("positions", "says"),
    [
        (joints(), "9 joints"),
        ({"panda_joint1": 0.0}, "lack panda_joint2"),
        ({n: 0.0 for n in joints() if n != "panda_joint7"} | {"panda_joint8": 0.0}, "lack panda_j"),
        (dict.fromkeys(panda.ARM_JOINTS, 0.0), "lack panda_finger_joint1"),
        (
            {name.replace("panda", "fr3"): value for name, value in joints().items()},
            "the joint states call it fr3_joint1, the contract panda_joint1, and 6 more",
        ),
        ({f"left_{name}": value for name, value in joints().items()}, "left_panda_joint1"),
        ({f"robot1/{name}": value for name, value in joints().items()}, "robot1/panda_joint1"),
        (joints(panda_joint2=-45.0), "panda_joint2 is at -45.0, which is more than two turns"),
        (joints(panda_joint3=np.nan), "no finite position of panda_joint3"),
        (joints(panda_joint4=0.5), "panda_joint4 is at 0.500 rad"),
        (joints(panda_finger_joint1=-0.08), "fingers are -0.040 m apart"),
        # Each finger's driver says the whole opening.
        (dict(joints(), **dict.fromkeys(panda.FINGER_JOINTS, 0.08)), "fingers are 0.160 m apart"),
    ],
)
def test_joints(contract, positions, says):
    (finding,) = check_joints(contract, positions, panda_model().limits)
    assert says in finding.message and (finding.level == OK) is (says == "9 joints")


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, OK, "agrees with the joints"),
        ({"expected": None}, OK, "of unit length"),
        ({"frame": "world"}, PROBLEM, "in frame 'world'"),
        ({"quaternion": np.zeros(4)}, PROBLEM, "unit length"),
        ({"position": np.full(3, np.nan)}, PROBLEM, "not finite"),
        ({"expected": (np.array([0.4, 0.0, 0.5]), 0.0)}, PROBLEM, "100 mm and 0.00 rad"),
        ({"expected": (np.array([0.4, 0.0, 0.4]), 0.79)}, PROBLEM, "0 mm and 0.79 rad"),
        ({"workspace": ((0.5, -1, 0), (1, 1, 1))}, WARNING, "outside of the workspace"),
        (
            {"position": np.array([400.0, 0.0, 300.0]), "expected": None},
            PROBLEM,
            "end_effector_pose: the tool is 500 m from the base",
        ),
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


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, OK, "1 keep-out boxes"),
        ({"workspace_min": (0.8, -0.45, 0.0)}, PROBLEM, "min below max"),
        ({"keep_out": ((0.0,) * 5,)}, PROBLEM, "keep-out box"),
        ({"keep_out": ((0.3, -0.1, 0.3, 0.5, 0.1, 0.5),)}, PROBLEM, "inside of the keep-out box"),
        ({"workspace_max": (5.0, 5.0, 5.0)}, WARNING, "larger than the arm's reach"),
        ({"max_linear_speed": 2.0}, WARNING, "2 m/s"),
    ],
)
def test_limits(changes, level, says):
    values = {
        "workspace_min": BOX[0],
        "workspace_max": BOX[1],
        "keep_out": ((0.3, 0.2, 0.0, 0.5, 0.4, 0.2),),
    } | changes
    (finding,) = check_limits(SafetyLimits(**values), np.array([0.4, 0.0, 0.4]))
    assert finding.level == level and says in finding.message


def save_linear_checkpoint(folder, contract):
    kinds, spread = dimension_kinds(contract), np.linspace(-1.0, 1.0, 101)[:, None]
    stats = {
        name: measure(np.repeat(spread, len(names), 1), names, kinds[name])
        for name, names in (("state", contract.state_names), ("action", contract.action_names))
    }
    weights, robots = LinearModel(LinearConfig(), contract).state_dict(), [Robot(contract, stats)]
    save_checkpoint(folder, LinearConfig(), weights, robots, None, torch.float32)
    return folder


def policy_findings(contract, checkpoint, adapter="", device="cpu", live=("front", "wrist")):
    return check_policy(contract, checkpoint, adapter, device, live, 50.0, 0)


def test_policies(contract, checkpoint, tmp_path):
    made, features = policy_findings(contract, checkpoint)
    assert made.level == features.level == OK
    (finding,) = policy_findings(contract, tmp_path)
    assert finding.level == PROBLEM
    fr3 = load_contract("config/contracts/fr3.yaml")
    (finding,) = policy_findings(fr3, checkpoint)
    assert finding.level == PROBLEM and "contracts differ" in finding.message
    made, _, device = policy_findings(contract, checkpoint, device="cuda:77")
    assert made.level == OK
    assert device.level == PROBLEM and "cuda:77" in device.message
    made, _, adapter = policy_findings(contract, checkpoint, tmp_path)
    assert made.level == OK
    assert adapter.level == PROBLEM and "is not an adapter" in adapter.message


def test_the_shipped_checkpoint_needs_its_cameras(contract):
    _, features = policy_findings(contract, "checkpoints/nano")
    names = open_checkpoint("checkpoints/nano").features.cameras
    assert features.level == OK and all(name in features.message for name in names)
    _, *dead = policy_findings(contract, "checkpoints/nano", live=())
    assert [finding.level for finding in dead] == [PROBLEM] * len(names)
    assert f"reads camera '{names[0]}', and no image of it came" in dead[0].message


def test_a_policy_of_the_state_alone_needs_no_camera(contract, tmp_path):
    folder = save_linear_checkpoint(tmp_path / "linear", contract)
    _, features = policy_findings(contract, folder, live=())
    assert features.level == OK and "reads no camera and the state" in features.message


@pytest.mark.parametrize(
    ("features", "steps", "level", "says"),
    [
        ({}, 0, OK, "chunks of 8 steps"),
        ({"cameras": ("left",)}, 0, PROBLEM, "reads camera 'left'; the contract has"),
        ({"rate": 5.0}, 0, PROBLEM, "acts at 5 Hz, the contract's rate is"),
        ({}, 9, WARNING, "execute_steps is 9, and a chunk has 8 steps"),
        ({"window": 3, "history_step": 0.2}, 0, OK, "3 observations over 0.4 s"),
    ],
)
def test_features_must_fit_robot_and_controller(contract, features, steps, level, says):
    fitting = PolicyFeatures((), True, True, True, None, 8, contract.rate)
    (finding,) = check_features(replace(fitting, **features), contract, (), 50.0, steps)
    assert finding.level == level and says in finding.message


def test_the_controller_must_be_as_fast_as_the_policy(contract):
    fitting = PolicyFeatures((), True, True, True, None, 8, contract.rate)
    (finding,) = check_features(fitting, contract, (), contract.rate / 2, 0)
    assert finding.level == PROBLEM and "raise the controller's control_rate" in finding.cure


def test_the_report_counts_and_gives_cures():
    findings = [*judged(topic()), *judged(topic(publishers=()))]
    text = report(findings)
    assert "-> start its driver" in text
    assert text.endswith("not ready: 1 problems, 0 warnings, 2 checks")
    judgement = verdict(findings)
    assert judgement["ready"] is False
    assert [entry["level"] for entry in judgement["findings"]] == [OK, PROBLEM]
    assert verdict(findings[:1])["ready"] is True
