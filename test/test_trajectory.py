"""Joint trajectories: what is taken, what is refused, and the path of the target."""

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla.data.messages import NANOSECONDS
from vla_nodes.conversions import seconds_to_stamp
from vla_nodes.trajectory import Follower, read_trajectory

NAMES = ["a", "b"]
LOWER, UPPER = np.array([-1.0, -2.0]), np.array([1.0, 2.0])
NOW = 100 * NANOSECONDS


def trajectory(*points, names=NAMES, stamp=0.0):
    message = JointTrajectory(joint_names=list(names))
    message.header.stamp = seconds_to_stamp(stamp)
    for seconds, positions in points:
        whole, rest = divmod(round(seconds * NANOSECONDS), NANOSECONDS)
        message.points.append(
            JointTrajectoryPoint(
                positions=positions, time_from_start=Duration(sec=whole, nanosec=rest)
            )
        )
    return message


def read(message):
    return read_trajectory(message, NAMES, LOWER, UPPER, NOW)


def test_joints_are_put_in_our_order_and_times_on_our_clock():
    result = read(trajectory((0.5, [2.0, 1.0]), (1.0, [0.0, -1.0]), names=["b", "a"]))
    assert result.positions.tolist() == [[1.0, 2.0], [-1.0, 0.0]]
    assert result.times.tolist() == [100.5, 101.0]


def test_a_stamp_moves_the_start():
    assert read(trajectory((0.5, [0.0, 0.0]), stamp=100.25)).times.tolist() == [100.75]
    assert read(trajectory((0.5, [0.0, 0.0]), stamp=99.25)).times.tolist() == [99.75]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (trajectory((1, [0.0, 0.0]), names=["a", "c"]), "joints are"),
        (trajectory((1, [0.0, 0.0, 0.0]), names=["a", "b", "b"]), "joints are"),
        (trajectory(), "no points"),
        (trajectory((1, [0.0])), "point 0 has 1 positions"),
        (trajectory((1, [0.0, float("nan")])), "not finite"),
        (trajectory((1, [0.0, float("inf")])), "not finite"),
        (trajectory((1, [0.0, 0.0]), (2, [0.0, 2.1])), "b would go to 2.100 rad"),
        (trajectory((1, [0.0, 0.0]), (1, [0.0, 1.0])), "must increase"),
        (trajectory((1, [0.0, 0.0]), stamp=98.0), "ended 1.000 s ago"),
    ],
)
def test_bad_trajectories_are_refused(message, words):
    with pytest.raises(ValueError, match=words):
        read(message)


def test_the_target_goes_straight_to_each_point_and_stays():
    follower = Follower(np.array([10.0, 10.0]))
    follower.reset([0.0, 0.0])
    follower.follow(read(trajectory((1.0, [1.0, -1.0]), (2.0, [0.5, 2.0]))), 100.0)
    path = [follower.advance(100.0 + t / 10, 0.1).tolist() for t in range(1, 31)]
    assert path[4] == pytest.approx([0.5, -0.5])
    assert path[9] == pytest.approx([1.0, -1.0])
    assert path[14] == pytest.approx([0.75, 0.5])
    assert path[29] == pytest.approx([0.5, 2.0])


def test_a_new_trajectory_starts_where_the_target_is():
    follower = Follower(np.array([10.0, 10.0]))
    follower.reset([0.0, 0.0])
    follower.follow(read(trajectory((1.0, [1.0, 0.0]))), 100.0)
    follower.advance(100.5, 0.5)
    follower.follow(read(trajectory((1.5, [0.0, 0.0]))), 100.5)
    assert follower.advance(100.6, 0.1) == pytest.approx([0.45, 0.0])


def test_speed_is_bounded_whatever_is_asked():
    follower = Follower(np.array([1.0, 0.5]))
    follower.reset([0.0, 0.0])
    follower.follow(read(trajectory((0.0, [1.0, 1.0]))), 100.0)
    assert follower.advance(100.1, 0.1) == pytest.approx([0.1, 0.05])
    for step in range(2, 21):
        target = follower.advance(100.0 + step / 10, 0.1)
    assert target == pytest.approx([1.0, 1.0])


def test_reset_drops_the_trajectory():
    follower = Follower(np.array([10.0, 10.0]))
    follower.reset([0.0, 0.0])
    follower.follow(read(trajectory((1.0, [1.0, 0.0]))), 100.0)
    follower.reset(follower.advance(100.5, 0.5))
    assert follower.advance(101.5, 1.0) == pytest.approx([0.5, 0.0])
