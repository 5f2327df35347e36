"""Following joint trajectories as ros2_control's joint trajectory controller does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from trajectory_msgs.msg import JointTrajectory

from vla.observations.messages import NANOSECONDS, stamp_to_nanoseconds

# Beyond this past its end [s], a trajectory is refused instead of followed to its end at once.
STALE = 0.5
# How far from the arm [rad] a trajectory may begin that was computed for where the arm is.
START_TOLERANCE = 0.1
LIMIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Trajectory:
    """Points of n joints and when each is due."""

    times: np.ndarray  # [n], increasing [s]
    positions: np.ndarray  # [n, joints] in radians
    velocities: np.ndarray  # [n, joints] in rad/s; rows of NaN where a point has none

    @property
    def end(self) -> float:
        """When the last point is due [s]."""
        return float(self.times[-1])


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
    count = len(joint_names)
    unknown = np.full(count, np.nan)
    times, positions, velocities = [], [], []
    for number, point in enumerate(message.points):
        if len(point.positions) != count:
            raise ValueError(
                f"point {number} has {len(point.positions)} positions; expected {count}"
            )
        if len(point.velocities) not in (0, count):
            raise ValueError(
                f"point {number} has {len(point.velocities)} velocities; expected {count} or none"
            )
        positions.append(np.asarray(point.positions, dtype=np.float64)[order])
        given = np.asarray(point.velocities, dtype=np.float64)
        if not np.isfinite(given).all():
            raise ValueError("velocities are not finite")
        velocities.append(given[order] if len(given) else unknown)
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
    return Trajectory(start / NANOSECONDS + np.array(times), table, np.array(velocities))


class Follower:
    """Turns trajectories into a target that never jumps.

    The target continues from its position and velocity to the first point, through the others, and
    stays at the last: along a cubic between two points that both have velocities, else straight.
    max_velocity [joints] in rad/s always bounds it.
    """

    def __init__(self, max_velocity: np.ndarray):
        self._max_velocity = max_velocity
        self.reset(np.zeros(len(max_velocity)))

    def reset(self, positions: np.ndarray) -> None:
        """Stays at `positions` [joints]; drops the trajectory."""
        self.target = np.array(positions, dtype=np.float64)
        self._velocity = np.zeros_like(self.target)
        self._path = Trajectory(np.zeros(1), self.target[None], self._velocity[None])

    def follow(self, trajectory: Trajectory, now: float) -> None:
        """Replaces the trajectory; `now` [s] on its clock, the time of the last advance()."""
        if trajectory.times[0] > now:
            trajectory = Trajectory(
                np.concatenate([[now], trajectory.times]),
                np.vstack([self.target, trajectory.positions]),
                np.vstack([self._velocity, trajectory.velocities]),
            )
        self._path = trajectory

    def begins_here(self, trajectory: Trajectory, now: float) -> bool:
        """Whether the target can be at its first point in time; `now` [s] as in follow()."""
        reach = self._max_velocity * max(trajectory.times[0] - now, 0.0) + START_TOLERANCE
        return bool((np.abs(trajectory.positions[0] - self.target) <= reach).all())

    def advance(self, now: float, duration: float) -> np.ndarray:
        """The target [joints] at `now` [s], `duration` [s] after the last call."""
        wanted, velocity = _at(self._path, now)
        step = wanted - self.target
        reach = self._max_velocity * duration
        if (np.abs(step) > reach).any():
            step = np.clip(step, -reach, reach)
            velocity = step / duration
        self.target = self.target + step
        self._velocity = velocity
        return self.target


def _at(path: Trajectory, now: float) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity [joints] on the way at a time [s]."""
    index = int(np.searchsorted(path.times, now, side="right")) - 1
    if index < 0 or index >= len(path.times) - 1:
        return path.positions[max(index, 0)], np.zeros(path.positions.shape[1])
    span = path.times[index + 1] - path.times[index]
    share = (now - path.times[index]) / span
    first, way = path.positions[index], path.positions[index + 1] - path.positions[index]
    # Velocities at both ends as the way that they would make in the whole time.
    begin, end = path.velocities[index] * span, path.velocities[index + 1] * span
    if not np.isfinite(begin + end).all():
        return first + share * way, way / span
    rest = 1.0 - share
    place = first + way * share**2 * (3.0 - 2.0 * share)
    place = place + share * rest * (begin * rest - end * share)
    slope = 6.0 * way * share * rest + begin * rest * (1.0 - 3.0 * share)
    return place, (slope + end * share * (3.0 * share - 2.0)) / span
