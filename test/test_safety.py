"""The safety stage: whatever is wanted, no command leaves a limit and each can be stopped."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.contract.joint_limits import JointLimits, LimitsError, stricter
from vla.control.kinematics import DifferentialIK
from vla.control.robots import panda
from vla.control.safety import WALL_TOLERANCE, SafetyLimits, SafetyStage
from vla.control.tracking import JointMotion, JointTracker, at_rest

JOINTS = JointLimits(
    panda.ARM_JOINTS,
    panda.JOINT_LOWER,
    panda.JOINT_UPPER,
    panda.JOINT_MAX_VELOCITY,
    np.full(7, 10.0),
    np.full(7, 400.0),
)
LIMITS = SafetyLimits(
    (0.25, -0.45, 0.012), (0.75, 0.45, 0.65), keep_out=((0.45, 0.1, 0.0, 0.6, 0.4, 0.45),)
)
KINEMATICS = DifferentialIK(
    panda.arm_model_xml(), panda.TOOL_SITE, panda.JOINT_MAX_VELOCITY, panda.HOME
)


def stage(limits=LIMITS, joints=JOINTS, start=panda.HOME):
    made = SafetyStage(limits, joints, KINEMATICS)
    made.anchor(np.array(start, dtype=float))
    return made


def assert_within(before, motion, duration, limits=LIMITS, joints=JOINTS):
    above = 1 + 1e-6
    assert (motion.positions <= joints.upper).all() and (motion.positions >= joints.lower).all()
    assert (np.abs(motion.velocities) <= joints.velocity * above).all()
    assert (np.abs(motion.accelerations) <= joints.acceleration * above).all()
    jerk = np.abs(motion.accelerations - before.accelerations) / duration
    assert (jerk <= joints.jerk * above + 1e-6).all()
    # Positions go the way that velocities say, and these the way that accelerations say.
    mean = (motion.positions - before.positions) / duration
    slack = (joints.acceleration + joints.jerk * duration) * duration
    assert (np.abs(mean - before.velocities) <= slack).all()
    place, _ = KINEMATICS.tool_pose(before.positions)
    there, _ = KINEMATICS.tool_pose(motion.positions)
    assert np.linalg.norm(there - place) <= limits.max_linear_speed * duration * 1.001
    low, high = np.array(limits.workspace_min), np.array(limits.workspace_max)
    assert (there <= high + WALL_TOLERANCE).all() and (there >= low - WALL_TOLERANCE).all()
    for box in limits.keep_out:
        depth = np.minimum(there - np.array(box[:3]), np.array(box[3:]) - there).min()
        assert depth <= 1e-4


@pytest.mark.slow
@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    rate=st.sampled_from([50.0, 200.0]),
    bandwidth=st.sampled_from([20.0, 60.0]),
)
def test_no_limit_is_left_whatever_is_wanted(seed, rate, bandwidth):
    rng = np.random.default_rng(seed)
    safety, tracker, period = stage(), JointTracker(JOINTS, bandwidth), 1.0 / rate
    target, dropped = panda.HOME, False
    for number in range(int(2.0 * rate)):
        if number % int(0.2 * rate) == 0:
            target = panda.HOME + rng.normal(0.0, 0.6, 7)
            dropped = rng.random() < 0.2
        before = safety.motion
        # Late cycles make longer steps.
        duration = period * rng.choice([1, 1, 1, 2, 3])
        wanted, why = tracker.step(before, target, duration)
        safety.advance(None if dropped else wanted, duration, why)
        assert_within(before, safety.motion, duration)
    for _ in range(int(0.5 * rate)):
        before = safety.motion
        safety.advance(None, period)
        assert_within(before, safety.motion, period)
    assert safety.motion.at_rest


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_wild_motions_are_refused(seed):
    rng = np.random.default_rng(seed)
    safety = stage()
    for _ in range(50):
        before = safety.motion
        wild = JointMotion(*(rng.normal(0.0, 10.0 ** rng.uniform(-3, 4), 7) for _ in range(3)))
        assert safety.advance(wild, 0.01)
        assert_within(before, safety.motion, 0.01)
    assert safety.motion.at_rest


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stop_the_arm(value):
    safety = stage()
    tracker = JointTracker(JOINTS, 40.0)
    for _ in range(20):
        safety.advance(tracker.step(safety.motion, panda.HOME + 0.1, 0.01)[0], 0.01)
    assert not safety.motion.at_rest
    bad = at_rest(safety.motion.positions)
    bad.positions[3] = value
    assert safety.advance(bad, 0.01) == {"non_finite"}
    for _ in range(50):
        safety.advance(bad, 0.01)
    assert safety.motion.at_rest
    assert safety.counts["non_finite"] == 1


def test_the_stop_of_each_command_ends_at_rest_within_the_limits():
    safety, tracker = stage(), JointTracker(JOINTS, 40.0)
    for _ in range(30):
        safety.advance(tracker.step(safety.motion, panda.HOME + 0.3, 0.01)[0], 0.01)
        stop = safety.stop
        assert len(stop.times) and (np.diff(stop.times) > 0).all()
        assert np.allclose(stop.velocities[-1], 0.0, atol=1e-9)
        assert (np.abs(stop.velocities) <= JOINTS.velocity).all()
    promised = stop.positions[-1]
    for _ in range(100):
        safety.advance(None, 0.01)
    np.testing.assert_allclose(safety.motion.positions, promised, atol=1e-9)
    assert len(safety.stop.times) == 0


def test_an_emergency_stop_latches_and_is_reset():
    safety, tracker = stage(), JointTracker(JOINTS, 40.0)

    def push(cycles):
        for _ in range(cycles):
            safety.advance(tracker.step(safety.motion, panda.HOME + 0.3, 0.01)[0], 0.01)

    push(20)
    safety.emergency_stop("the button was pressed")
    push(50)
    assert safety.motion.at_rest
    place = safety.motion.positions
    push(50)
    np.testing.assert_array_equal(safety.motion.positions, place)
    safety.reset_emergency_stop()
    push(50)
    assert np.abs(safety.motion.positions - place).max() > 0.01
    assert safety.counts["emergency_stop"] == 1


def test_a_joint_outside_of_its_limits_may_only_come_back():
    start = panda.HOME.copy()
    start[0] = panda.JOINT_UPPER[0] + 0.05
    safety, tracker = stage(start=start), JointTracker(JOINTS, 40.0)
    wide = SafetyLimits((-1.0, -1.0, -1.0), (1.0, 1.0, 1.5))
    safety = stage(wide, start=start)
    reasons = safety.advance(tracker.step(safety.motion, start + 0.1, 0.01)[0], 0.01)
    assert "joint_position" in reasons
    back = start.copy()
    back[0] -= 0.3
    for _ in range(100):
        safety.advance(tracker.step(safety.motion, back, 0.01)[0], 0.01)
    assert safety.motion.positions[0] < panda.JOINT_UPPER[0]


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("velocity", np.nan, "panda_joint3 \\(velocity\\)"),
        ("jerk", -1.0, "jerk limit must be positive"),
        ("lower", 3.0, "lower limit 3 is not below"),
    ],
)
def test_a_joint_without_sound_limits_is_refused(kind, value, words):
    values = {
        name: np.array(getattr(JOINTS, name))
        for name in ("lower", "upper", "velocity", "acceleration", "jerk")
    }
    values[kind][2] = value
    with pytest.raises(LimitsError, match=words):
        stage(joints=JointLimits(JOINTS.names, **values))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workspace_min": (1.0, 0.0, 0.0)}, "min below max"),
        ({"keep_out": ((0.0, 0.0, 0.0, 1.0, -1.0, 1.0),)}, "keep-out box"),
        ({"max_linear_speed": 0.0}, "max_linear_speed must be positive"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(changes, words):
    values = {"workspace_min": (0.2, -0.4, 0.0), "workspace_max": (0.8, 0.4, 0.6)} | changes
    with pytest.raises(LimitsError, match=words):
        stage(SafetyLimits(**values))


def test_the_stricter_limit_wins_for_each_joint_by_name():
    order = [6, 0, 1, 2, 3, 4, 5]
    other = JointLimits(
        tuple(JOINTS.names[i] for i in order),
        JOINTS.lower[order] + 0.1,
        JOINTS.upper[order] + 0.1,
        np.full(7, np.nan),
        np.array([1.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0]),
        JOINTS.jerk[order],
    )
    joined = stricter(JOINTS, other)
    np.testing.assert_allclose(joined.lower, JOINTS.lower + 0.1)
    np.testing.assert_allclose(joined.upper, JOINTS.upper)
    np.testing.assert_allclose(joined.velocity, JOINTS.velocity)
    np.testing.assert_allclose(joined.acceleration, [10.0] * 6 + [1.0])
