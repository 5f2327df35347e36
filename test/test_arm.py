"""The arm controller: limits that nothing exceeds, chunks by time, holding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ActionChunk, ChunkError
from vla.control.execution import MODES, ExecutionConfig
from vla.control.robots import panda
from vla.control.safety import WALL_TOLERANCE
from vla.core.rotations import difference

RATE = 50.0
NOW = 100.0


@pytest.fixture(scope="module")
def shared_arm(contract):
    return ArmController(ArmControllerConfig(control_rate=RATE), contract)


@pytest.fixture
def arm(shared_arm):
    shared_arm.reset()
    return shared_arm


def chunk_at(arm, joints, actions, stamp=NOW, **changes) -> ActionChunk:
    position, quaternion = arm.kinematics.tool_pose(joints)
    values = {
        "stamp": stamp,
        "time_step": arm.contract.time_step,
        "actions": np.asarray(actions, dtype=float),
        "reference_position": position,
        "reference_quaternion": quaternion,
    }
    return ActionChunk(**(values | changes))


def straight(velocity, gripper=1.0, horizon=16) -> np.ndarray:
    actions = np.zeros((horizon, 7))
    actions[:, :3] = np.asarray(velocity) * 0.1
    actions[:, 6] = gripper
    return actions


def run(arm, joints, now, seconds):
    """Steps with an arm that goes where it is told; the last joints and time."""
    for _ in range(round(seconds * RATE)):
        joints = arm.step(now, joints).joint_positions
        now += 1 / RATE
    return joints, now


@pytest.mark.slow
@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_no_limit_is_exceeded_whatever_the_chunks_say(shared_arm, seed):
    arm, config = shared_arm, shared_arm.config.safety
    arm.reset()
    generator = np.random.default_rng(seed)
    joints, now = panda.HOME + generator.uniform(-0.1, 0.1, 7), NOW
    position, quaternion = arm.kinematics.tool_pose(joints)
    for _ in range(3):
        actions = generator.normal(0.0, [0.1, 0.1, 0.1, 0.3, 0.3, 0.3, 1.0], (16, 7))
        actions[:, :3] += generator.normal(0.0, 0.08, 3)
        # Longer steps are refused as a whole.
        actions[:, :6] = np.clip(actions[:, :6], -0.28, 0.28)
        arm.accept(chunk_at(arm, joints, actions, now), now)
        for _ in range(25):
            before = joints, position, quaternion
            command = arm.step(now, joints)
            joints = command.joint_positions
            now += 1 / RATE
            assert (np.abs(joints - before[0]) <= panda.JOINT_MAX_VELOCITY / RATE + 1e-6).all()
            assert (joints >= panda.JOINT_LOWER - 1e-6).all()
            assert (joints <= panda.JOINT_UPPER + 1e-6).all()
            position, quaternion = arm.kinematics.tool_pose(joints)
            speed = np.linalg.norm(position - before[1]) * RATE
            assert speed <= config.max_linear_speed
            turning = np.linalg.norm(difference(quaternion, before[2])) * RATE
            assert turning <= config.max_angular_speed
            reach = WALL_TOLERANCE
            assert (position >= np.array(config.workspace_min) - reach).all()
            assert (position <= np.array(config.workspace_max) + reach).all()
            assert command.gripper_width in (0.0, arm.contract.gripper_open_width)


def test_a_moderate_chunk_is_followed_and_hardly_limited(arm):
    joints = panda.HOME
    start, _ = arm.kinematics.tool_pose(joints)
    arm.accept(chunk_at(arm, joints, straight([0.1, 0.0, -0.05])), NOW)
    limited, now = 0, NOW
    for _ in range(round(RATE)):
        command = arm.step(now, joints)
        joints, limited = command.joint_positions, limited + command.limited
        assert command.executing and command.chunk_age == pytest.approx(now - NOW)
        now += 1 / RATE
    moved = arm.kinematics.tool_pose(joints)[0] - start
    np.testing.assert_allclose(moved, [0.1, 0.0, -0.05], atol=0.012)
    assert limited <= 3, "only while it starts from rest"


def test_a_target_beyond_the_wall_is_reported_and_the_way_back_is_free(arm):
    joints = panda.HOME
    arm.accept(chunk_at(arm, joints, straight([0.0, 0.0, 0.4])), NOW)
    joints, now = run(arm, joints, NOW, 1.0)
    command = arm.step(now, joints)
    top = arm.config.safety.workspace_max[2]
    assert command.limited
    assert arm.kinematics.tool_pose(joints)[0][2] == pytest.approx(top, abs=0.006)
    arm.accept(chunk_at(arm, joints, straight([0.0, 0.0, -0.2]), now), now)
    joints, now = run(arm, joints, now, 1.0)
    assert arm.kinematics.tool_pose(joints)[0][2] < top - 0.12


def test_joints_that_do_not_follow_draw_the_command_back(arm):
    blocked = panda.HOME
    arm.accept(chunk_at(arm, blocked, straight([0.0, 0.4, 0.0])), NOW)
    for tick in range(50):
        command = arm.step(NOW + tick / RATE, blocked)
    lag = np.abs(command.joint_positions - blocked).max()
    step = panda.JOINT_MAX_VELOCITY.max() / RATE
    assert command.limited and lag <= arm.config.safety.max_following_error + step


def test_an_arm_that_chooses_its_joints_itself_is_judged_by_its_tool(contract):
    config = ArmControllerConfig(control_rate=RATE, tool_commanded=True)
    arm = ArmController(config, contract)
    arm.accept(chunk_at(arm, panda.HOME, straight([0.05, 0.0, 0.0])), NOW)
    # Its elbow drifts by half a radian while the tool does as it is told.
    joints, drift = panda.HOME, np.zeros(7)
    command = arm.step(NOW, joints)
    for tick in range(1, 40):
        drift[2] += 0.5 / 40
        joints = command.joint_positions + drift
        for _ in range(5):
            joints = arm.kinematics.step(
                joints, command.tool_position, command.tool_quaternion, 0.1
            )
        command = arm.step(NOW + tick / RATE, joints)
        assert command.executing and not arm.backs_off
    # A tool that stays behind is noticed all the same.
    for tick in range(40, 120):
        command = arm.step(NOW + tick / RATE, panda.HOME - 0.3)
    assert arm.backs_off


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stamp": NOW - 1.3}, "stale"),
        ({"time_step": 0.05}, "shape"),
        ({"actions": np.full((16, 7), np.nan)}, "non_finite"),
        ({"actions": np.zeros((16, 6))}, "shape"),
    ],
)
def test_a_refused_chunk_leaves_the_one_in_execution_alone(arm, changes, reason):
    joints = panda.HOME
    arm.accept(chunk_at(arm, joints, straight([0.1, 0, 0]), NOW - 0.1), NOW)
    with pytest.raises(ChunkError) as caught:
        arm.accept(chunk_at(arm, joints, **({"actions": straight([0, 0.1, 0])} | changes)), NOW)
    assert caught.value.reason == reason
    start, _ = arm.kinematics.tool_pose(joints)
    joints, _ = run(arm, joints, NOW, 0.5)
    moved = arm.kinematics.tool_pose(joints)[0] - start
    assert moved[0] > 0.03 and abs(moved[1]) < 0.005


def test_an_older_observations_chunk_does_not_replace_a_newer_one(arm):
    joints = panda.HOME
    arm.accept(chunk_at(arm, joints, straight([0.1, 0, 0]), NOW), NOW)
    with pytest.raises(ChunkError, match="newer observation"):
        arm.accept(chunk_at(arm, joints, straight([0, 0.1, 0]), NOW - 0.2), NOW)
    arm.accept(chunk_at(arm, joints, straight([0, 0.1, 0]), NOW + 0.01), NOW + 0.02)


def bent() -> np.ndarray:
    """10 cm along y in the first half second, then 10 cm along x."""
    actions = straight([0.0, 0.0, 0.0])
    actions[:5, 1] = 0.02
    actions[10:15, 0] = 0.02
    return actions


def test_a_late_chunk_is_entered_where_its_time_is_while_the_arm_moves(arm):
    """The steps that were due while the model computed are not replayed."""
    joints = panda.HOME
    arm.accept(chunk_at(arm, joints, straight([0.0, 0.2, 0.0])), NOW)
    start, _ = arm.kinematics.tool_pose(joints)
    joints, now = run(arm, joints, NOW, 0.5)
    arm.accept(chunk_at(arm, panda.HOME, bent(), NOW + 0.01), now)
    joints, _ = run(arm, joints, now, 0.4)
    moved = arm.kinematics.tool_pose(joints)[0] - start
    assert moved[1] == pytest.approx(0.1, abs=0.01) and abs(moved[0]) < 0.005


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("delay", [0.1, 0.7, 1.1])
@pytest.mark.parametrize("first", [True, False])
def test_a_late_chunk_that_finds_a_still_arm_starts_at_its_start(contract, mode, delay, first):
    """Nothing of it was executed: the corner of its path is not cut off, however late it comes."""
    config = ArmControllerConfig(control_rate=RATE, execution=ExecutionConfig(mode))
    arm, joints, now = ArmController(config, contract), panda.HOME, NOW
    if not first:
        arm.accept(chunk_at(arm, joints, straight([0.1, 0.0, 0.0])), NOW)
        joints, now = run(arm, joints, now, 0.5)
        arm.hold()
        joints, now = run(arm, joints, now, 0.5)
    start, _ = arm.kinematics.tool_pose(joints)
    chunk = chunk_at(arm, joints, bent(), now)
    joints, now = run(arm, joints, now, delay)
    arm.accept(chunk, now)
    widest = 0.0
    while (moved := arm.kinematics.tool_pose(joints)[0] - start)[0] < 0.01:
        widest = moved[1]
        joints, now = run(arm, joints, now, 1 / RATE)
        assert now < chunk.stamp + delay + 1.2, "it is followed for max_chunk_age from its start"
    assert widest == pytest.approx(0.1, abs=0.005)


def test_the_chunk_after_a_late_one_goes_on_in_time(arm):
    """Its observation is from when the late one had begun, so that both are about one motion."""
    joints = panda.HOME
    path = straight([0.0, 0.1, 0.0])
    arm.accept(chunk_at(arm, joints, path), NOW + 0.7)
    start, _ = arm.kinematics.tool_pose(joints)
    now = NOW + 0.7
    seen = chunk_at(arm, joints, path, now)
    joints, now = run(arm, joints, now, 0.5)
    arm.accept(seen, now)
    before = arm.kinematics.tool_pose(joints)[0]
    joints, now = run(arm, joints, now, 0.2)
    moved = arm.kinematics.tool_pose(joints)[0]
    assert moved[1] - before[1] == pytest.approx(0.02, abs=0.006)
    assert moved[1] - start[1] == pytest.approx(0.07, abs=0.01)


def test_without_a_chunk_or_with_one_grown_stale_the_arm_holds(arm):
    joints = panda.HOME
    command = arm.step(NOW, joints)
    assert not command.executing and np.isnan(command.chunk_age)
    np.testing.assert_array_equal(command.joint_positions, joints)
    arm.accept(chunk_at(arm, joints, straight([0.1, 0, 0], gripper=0.0)), NOW)
    joints, now = run(arm, joints, NOW, 1.19)
    assert arm.step(now, joints).executing
    command = arm.step(NOW + 1.25, joints)
    assert not command.executing and command.gripper_width == 0.0
    joints, now = run(arm, command.joint_positions, NOW + 1.25, 0.5)
    again = arm.step(NOW + 5.0, joints)
    np.testing.assert_array_equal(again.joint_positions, joints)
    assert not again.joint_velocities.any()


def test_hold_drops_the_chunk_and_reset_forgets_the_command(arm):
    joints = panda.HOME
    arm.accept(chunk_at(arm, joints, straight([0.2, 0, 0], gripper=0.0)), NOW)
    moved, now = run(arm, joints, NOW, 0.5)
    arm.hold()
    assert not arm.step(now, moved).executing
    held, now = run(arm, moved, now, 0.5)
    assert 0.0 < np.abs(held - moved).max() < 0.05, "it comes to rest, not to a sudden stop"
    np.testing.assert_array_equal(arm.step(now, held).joint_positions, held)
    arm.reset()
    fresh = arm.step(now, joints)
    np.testing.assert_array_equal(fresh.joint_positions, joints)
    assert fresh.gripper_width == arm.contract.gripper_open_width


def test_motion_settles_when_targets_stay_in_place(arm):
    joints, now = panda.HOME, NOW
    assert not arm.settled(now)
    for speed, expected in ((0.1, False), (0.0, True)):
        for _ in range(6):
            arm.accept(chunk_at(arm, joints, straight([0, speed, 0]), now), now)
            joints, now = run(arm, joints, now, 0.3)
        assert arm.settled(now) is expected
    arm.accept(chunk_at(arm, joints, straight([0, 0, 0], gripper=0.0), now), now)
    _, now = run(arm, joints, now, 0.1)
    assert not arm.settled(now), "closing the gripper is a motion, too"


@pytest.mark.parametrize("joints", [np.zeros(6), np.array([0.0] * 6 + [np.nan])])
def test_broken_joint_measurements_are_refused(arm, joints):
    with pytest.raises(ValueError, match="7 finite joint positions"):
        arm.step(NOW, joints)


def test_kinematics_agree_with_the_simulated_arm(arm, simulator):
    simulator.reset(4, "pick")
    position, quaternion = arm.kinematics.tool_pose(simulator.joint_positions)
    there, orientation = simulator.end_effector_pose()
    np.testing.assert_allclose(position, there, atol=1e-4)
    assert np.linalg.norm(difference(quaternion, orientation)) < 1e-3


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_inverse_kinematics_reaches_what_forward_kinematics_gives(shared_arm, seed):
    kinematics = shared_arm.kinematics
    generator = np.random.default_rng(seed)
    joints = panda.HOME + generator.uniform(-0.2, 0.2, 7)
    target = kinematics.tool_pose(panda.HOME + generator.uniform(-0.2, 0.2, 7))
    for _ in range(80):
        joints = kinematics.step(joints, *target, 1 / RATE)
    position, quaternion = kinematics.tool_pose(joints)
    assert np.linalg.norm(position - target[0]) < 2e-3
    assert np.linalg.norm(difference(quaternion, target[1])) < 2e-2
