"""Measured joints: read from messages by name, and judged before anything relies on them.

A second driver, a replayed bag or a faulty encoder reports joints that the arm does not have, and a
command that started from there would throw it. So joints that jump, or are out of range, are in
doubt: they are not used until they have been in range, without a jump and at rest for STEADY_TIME,
which true and false messages in turn never are. No ROS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vla.contract.joint_limits import JointLimits
from vla.contract.state_checks import ANGLE_TOLERANCE, missing_joints, renamed_joints

# How far a joint may be ahead of SPEED_MARGIN times its top speed [rad], since messages arrive in
# bursts. It must be slower afterwards, so that alternating positions do not pass as slow motion.
JUMP = 0.15
SPEED_MARGIN = 1.5
# Joints are at rest when they stay within STILL [rad] for STEADY_TIME [s].
STEADY_TIME = 0.5
STILL = 0.02


def unwrapped(joints: np.ndarray, near: np.ndarray, continuous: np.ndarray) -> np.ndarray:
    """The same angles [n] with continuous joints within half a turn of `near` [n].

    Drivers report a continuous joint in -pi..pi, or count its turns. continuous [n]: True for such.
    """
    turns = np.where(continuous, np.round((near - joints) / (2 * np.pi)), 0.0)
    return joints + 2 * np.pi * turns


def named_positions(
    wanted: Sequence[str], names: Sequence[str], positions: Sequence[float]
) -> np.ndarray:
    """Positions [len(wanted)] of these joints in joint states that have them in any order.

    Raises ValueError when one is missing, named twice or not finite.
    """
    if len(positions) != len(names):
        raise ValueError(f"joint states have {len(names)} names and {len(positions)} positions")
    by_name = dict(zip(names, positions, strict=True))
    if not by_name.keys() >= set(wanted):
        raise ValueError(str(missing_joints(wanted, names)))
    twice = [name for name in wanted if list(names).count(name) > 1]
    if len(by_name) < len(names) and twice:
        raise ValueError(f"joint states name {', '.join(twice)} twice: correct their publisher")
    values = np.array([by_name[name] for name in wanted], dtype=np.float64)
    if bad := [name for name in wanted if not math.isfinite(by_name[name])]:
        raise ValueError(f"joint states give no finite position for {', '.join(bad)}")
    return values


class MeasuredJoints:
    """The arm's joints as its driver reports them. Times are seconds of one steady clock."""

    def __init__(
        self, names: Sequence[str], limits: JointLimits, continuous: np.ndarray, max_gap: float
    ):
        """names: of the n joints in messages. limits: their range and velocity count.

        continuous [n]: joints without end stops. max_gap: a longer silence ends steadiness [s].
        """
        self._names = tuple(names)
        self._limits, self._continuous, self._max_gap = limits, continuous, max_gap
        self._lowest = limits.lower - ANGLE_TOLERANCE
        self._highest = limits.upper + ANGLE_TOLERANCE
        self._fastest = SPEED_MARGIN * limits.velocity
        self.positions: np.ndarray | None = None
        self.doubt = ""
        # The last in range, trusted or not, and how far they are ahead of their top speed.
        self._last: np.ndarray | None = None
        self._excess = np.zeros(len(self._names))
        self._heard_at = -math.inf
        # Rest position, and since when.
        self._rest: np.ndarray | None = None
        self._rest_since = math.inf

    @property
    def steady(self) -> bool:
        """True when the joints have been in range, without a jump and at rest for STEADY_TIME."""
        return self._heard_at - self._rest_since >= STEADY_TIME - 1e-9

    def forget_rest(self) -> None:
        """Rest must be observed again."""
        self._rest, self._rest_since = None, math.inf

    def read(self, names: Sequence[str], positions: Sequence[float]) -> np.ndarray | None:
        """The joints [n] of a message, in our order; None when it has other joints only.

        Raises ValueError when some are missing, named twice, or not finite.
        """
        if len(names) > 0 and set(self._names).isdisjoint(names):
            # Of other joints, unless these are the arm's under another name.
            if self._last is None and (fault := renamed_joints(self._names, names)):
                raise ValueError(str(fault))
            return None
        return named_positions(self._names, names, positions)

    def take(self, values: np.ndarray, now: float) -> str:
        """Takes the joints [n] of a message; returns why they cannot be true, "" when they may.

        Without doubt they become `positions`; in doubt these stay.
        """
        why = self._why_out_of_range(values)
        if why:
            self.forget_rest()
        else:
            why = self._why_jump(values, now)
            self._note_rest(values, now, bool(why))
            self._last = values
        self._heard_at = now
        if why:
            self.doubt = why
        elif self.doubt and self.steady:
            self.doubt = ""
        if not self.doubt:
            self.positions = values
        return why

    def _why_out_of_range(self, values: np.ndarray) -> str:
        outside = (values < self._lowest) | (values > self._highest)
        if not outside.any():
            return ""
        joint = int(np.argmax(outside))
        limits = self._limits
        return (
            f"joint {self._names[joint]} is reported at {values[joint]:.4g}, outside of its range "
            f"{limits.lower[joint]:.4g} to {limits.upper[joint]:.4g}: is its driver sound, does a "
            "second one publish joint states, or is a bag being replayed?"
        )

    def _why_jump(self, values: np.ndarray, now: float) -> str:
        if self._last is None:
            return ""
        age = now - self._heard_at
        way = np.abs(unwrapped(values, self._last, self._continuous) - self._last)
        excess = self._excess + way - self._fastest * age
        self._excess = np.maximum(excess, 0.0)
        if (excess <= JUMP).all():
            return ""
        joint = int(np.argmax(excess))
        self._excess[:] = 0.0
        return (
            f"joint {self._names[joint]} is reported at {values[joint]:.4g}, {age:.3f} s "
            f"after {self._last[joint]:.4g}, which is faster than it can move: does a second "
            "driver publish joint states, or is a bag being replayed?"
        )

    def _note_rest(self, values: np.ndarray, now: float, jumped: bool) -> None:
        silent = now - self._heard_at > self._max_gap
        if self._rest is not None and not jumped and not silent:
            away = np.abs(unwrapped(values, self._rest, self._continuous) - self._rest)
            if (away <= STILL).all():
                return
        self._rest, self._rest_since = values, now
