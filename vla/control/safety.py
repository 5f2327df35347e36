"""The safety stage: the one place that every command to every robot passes.

A command passes only if the arm could still come to rest from it without violating any limit: joint
positions, velocities, accelerations and jerks, the workspace box, the keep-out boxes, the tool's
speed, the distance from the measured joints. Otherwise the arm follows one cycle of the stop found
in the cycle before; since each command has such a stop, there always is a safe one. Stops are
time-optimal under the limits on jerk and acceleration (ruckig).

The stage keeps the commanded motion, so nothing else can move the arm. An emergency stop latches
here, too. No ROS, no clock, no threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import ruckig

from vla.contract.joint_limits import JointLimits, LimitsError
from vla.control.command import StoppingMotion
from vla.control.kinematics import DifferentialIK
from vla.control.tracking import JointMotion, at_rest

# How far the tool may pass a wall [m]: otherwise the smallest error of inverse kinematics would
# stop a tool that slides along one. Half of it is for the path between the points checked.
WALL_TOLERANCE = 0.005
# Rounding error of the tracker and of ruckig, relative to a limit.
ROUNDING = 1e-9
# Points at which the stop is checked, and how far joints may stray between two of them [rad]: an
# eighth of the acceleration times the square of the time between.
STOP_SAMPLES = 8
JOINT_MARGIN = 1e-3
# Share of the tool's limits that applies at these points: between them it may be a little faster.
JUDGED_SHARE = 0.97
# No tool is further from a joint than this [m], for arms of human size.
REACH = 1.6
# Motion below this counts as rest [rad/s, rad/s^2].
REST_VELOCITY = 1e-5
REST_ACCELERATION = 1e-3


@dataclass(frozen=True)
class SafetyLimits:
    """The limits that the safety stage keeps; the tool's in the base frame."""

    workspace_min: tuple[float, float, float]  # lower corner of the box that the tool stays in [m]
    workspace_max: tuple[float, float, float]  # its upper corner [m]
    # Boxes that the tool stays out of, each x, y, z of the lower and of the upper corner [m].
    keep_out: tuple[tuple[float, ...], ...] = ()
    max_linear_speed: float = 0.5  # of the tool [m/s]
    max_angular_speed: float = 1.5  # of the tool [rad/s]
    max_following_error: float = 0.25  # between commanded and measured joints [rad]
    # Between commanded and measured tool [m], for robots that take tool poses and solve for their
    # joints themselves.
    max_tool_error: float = 0.1

    def require_sound(self) -> None:
        """Raises LimitsError when a box is inverted or a limit is not positive."""
        low, high = self.workspace_min, self.workspace_max
        if len(low) != 3 or len(high) != 3 or any(a >= b for a, b in zip(low, high, strict=True)):
            raise LimitsError(
                f"workspace_min {list(low)} and workspace_max {list(high)} must be x, y, z with "
                "min below max"
            )
        for box in self.keep_out:
            if len(box) != 6 or any(a >= b for a, b in zip(box[:3], box[3:], strict=True)):
                raise LimitsError(
                    f"keep-out box {list(box)} must be x, y, z of its lower and of its upper corner"
                )
        for name in (
            "max_linear_speed",
            "max_angular_speed",
            "max_following_error",
            "max_tool_error",
        ):
            if not getattr(self, name) > 0:
                raise LimitsError(f"{name} must be positive, not {getattr(self, name)}")


class SafetyStage:
    """Holds the commanded motion and lets only safe steps of it through."""

    def __init__(self, limits: SafetyLimits, joints: JointLimits, kinematics: DifferentialIK):
        """Raises LimitsError when a joint lacks a limit or limits contradict each other."""
        limits.require_sound()
        joints.require_complete()
        self.limits, self.joints = limits, joints
        self.counts: Counter[str] = Counter()
        self.emergency_stopped = ""
        self._motion: JointMotion | None = None
        self.stop = StoppingMotion(np.zeros(0), np.zeros((0, 0)), np.zeros((0, 0)))
        self._kinematics = kinematics
        self._active: set[str] = set()
        self._low, self._high = np.array(limits.workspace_min), np.array(limits.workspace_max)
        self._boxes = [(np.array(box[:3]), np.array(box[3:])) for box in limits.keep_out]
        count = len(joints.names)
        self._planner = ruckig.Ruckig(count)
        self._query = ruckig.InputParameter(count)
        self._query.control_interface = ruckig.ControlInterface.Velocity
        self._query.synchronization = ruckig.Synchronization.No
        self._query.max_velocity = list(2.0 * joints.velocity)
        self._query.max_acceleration = list(joints.acceleration)
        self._query.max_jerk = list(joints.jerk)
        self._query.target_velocity = [0.0] * count
        self._query.target_acceleration = [0.0] * count
        self._way_to_rest: ruckig.Trajectory | None = None
        self._along_stop = 0.0

    @property
    def anchored(self) -> bool:
        """Whether a motion is commanded: from anchor() to forget()."""
        return self._motion is not None

    @property
    def motion(self) -> JointMotion:
        """The commanded motion. Raises RuntimeError where there is none yet."""
        if self._motion is None:
            raise RuntimeError("nothing is commanded yet: call anchor() first")
        return self._motion

    @property
    def active(self) -> frozenset[str]:
        """The reasons for which the last step differed from what was wanted."""
        return frozenset(self._active)

    def anchor(self, positions: np.ndarray) -> None:
        """Starts from an arm at rest at `positions` [n]; raises ValueError unless finite."""
        if not np.isfinite(positions).all():
            raise ValueError(f"joint positions are not finite: {np.asarray(positions).tolist()}")
        self._motion = at_rest(positions)
        self._take(self.motion, None, [])
        self._active.clear()

    def forget(self) -> None:
        """No motion is commanded any more; the next one starts with anchor()."""
        self._motion = None
        self._active.clear()

    def emergency_stop(self, why: str) -> None:
        """Latches: the arm comes to rest, and stays there until reset_emergency_stop()."""
        if not self.emergency_stopped:
            self.counts["emergency_stop"] += 1
        self.emergency_stopped = why

    def reset_emergency_stop(self) -> None:
        """Ends an emergency stop; that alone moves nothing."""
        self.emergency_stopped = ""

    def note(self, reason: str) -> None:
        """Counts an intervention that was decided elsewhere, such as a refused chunk."""
        self.counts[reason] += 1

    def advance(
        self, wanted: JointMotion | None, duration: float, why: Iterable[str] = ()
    ) -> frozenset[str]:
        """Moves on by `duration` [s]: to `wanted` if that is safe, else along the stop.

        wanted: None to come to rest. why: limits that have changed `wanted` already. Returns the
        reasons for which the motion differs from what was wanted; each is counted when it begins.
        """
        reasons = set(why)
        is_safe = False
        if wanted is not None and not self.emergency_stopped:
            found, plan, samples = self._judge(wanted, duration)
            reasons |= found
            if is_safe := plan is not None and not found:
                self._take(wanted, plan, samples)
        if not is_safe:
            self._come_to_rest(duration)
        for reason in reasons - self._active:
            self.counts[reason] += 1
        self._active = reasons
        return frozenset(reasons)

    def _judge(self, wanted: JointMotion, duration: float):
        """Reasons against a step, the stop after it, and samples of that stop."""
        parts = (wanted.positions, wanted.velocities, wanted.accelerations)
        if not all(np.isfinite(part).all() for part in parts):
            return {"non_finite"}, None, []
        joints, found = self.joints, set()
        above = 1 + ROUNDING
        # Positions and velocities must be consistent with their derivatives: a jump is a speed,
        # too.
        change = np.abs(wanted.velocities - self.motion.velocities) / duration
        mean = (wanted.positions - self.motion.positions) / duration
        ahead = np.abs(mean - self.motion.velocities) / duration
        if (np.abs(mean) > joints.velocity * above).any():
            found.add("joint_velocity")
        for rate in (np.abs(wanted.accelerations), change, ahead):
            if (rate > joints.acceleration * above).any():
                found.add("joint_acceleration")
        jerk = np.abs(wanted.accelerations - self.motion.accelerations) / duration
        # A step consists of shorter ones within the limit, so their mean is, too.
        if (jerk > joints.jerk * above + 1e-6).any():
            found.add("joint_jerk")
        # The velocity still grows while the acceleration is brought to zero.
        rise = wanted.accelerations * np.abs(wanted.accelerations) / (2.0 * joints.jerk)
        peak = np.maximum(np.abs(wanted.velocities), np.abs(wanted.velocities + rise))
        if (peak > joints.velocity * above).any():
            found.add("joint_velocity")
        if found:
            return found, None, []
        plan = self._plan_stop(wanted)
        if plan is None:
            return {"joint_acceleration"}, None, []
        samples = _samples(plan)
        here = self.motion.positions
        way = np.array([wanted.positions, *(positions for _, positions, _ in samples)])
        # Outside already (moved there by hand), it may only come back.
        over = (way > joints.upper - JOINT_MARGIN) & (way > here)
        under = (way < joints.lower + JOINT_MARGIN) & (way < here)
        if over.any() or under.any():
            found.add("joint_position")
        found |= self._judge_tool(wanted, samples)
        return found, plan, samples

    def _judge_tool(self, wanted: JointMotion, samples: list) -> set[str]:
        """The tool's limits that this step and its stop would violate."""
        there, velocity = self._kinematics.tool_velocity(wanted.positions, wanted.velocities)
        if self._is_far_from_limits(there, velocity, wanted, samples):
            return set()
        found = set()
        place, _ = self._kinematics.tool_velocity(self.motion.positions, self.motion.velocities)
        for _, positions, velocities in ((0.0, wanted.positions, wanted.velocities), *samples):
            there, velocity = self._kinematics.tool_velocity(positions, velocities)
            if velocity[:3] @ velocity[:3] > (JUDGED_SHARE * self.limits.max_linear_speed) ** 2:
                found.add("tool_speed")
            if velocity[3:] @ velocity[3:] > (JUDGED_SHARE * self.limits.max_angular_speed) ** 2:
                found.add("tool_turning_speed")
            outside = (there > self._high + WALL_TOLERANCE / 2) & (there > place)
            outside |= (there < self._low - WALL_TOLERANCE / 2) & (there < place)
            if outside.any():
                found.add("workspace")
            for low, high in self._boxes:
                depth = _depth(there, low, high)
                if depth > -WALL_TOLERANCE / 2 and depth > _depth(place, low, high):
                    found.add("keep_out")
            place = there
        return found

    def _is_far_from_limits(
        self, there: np.ndarray, velocity: np.ndarray, wanted: JointMotion, samples: list
    ) -> bool:
        """True when the stop cannot come near a limit of the tool, as most often.

        A bound without further kinematics: a joint moves the tool by no more than its angle times
        the arm's reach, and its speed grows only while its acceleration is brought to zero.
        """
        places = np.array([wanted.positions, *(positions for _, positions, _ in samples)])
        way = REACH * float(np.abs(places - wanted.positions).max(axis=0).sum())
        rise = float((wanted.accelerations**2 / (2.0 * self.joints.jerk)).sum())
        speed, turning = np.sqrt(velocity[:3] @ velocity[:3]), np.sqrt(velocity[3:] @ velocity[3:])
        # The same joint speeds may move the tool faster elsewhere on the path.
        speed += way * float(np.abs(wanted.velocities).sum()) + REACH * rise
        return bool(
            speed < JUDGED_SHARE * self.limits.max_linear_speed
            and turning + rise + way / REACH * float(np.abs(wanted.velocities).sum())
            < JUDGED_SHARE * self.limits.max_angular_speed
            and (there + way < self._high).all()
            and (there - way > self._low).all()
            and all(_depth(there, low, high) < -way for low, high in self._boxes)
        )

    def _plan_stop(self, motion: JointMotion) -> ruckig.Trajectory | None:
        query = self._query
        query.current_position = motion.positions
        query.current_velocity = motion.velocities
        query.current_acceleration = motion.accelerations
        plan = ruckig.Trajectory(len(motion.positions))
        result = self._planner.calculate(query, plan)
        return plan if result in (ruckig.Result.Working, ruckig.Result.Finished) else None

    def _come_to_rest(self, duration: float) -> None:
        """One cycle of the stop that is known to be safe."""
        plan = self._way_to_rest
        if plan is None:
            return
        self._along_stop += duration
        if self._along_stop >= plan.duration:
            positions, _, _ = plan.at_time(plan.duration)
            self._take(at_rest(np.array(positions)), None, [])
            return
        state = plan.at_time(self._along_stop)
        self._motion = JointMotion(*(np.array(part) for part in state))
        self.stop = _stopping_motion(_samples(plan, self._along_stop))

    def _take(self, motion: JointMotion, plan: ruckig.Trajectory | None, samples: list) -> None:
        """Makes `motion` the commanded one, with its stop; None when it is at rest."""
        resting = plan is None or (
            np.abs(motion.velocities).max() < REST_VELOCITY
            and np.abs(motion.accelerations).max() < REST_ACCELERATION
        )
        self._motion = motion
        self._way_to_rest, self._along_stop = plan, 0.0
        self.stop = _stopping_motion([] if resting else samples)


def _depth(place: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """How far inside of a box a place lies [m]; negative outside."""
    return float(np.minimum(place - low, high - place).min())


def _samples(plan: ruckig.Trajectory, start: float = 0.0) -> list[tuple]:
    """Times after `start` [s], positions and velocities at STOP_SAMPLES points up to the end."""
    left = plan.duration - start
    if left <= 1e-9:
        return []
    samples = []
    for number in range(1, STOP_SAMPLES + 1):
        # Closer at the start, where the speed may still grow for a moment.
        time = left * (number / STOP_SAMPLES) ** 1.5
        positions, velocities, _ = plan.at_time(start + time)
        samples.append((time, np.array(positions), np.array(velocities)))
    return samples


def _stopping_motion(samples: list) -> StoppingMotion:
    if not samples:
        return StoppingMotion(np.zeros(0), np.zeros((0, 0)), np.zeros((0, 0)))
    times, positions, velocities = zip(*samples, strict=True)
    return StoppingMotion(np.array(times), np.array(positions), np.array(velocities))
