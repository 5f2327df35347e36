"""Joint trajectories: what is taken, what is refused, and the path of the target."""

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla.observations.messages import NANOSECONDS
from vla_nodes.core.conversions import nanoseconds_to_stamp
from vla_nodes.sim.trajectory import Follower, Trajectory, read_trajectory

NAMES = ["a", "b"]
LOWER, UPPER = np.array([-1.0, -2.0]), np.array([1.0, 2.0])
NOW = 100 * NANOSECONDS


def trajectory(*points, names=NAMES, stamp=0.0):
    """A message of points (seconds, positions) or (seconds, positions, velocities)."""
    message = JointTrajectory(joint_names=list(names))
    message.header.stamp = nanoseconds_to_stamp(round(stamp * NANOSECONDS))
    for seconds, positions, *velocities in points:
        whole, rest = divmod(round(seconds * NANOSECONDS), NANOSECONDS)
        message.points.append(
            JointTrajectoryPoint(
                positions=positions,
                velocities=velocities[0] if velocities else [],
                time_from_start=Duration(sec=whole, nanosec=rest),
            )
        )
    return message


def read(message, now=NOW):
    return read_trajectory(message, NAMES, LOWER, UPPER, now)


def test_joints_are_put_in_our_order_and_times_on_our_clock():
    points = (0.5, [2.0, 1.0], [0.2, 0.1]), (1.0, [0.0, -1.0])
    result = read(trajectory(*points, names=["b", "a"]))
    assert result.positions.tolist() == [[1.0, 2.0], [-1.0, 0.0]]
    assert result.velocities[0].tolist() == [0.1, 0.2]
    assert np.isnan(result.velocities[1]).all()
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
        (trajectory((1, [0.0, 0.0], [0.0])), "point 0 has 1 velocities"),
        (trajectory((1, [0.0, 0.0], [0.0, float("nan")])), "velocities are not finite"),
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


@pytest.mark.parametrize(
    ("due", "way", "begins"),
    [(0.0, 0.05, True), (0.0, 0.3, False), (0.5, 0.3, True), (0.5, 1.2, False), (-1.0, 0.3, False)],
)
def test_a_trajectory_begins_at_the_arm_if_that_can_be_there_in_time(due, way, begins):
    follower = Follower(np.ones(2))
    follower.reset(np.array([0.5, 0.0]))
    positions = np.array([[0.5, -way], [5.0, 5.0]])
    path = Trajectory(10.0 + np.array([due, due + 9.0]), positions, np.full((2, 2), np.nan))
    assert follower.begins_here(path, 10.0) is begins


def test_between_points_with_velocities_the_way_is_a_cubic():
    # x = t^3 on [0, 1] is the cubic through its own ends, with slopes 0 and 3.
    follower = Follower(np.array([10.0, 10.0]))
    follower.reset([0.0, 0.0])
    follower.follow(read(trajectory((1.0, [1.0, 0.5], [3.0, 0.0]))), 100.0)
    for step in range(1, 10):
        share = step / 10
        target = follower.advance(100.0 + share, 0.1)
        # b: 0.5 (3 t^2 - 2 t^3), from rest to rest.
        assert target == pytest.approx([share**3, 1.5 * share**2 - share**3])


def motion_of(follower, commands, period, delays):
    """Targets every millisecond while commands come, each followed by the way to rest.

    commands: where and how fast one joint is to be, one period ahead each. delays: how much later
    than it should each of them comes [s].
    """
    targets, now = [], 100.0
    for number, (command, delay) in enumerate(zip(commands, delays, strict=True)):
        while now < 100.0 + number * period + delay - 1e-9:
            now += 0.001
            targets.append(follower.advance(now, 0.001)[0])
        place, speed = command
        # To rest at 5 rad/s^2.
        seconds = max(abs(speed) / 5.0, 1e-3)
        halfway, rest = place + speed * seconds * 0.375, place + speed * seconds / 2
        points = (
            (period, [place, 0.0], [speed, 0.0]),
            (period + seconds / 2, [halfway, 0.0], [speed / 2, 0.0]),
            (period + seconds, [rest, 0.0], [0.0, 0.0]),
        )
        follower.follow(read(trajectory(*points), round(now * NANOSECONDS)), now)
    return np.array(targets)


@pytest.mark.parametrize(
    ("lateness", "behind", "speed", "change"),
    [(0.0, 1e-6, 0.501, 0.004), (0.002, 0.0011, 0.75, 0.15)],
)
def test_trajectories_replaced_in_each_cycle_make_one_motion(lateness, behind, speed, change):
    period = 0.005
    times = np.arange(1, 200) * period
    # Up to 0.5 rad/s and 3 rad/s^2, that is 0.003 rad/s in each millisecond.
    commands = [(0.25 / 3 * (1 - np.cos(6 * t)), 0.5 * np.sin(6 * t)) for t in times]
    follower = Follower(np.array([2.0, 2.0]))
    follower.reset([0.0, 0.0])
    delays = np.random.default_rng(1).uniform(0, lateness, len(commands))
    targets = motion_of(follower, commands, period, delays)
    ideal = 0.25 / 3 * (1 - np.cos(6 * np.arange(1, len(targets) + 1) * 0.001))
    assert np.abs(targets - ideal).max() < behind
    speeds = np.diff(targets) / 0.001
    assert np.abs(speeds).max() < speed
    assert np.abs(np.diff(speeds)).max() < change
