"""What a fault did to the commanded motion: excess over each limit, and the time to hold.

`make faults` collects the reports of all cases in output/faults.json.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vla.contract.joint_limits import JointLimits
from vla.control.safety import WALL_TOLERANCE, SafetyLimits

LONGEST_HOLD = 0.3
# Speeds below this count as standing still [rad/s].
STILL = 1e-4
# Most commands that a reader may miss one after the other and still tell the motion.
LONGEST_STEP = 100
# Most by which a command comes late on its way to a reader on a busy machine [s].
LATE = 0.1


@dataclass(frozen=True)
class Motion:
    """Commanded joints over time.

    steps [K - 1]: control periods between the commands, by which the motion went on.
    """

    times: np.ndarray  # [K] of the commands [s]
    positions: np.ndarray  # [K, n] [rad]
    velocities: np.ndarray  # [K, n] [rad/s]
    period: float  # [s]
    # [K] given by the publisher, where the commands came over DDS and some were lost.
    numbers: np.ndarray | None = None

    @property
    def steps(self) -> np.ndarray:
        """Periods between two commands, as their positions and speeds tell it."""
        way = np.diff(self.positions, axis=0)
        mean = (self.velocities[1:] + self.velocities[:-1]) / 2
        along = (way * mean).sum(axis=1)
        speed = (mean**2).sum(axis=1) * self.period
        steps = np.where(speed > 1e-9, along / np.maximum(speed, 1e-9), 1.0)
        return np.clip(np.rint(steps), 1, LONGEST_STEP)


def excess_of(
    motion: Motion, joints: JointLimits, limits: SafetyLimits, kinematics
) -> dict[str, float]:
    """By how much each limit was passed at worst, 0 where it was kept; SI units.

    Of commands that came over DDS only those that follow each other, by their numbers and by how
    far they are apart, tell accelerations and jerks.
    """
    if len(motion.times) < 3:
        return {}
    seconds = motion.steps[:, None] * motion.period
    acceleration = np.diff(motion.velocities, axis=0) / seconds
    jerk = np.diff(acceleration, axis=0) / ((seconds[1:] + seconds[:-1]) / 2)
    if motion.numbers is not None:
        mean = (motion.velocities[1:] + motion.velocities[:-1]) / 2
        wide = np.abs(np.diff(motion.positions, axis=0) - mean * motion.period).max(axis=1)
        # What an even jerk bends the way of one period by, at most.
        bent = float(joints.jerk.max()) * motion.period**3 / 12
        plain = (wide < 1.05 * bent + 1e-6) & (np.diff(motion.numbers) == 1)
        # A cycle that came late went on by more than one period.
        plain &= np.diff(motion.times) < 1.5 * motion.period
        acceleration = acceleration[plain]
        jerk = jerk[plain[1:] & plain[:-1]]
        if len(acceleration) == 0 or len(jerk) == 0:
            acceleration = jerk = np.zeros((1, motion.positions.shape[1]))
    tools = [kinematics.tool_velocity(p, v) for p, v in zip(motion.positions, motion.velocities,
                                                            strict=True)]  # fmt: skip
    place = np.array([position for position, _ in tools])
    twist = np.array([velocity for _, velocity in tools])
    low, high = np.array(limits.workspace_min), np.array(limits.workspace_max)
    beyond = np.maximum(place - high, low - place).max() - WALL_TOLERANCE
    depth = max(
        (
            np.minimum(place - np.array(box[:3]), np.array(box[3:]) - place).min(axis=1).max()
            for box in limits.keep_out
        ),
        default=0.0,
    )
    values = {
        "joint_position": np.maximum(
            motion.positions - joints.upper, joints.lower - motion.positions
        ).max(),
        "joint_velocity": (np.abs(motion.velocities) - joints.velocity).max(),
        "joint_acceleration": (np.abs(acceleration) - joints.acceleration).max(),
        "joint_jerk": (np.abs(jerk) - joints.jerk).max(),
        "joint_step": _longest_jump(motion, joints),
        "tool_speed": np.linalg.norm(twist[:, :3], axis=1).max() - limits.max_linear_speed,
        "tool_turning_speed": np.linalg.norm(twist[:, 3:], axis=1).max() - limits.max_angular_speed,
        "workspace": beyond,
        "keep_out": depth,
    }
    # Messages and differences of differences round: a millionth of a limit is no excess.
    return {name: float(value) if value > 1e-4 else 0.0 for name, value in values.items()}


def _longest_jump(motion: Motion, joints: JointLimits) -> float:
    """By how much a joint was commanded further than it can go in the time between two commands."""
    seconds = np.maximum(np.diff(motion.times), motion.period) + LATE
    way = np.abs(np.diff(motion.positions, axis=0))
    return float((way - joints.velocity * seconds[:, None]).max())


def time_to_hold(motion: Motion, since: float) -> float:
    """From `since` [s] until the commanded arm stands still for good [s]; infinite if it never."""
    moving = np.abs(motion.velocities).max(axis=1) > STILL
    after = motion.times >= since
    if moving[-1]:
        return float("inf")
    last = np.flatnonzero(moving & after)
    return float(motion.times[last[-1] + 1] - since) if len(last) else 0.0


@dataclass(frozen=True)
class FaultReport:
    """One case. hold_seconds: None where the arm need not hold. since: what the time counts from.

    state: what the status said then.
    """

    case: str
    over: dict[str, float]
    hold_seconds: float | None
    since: str
    state: str


def record(report: FaultReport) -> None:
    """Adds a case to the file that `make faults` names."""
    target = os.environ.get("VLA_FAULTS")
    if target:
        with Path(target).open("a") as stream:
            stream.write(json.dumps(asdict(report)) + "\n")


def judge(report: FaultReport) -> None:
    """Records a case, and fails when it passed a limit or did not hold in time."""
    record(report)
    passed = {name: value for name, value in report.over.items() if value > 0.0}
    assert not passed, f"{report.case}: limits passed by {passed}"
    if report.hold_seconds is not None:
        assert report.hold_seconds <= LONGEST_HOLD, (
            f"{report.case}: held after {report.hold_seconds:.3f} s"
        )
