"""Arms from URDFs: kinematics against published parameters, limits, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla.contract.embodiment import load_contract
from vla.contract.joint_limits import LimitsError
from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ActionChunk
from vla.control.kinematics import DifferentialIK
from vla.control.robot_model import RobotModelError, arm_limits, model_from_urdf, panda_model
from vla.control.robots import panda
from vla.control.safety import SafetyLimits
from vla.core.rotations import quaternion_to_matrix

CONFIG = Path(__file__).parents[1] / "config"
ROBOTS = ("fr3", "ur5e")
# Modified (Craig) parameters a, alpha, d of the FR3, and standard ones a, d, alpha of the UR5e.
FR3 = [
    (0.0, 0.0, 0.333),
    (0.0, -np.pi / 2, 0.0),
    (0.0, np.pi / 2, 0.316),
    (0.0825, np.pi / 2, 0.0),
    (-0.0825, -np.pi / 2, 0.384),
    (0.0, np.pi / 2, 0.0),
    (0.088, np.pi / 2, 0.0),
]
UR5E = [
    (0.0, 0.1625, np.pi / 2),
    (-0.425, 0.0, 0.0),
    (-0.3922, 0.0, 0.0),
    (0.0, 0.1333, np.pi / 2),
    (0.0, 0.0997, -np.pi / 2),
    (0.0, 0.0996, 0.0),
]


def about(axis, angle, shift=(0.0, 0.0, 0.0)):
    c, s = np.cos(angle), np.sin(angle)
    turns = {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turns[axis], shift
    return matrix


START = {"fr3": panda.HOME, "ur5e": np.array([0.5, -1.4, 1.6, -1.7, -1.6, 0.3])}


def by_parameters(robot, joints):
    pose = np.eye(4)
    if robot == "fr3":
        for (a, alpha, d), angle in zip(FR3, joints, strict=True):
            pose = pose @ about("x", alpha, (a, 0, 0)) @ about("z", angle, (0, 0, 0))
            pose = pose @ about("z", 0.0, (0, 0, d))
        return pose @ about("z", -np.pi / 4, (0, 0, 0.107)) @ about("z", 0.0, (0, 0, 0.1034))
    for (a, d, alpha), angle in zip(UR5E, joints, strict=True):
        pose = pose @ about("z", angle, (0, 0, d)) @ about("x", alpha, (a, 0, 0))
    return pose


def load(robot):
    contract = load_contract(CONFIG / "contracts" / f"{robot}.yaml")
    urdf = (CONFIG / "robots" / f"{robot}.urdf").read_text()
    return contract, model_from_urdf(
        urdf, contract.joint_names, contract.base_frame, contract.tool_frame
    )


def kinematics(model):
    return DifferentialIK(model.model_xml, model.tool_site, model.limits.velocity, model.posture)


@pytest.mark.parametrize("robot", ROBOTS)
def test_kinematics_are_those_of_the_published_parameters(robot):
    _, model = load(robot)
    solver, rng = kinematics(model), np.random.default_rng(0)
    for _ in range(20):
        joints = rng.uniform(model.limits.lower, model.limits.upper)
        position, quaternion = solver.tool_pose(joints)
        wanted = by_parameters(robot, joints)
        np.testing.assert_allclose(position, wanted[:3, 3], atol=1e-6)
        np.testing.assert_allclose(quaternion_to_matrix(quaternion), wanted[:3, :3], atol=1e-6)


def test_the_panda_has_the_kinematics_of_an_fr3():
    _, fr3 = load("fr3")
    first, second = kinematics(panda_model()), kinematics(fr3)
    for joints in (panda.HOME, panda.HOME + 0.2):
        for one, other in zip(first.tool_pose(joints), second.tool_pose(joints), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("robot", ROBOTS)
def test_an_arm_of_configuration_alone_follows_a_chunk(robot):
    contract, model = load(robot)
    limits = arm_limits(contract, model)
    assert (limits.velocity <= model.limits.velocity).all()
    assert (limits.acceleration == 7.5).all()
    safety = SafetyLimits((-1.5, -1.5, -0.5), (1.5, 1.5, 1.5))
    arm = ArmController(ArmControllerConfig(control_rate=200.0, safety=safety), contract, model)
    joints, now = START[robot], 10.0
    position, quaternion = arm.kinematics.tool_pose(joints)
    actions = np.zeros((contract.horizon, 7))
    actions[:, 0] = 0.005
    arm.accept(ActionChunk(now, contract.time_step, actions, position, quaternion), now)
    for _ in range(200):
        command = arm.step(now, joints)
        joints, now = command.joint_positions, now + 0.005
        assert (np.abs(command.joint_velocities) <= limits.velocity).all()
    moved = arm.kinematics.tool_pose(joints)[0] - position
    np.testing.assert_allclose(moved, [0.05, 0.0, 0.0], atol=0.006)


@pytest.mark.parametrize("robot", ROBOTS)
def test_inverse_kinematics_follow_a_circle(robot):
    _, model = load(robot)
    solver, joints = kinematics(model), START[robot]
    centre, quaternion = solver.tool_pose(joints)
    worst, period = 0.0, 0.005
    for angle in np.linspace(0.0, 2 * np.pi, 800):
        # From the circle's lowest place, 10 cm around; once around takes four seconds.
        wanted = centre + 0.05 * np.array([np.sin(angle), 1 - np.cos(angle), np.sin(angle)])
        after = solver.step(joints, wanted, quaternion, period)
        assert (np.abs(after - joints) <= model.limits.velocity * period + 1e-9).all()
        joints = after
        worst = max(worst, np.linalg.norm(solver.tool_pose(joints)[0] - wanted))
    assert worst < 0.001
    turned = solver.tool_pose(joints)[1]
    assert abs(turned @ quaternion) > np.cos(0.005)


# The FR3's limits of velocity near the ends of its joints, as Franka publishes them: the least of
# the joint's own and -offset + sqrt(gain * distance to the end).
FR3_LOWER = (-2.7501, -1.7918, -2.9065, -3.0481, -2.8101, 0.54092, -3.0196)
FR3_UPPER = (2.7501, 1.7918, 2.9065, -0.1458, 2.8101, 4.5205, 3.0196)
FR3_OFFSET = np.array([0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35])
FR3_GAIN = np.array([12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0])


def test_an_fr3_that_can_still_stop_is_no_faster_than_it_may_be_near_its_ends():
    limits = arm_limits(*load("fr3"))
    for speed in np.linspace(0.0, 1.0, 50)[:, None] * limits.velocity:
        # No arm is faster than this who stops within its limits, whatever its jerk.
        stopping = speed**2 / (2 * limits.acceleration)
        for room in (FR3_UPPER - limits.upper, limits.lower - FR3_LOWER):
            allowed = -FR3_OFFSET + np.sqrt(FR3_GAIN * (room + stopping))
            assert (speed <= allowed - 0.001).all() or (speed == 0).all()
    # Which is what the contract's narrower ends are for.
    assert (limits.upper < FR3_UPPER).all() and (limits.lower > FR3_LOWER).all()


def test_what_is_not_there_is_named():
    contract, _ = load("fr3")
    urdf = (CONFIG / "robots" / "fr3.urdf").read_text()
    names = contract.joint_names
    with pytest.raises(RobotModelError, match=r"no frame 'fr3_tool'.*fr3_hand_tcp"):
        model_from_urdf(urdf, names, contract.base_frame, "fr3_tool")
    with pytest.raises(RobotModelError, match=r"are fr3_joint1, .* the contract has a, b"):
        model_from_urdf(urdf, ("a", "b", *names), contract.base_frame, contract.tool_frame)
    with pytest.raises(RobotModelError, match="moves with joint fr3_joint1"):
        model_from_urdf(urdf, names[2:], "fr3_link2", contract.base_frame)
    with pytest.raises(RobotModelError, match=r"are fr3_joint1, .* has fr3_joint2, .*_joint7; mov"):
        model_from_urdf(urdf, names[1:], contract.base_frame, contract.tool_frame)
    with pytest.raises(RobotModelError, match="not valid XML"):
        model_from_urdf("<robot", names, contract.base_frame, contract.tool_frame)
    with pytest.raises(RobotModelError, match="not a URDF"):
        model_from_urdf("<mujoco/>", names, contract.base_frame, contract.tool_frame)


LOOP = """<joint name="loop" type="fixed"><parent link="fr3_hand"/><child link="base"/></joint>"""


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('name="fr3_joint1" type="revolute"', 'name="fr3_joint1" type="planar"', "1 .* is planar"),
        ('name="fr3_base_joint" type="fixed"', 'name="fr3_base_joint" type="floating"', "base_j"),
        ('xyz="0 0 0.333"', 'xyz="0 0"', r"fr3_joint1 .* xyz '0 0' is not three finite numbers"),
        ('xyz="0 0 0.333"', 'xyz="0 0 nan"', "fr3_joint1 .* not three finite numbers"),
        ('xyz="0 0 0.333"', 'xyz="0 0 ${d1}"', "fr3_joint1 of the URDF has a bad number"),
        ('<axis xyz="0 0 1"/>', '<axis xyz="0 0 0"/>', "fr3_joint1 .* axis has no direction"),
        ('velocity="2.62"', 'velocity="fast"', "fr3_joint1 of the URDF has a bad number"),
        ('<parent link="base"/>', "", "fr3_base_joint of the URDF lacks its parent or child"),
        ('<link name="base"/>', LOOP, "round in a circle"),
        ('name="fr3_joint2"', 'name="fr3_joint1"', "several joints named 'fr3_joint1'"),
        (
            '<child link="fr3_link8"/>',
            '<child link="fr3_hand"/>',
            "several .* hold link 'fr3_hand'",
        ),
    ],
)
def test_a_broken_description_is_refused_by_joint(before, after, says):
    contract, _ = load("fr3")
    urdf = (CONFIG / "robots" / "fr3.urdf").read_text()
    assert before in urdf
    with pytest.raises(RobotModelError, match=says):
        model_from_urdf(
            urdf.replace(before, after, 1), contract.joint_names, "base", "fr3_hand_tcp"
        )


def test_the_foot_may_be_named_by_any_frame_that_is_fixed_to_it():
    contract, plain = load("fr3")
    urdf = (CONFIG / "robots" / "fr3.urdf").read_text()
    # On a table that is turned a quarter, 0.8 m high, with a mark beside the arm.
    table = """<link name="table"/><link name="mark"/>
      <joint name="mount" type="fixed"><parent link="table"/><child link="base"/>
      <origin xyz="0.1 0.2 0.8" rpy="0 0 1.5707963267948966"/></joint>
      <joint name="beside" type="fixed"><parent link="base"/><child link="mark"/>
      <origin xyz="0.3 0 0"/></joint></robot>"""
    text = urdf.replace("</robot>", table)
    place = kinematics(plain).tool_pose(panda.HOME)[0]
    turned = np.array([0.1 - place[1], 0.2 + place[0], 0.8 + place[2]])
    for frame, wanted in (("table", turned), ("mark", place - [0.3, 0, 0]), ("fr3_link0", place)):
        model = model_from_urdf(text, contract.joint_names, frame, "fr3_hand_tcp")
        found = kinematics(model).tool_pose(panda.HOME)[0]
        np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_limits_come_from_where_they_are_said():
    contract, _ = load("fr3")
    urdf = (CONFIG / "robots" / "fr3.urdf").read_text()
    first = urdf.index('<joint name="fr3_joint1"')
    text = urdf[:first] + urdf[first:].replace('effort="87"', 'effort="87" acceleration="4"', 1)
    text = text.replace('name="fr3_joint7" type="revolute"', 'name="fr3_joint7" type="continuous"')
    names = contract.joint_names
    model = model_from_urdf(text, names, "fr3_link0", "fr3_hand_tcp")
    assert model.limits.acceleration[0] == 4 and np.isnan(model.limits.acceleration[1:]).all()
    assert model.limits.upper[6] == 2 * np.pi, "an endless joint is kept to two turns"
    joined = arm_limits(contract, model)
    assert joined.acceleration[0] == 4 and (joined.acceleration[1:] == 7.5).all()
    assert joined.upper[6] == contract.joint_limits.upper[6]


def test_a_joint_that_no_one_limits_is_refused():
    contract, _ = load("fr3")
    urdf = (CONFIG / "robots" / "fr3.urdf").read_text()
    text = urdf.replace('velocity="5.26"', "", 1)
    model = model_from_urdf(text, contract.joint_names, "fr3_link0", "fr3_hand_tcp")
    assert np.isnan(model.limits.velocity[4])
    assert arm_limits(contract, model).velocity[4] == 1.5, "the contract says it"
    with pytest.raises(LimitsError, match=r"fr3_joint5 \(velocity\), fr3_joint1 \(acceleration\)"):
        arm_limits(replace(contract, joint_limits=None), model)


def test_meshes_soft_limits_and_joints_beside_the_arm_do_not_matter():
    contract, plain = load("fr3")
    urdf = (CONFIG / "robots" / "fr3.urdf").read_text()
    more = """<link name="fr3_finger"><visual><geometry>
      <mesh filename="package://nowhere/finger.dae"/></geometry></visual></link>
      <joint name="fr3_finger_joint1" type="prismatic"><parent link="fr3_hand"/>
      <child link="fr3_finger"/><limit lower="0" upper="0.04" velocity="0.2" effort="1"/></joint>
      <ros2_control name="x" type="system"/></robot>"""
    text = urdf.replace("</robot>", more).replace(
        '<limit lower="-2.7437"',
        '<safety_controller soft_lower_limit="-2.5" soft_upper_limit="2.6" k_velocity="1"/>'
        '<limit lower="-2.7437"',
    )
    model = model_from_urdf(text, contract.joint_names, "fr3_link0", "fr3_hand_tcp")
    assert model.limits.lower[0] == -2.5 and model.limits.upper[0] == 2.6
    joints = np.array(panda.HOME)
    np.testing.assert_allclose(
        kinematics(model).tool_pose(joints)[0], kinematics(plain).tool_pose(joints)[0]
    )
