"""Following joint trajectories as ros2_control's joint trajectory controller takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from trajectory_msgs.msg import JointTrajectory

from vla.data.messages import NANOSECONDS, stamp_to_nanoseconds

# Beyond this past its end [s], a trajectory is refused instead of followed to its end at once.
STALE = 0.5
LIMIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Trajectory:
    """times [n]: when each point is due [s], increasing. positions [n, joints] in radians."""

    times: np.ndarray
    positions: np.ndarray


def read_trajectory(
    message: JointTrajectory,
    joint_names: Sequence[str],
    lower: np.ndarray,
    upper: np.ndarray,
    now: int,
) -> Trajectory:
    """Checks a trajectory and puts it on the clock of `now` [ns].

    The message may list the joints in any order. A zero stamp means "from now". lower, upper: joint
    limits [joints] in radians. Raises ValueError that says what is wrong.
    """
    if sorted(message.joint_names) != sorted(joint_names):
        raise ValueError(f"joints are {list(message.joint_names)}; expected {list(joint_names)}")
    if not message.points:
        raise ValueError("no points")
    order = [list(message.joint_names).index(name) for name in joint_names]
    times, positions = [], []
    for number, point in enumerate(message.points):
        if len(point.positions) != len(joint_names):
            raise ValueError(
                f"point {number} has {len(point.positions)} positions; expected {len(joint_names)}"
            )
        positions.append(np.asarray(point.positions, dtype=np.float64)[order])
        times.append(point.time_from_start.sec + point.time_from_start.nanosec / NANOSECONDS)
    table = np.array(positions)
    if not np.isfinite(table).all():
        raise ValueError("positions are not finite")
    outside = (table < lower - LIMIT_TOLERANCE) | (table > upper + LIMIT_TOLERANCE)
    if outside.any():
        number, joint = np.argwhere(outside)[0]
        raise ValueError(
            f"{joint_names[joint]} would go to {table[number, joint]:.3f} rad; its limits are "
            f"{lower[joint]:.3f} and {upper[joint]:.3f}"
        )
    if times[0] < 0 or np.any(np.diff(times) <= 0):
        raise ValueError(f"times from start must increase from 0 or later; they are {times}")
    start = stamp_to_nanoseconds(message.header.stamp) or now
    if now - start > (times[-1] + STALE) * NANOSECONDS:
        late = (now - start) / NANOSECONDS - times[-1]
        raise ValueError(f"it ended {late:.3f} s ago: check that the sender uses simulated time")
    return Trajectory(start / NANOSECONDS + np.array(times), table)


class Follower:
    """Turns trajectories into a target that never jumps.

    The target goes straight from where it is to the first point, on through the others, and stays
    at the last. max_velocity [joints] in rad/s bounds it whatever is asked for.
    """

    def __init__(self, max_velocity: np.ndarray):
        self._max_velocity = max_velocity
        self._times = np.zeros(1)
        self._path = np.zeros((1, len(max_velocity)))
        self.target = self._path[0]

    def reset(self, positions: np.ndarray) -> None:
        """Stays at `positions` [joints]; drops the trajectory."""
        self.target = np.array(positions, dtype=np.float64)
        self._times, self._path = np.zeros(1), self.target[None]

    def follow(self, trajectory: Trajectory, now: float) -> None:
        """Replaces the trajectory; `now` [s] on its clock."""
        if trajectory.times[0] > now:
            self._times = np.concatenate([[now], trajectory.times])
            self._path = np.vstack([self.target, trajectory.positions])
        else:
            self._times, self._path = trajectory.times, trajectory.positions

    def advance(self, now: float, duration: float) -> np.ndarray:
        """The target [joints] at `now` [s], `duration` [s] after the last call."""
        wanted = np.array([np.interp(now, self._times, column) for column in self._path.T])
        reach = self._max_velocity * duration
        self.target = self.target + np.clip(wanted - self.target, -reach, reach)
        return self.target
