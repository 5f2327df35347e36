"""Smooth joint motion towards a moving target: no jump of position, velocity or acceleration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vla.contract.joint_limits import JointLimits

# Longest integration step [s]: below it the law is stable and close to its continuous form.
LONGEST_STEP = 0.005
# Share of the limits that the law uses; the rest is for stops.
USED_SHARE = 0.95


@dataclass(frozen=True)
class JointMotion:
    """Where the commanded joints are and how they move."""

    positions: np.ndarray  # [n] [rad]
    velocities: np.ndarray  # [n] [rad/s]
    accelerations: np.ndarray  # [n] [rad/s^2]

    @property
    def at_rest(self) -> bool:
        """True when nothing moves."""
        return not (self.velocities.any() or self.accelerations.any())


def at_rest(positions: np.ndarray) -> JointMotion:
    """Standing still at `positions` [n]."""
    zero = np.zeros(len(positions))
    return JointMotion(np.array(positions, dtype=np.float64), zero, zero)


class JointTracker:
    """Follows target joints by a critically damped third-order law with saturated inner loops.

    Position error asks for a velocity, velocity error for an acceleration, acceleration error for a
    jerk, each clipped to the limits. Unsaturated, the three poles lie at `bandwidth` [rad/s], and a
    target of constant speed is followed 3 / bandwidth seconds later.
    """

    def __init__(self, limits: JointLimits, bandwidth: float):
        self.bandwidth = bandwidth
        self._velocity = USED_SHARE * limits.velocity
        self._acceleration = USED_SHARE * limits.acceleration
        self._jerk = USED_SHARE * limits.jerk

    @property
    def lag(self) -> float:
        """How far behind a target of constant speed the motion is [s]."""
        return 3.0 / self.bandwidth

    def step(
        self, motion: JointMotion, target: np.ndarray, duration: float
    ) -> tuple[JointMotion, set[str]]:
        """The motion `duration` [s] later, and the names of the limits that changed it.

        target [n] in radians. Names: "joint_velocity", "joint_acceleration", "joint_jerk".
        """
        position, velocity, acceleration = (
            motion.positions,
            motion.velocities,
            motion.accelerations,
        )
        count = max(1, math.ceil(duration / LONGEST_STEP - 1e-6))
        dt = duration / count
        rate = self.bandwidth
        held_back: set[str] = set()
        for _ in range(count):
            error = target - position
            wanted_velocity = error * (rate / 3.0)
            # No faster than it can still slow down in the remaining distance.
            fastest = np.sqrt(self._acceleration * np.abs(error))
            fastest = np.minimum(fastest, self._velocity)
            limited_velocity = np.clip(wanted_velocity, -fastest, fastest)
            error = limited_velocity - velocity
            wanted = error * rate
            strongest = np.sqrt(self._jerk * np.abs(error))
            strongest = np.minimum(strongest, self._acceleration)
            limited = np.clip(wanted, -strongest, strongest)
            # Room for bringing the acceleration to zero before the velocity reaches its limit.
            room = np.sqrt(2.0 * self._jerk * np.maximum(self._velocity - np.abs(velocity), 0.0))
            limited = np.where(velocity * limited > 0, np.clip(limited, -room, room), limited)
            wanted_jerk = (limited - acceleration) * np.minimum(3.0 * rate, 1.0 / dt)
            jerk = np.clip(wanted_jerk, -self._jerk, self._jerk)
            if (wanted_velocity != limited_velocity).any():
                held_back.add("joint_velocity")
            if (wanted != limited).any():
                held_back.add("joint_acceleration")
            if (wanted_jerk != jerk).any():
                held_back.add("joint_jerk")
            position = position + dt * (velocity + dt * (acceleration / 2.0 + dt * jerk / 6.0))
            velocity = velocity + dt * (acceleration + dt * jerk / 2.0)
            acceleration = acceleration + dt * jerk
        return JointMotion(position, velocity, acceleration), held_back
