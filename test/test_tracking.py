"""The tracking of joint targets: smooth, stable at every rate, as late as it says."""

import numpy as np
import pytest

from vla.contract.joint_limits import JointLimits
from vla.control.tracking import JointTracker, at_rest

LIMITS = JointLimits(
    ("a", "b"),
    np.full(2, -3.0),
    np.full(2, 3.0),
    np.array([2.0, 0.5]),
    np.array([10.0, 5.0]),
    np.array([400.0, 100.0]),
)


@pytest.mark.parametrize("rate", [20.0, 50.0, 200.0, 500.0])
@pytest.mark.parametrize("bandwidth", [15.0, 40.0, 100.0])
def test_a_target_is_reached_without_swinging_past_it(rate, bandwidth):
    tracker, motion = JointTracker(LIMITS, bandwidth), at_rest(np.zeros(2))
    target = np.array([1.0, -0.5])
    path = []
    for _ in range(int(4.0 * rate)):
        motion, _ = tracker.step(motion, target, 1.0 / rate)
        path.append(motion.positions)
    np.testing.assert_allclose(motion.positions, target, atol=1e-3)
    past = np.max((np.array(path) - target) * np.sign(target))
    assert past < 0.03


def test_an_even_motion_is_followed_as_late_as_the_lag_says():
    tracker, motion = JointTracker(LIMITS, 40.0), at_rest(np.zeros(2))
    speed, period = np.array([0.3, -0.2]), 0.005
    for number in range(1, 401):
        motion, held_back = tracker.step(motion, speed * number * period, period)
    late = (speed * 400 * period - motion.positions) / speed
    np.testing.assert_allclose(late, tracker.lag, atol=0.006)
    assert not held_back


def test_the_limits_that_hold_it_back_are_named():
    tracker, motion = JointTracker(LIMITS, 40.0), at_rest(np.zeros(2))
    _, held_back = tracker.step(motion, np.array([0.0, 1e-6]), 0.005)
    assert not held_back
    _, held_back = tracker.step(motion, np.array([2.0, 0.0]), 0.005)
    assert held_back == {"joint_velocity", "joint_acceleration", "joint_jerk"}
