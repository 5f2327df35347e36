"""Limits of the joints' motion, from all sources: the stricter of two wins."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np


class LimitsError(ValueError):
    """Limits that are missing or contradict each other; the text says which and what to do."""


@dataclass(frozen=True)
class JointLimits:
    """Limits of n joints, by name; NaN where a limit is not known."""

    names: tuple[str, ...]
    lower: np.ndarray  # [n], positions [rad]
    upper: np.ndarray  # [n], likewise
    velocity: np.ndarray  # [n], largest absolute value [rad/s], positive as the next two are
    acceleration: np.ndarray  # [n] [rad/s^2]
    jerk: np.ndarray  # [n] [rad/s^3]

    def require_complete(self) -> None:
        """Raises LimitsError naming each joint that lacks a limit or has an impossible one."""
        kinds = [field.name for field in fields(self) if field.name != "names"]
        for kind in kinds:
            values = np.asarray(getattr(self, kind), dtype=np.float64)
            if values.shape != (len(self.names),):
                raise LimitsError(
                    f"{kind} limits: {values.size} given for {len(self.names)} joints "
                    f"({', '.join(self.names)}); give one for each"
                )
        missing = [
            f"{name} ({kind})"
            for kind in kinds
            for name, value in zip(self.names, getattr(self, kind), strict=True)
            if not np.isfinite(value)
        ]
        if missing:
            raise LimitsError(
                f"no limit for {', '.join(missing)}: give it in the contract's joint_limits or in "
                "the robot's URDF; a joint without limits is not moved"
            )
        for index, name in enumerate(self.names):
            if self.lower[index] >= self.upper[index]:
                raise LimitsError(
                    f"joint {name}: lower limit {self.lower[index]:g} is not below upper limit "
                    f"{self.upper[index]:g}"
                )
            for kind in ("velocity", "acceleration", "jerk"):
                if getattr(self, kind)[index] <= 0:
                    raise LimitsError(f"joint {name}: the {kind} limit must be positive")

    def scaled(self, share: float) -> JointLimits:
        """The same limits with velocity, acceleration and jerk times `share`."""
        return replace(
            self,
            velocity=self.velocity * share,
            acceleration=self.acceleration * share,
            jerk=self.jerk * share,
        )


def stricter(first: JointLimits, second: JointLimits) -> JointLimits:
    """The stricter of two limits for each joint; where one is NaN, the other.

    Raises LimitsError when they are for other joints.
    """
    if set(first.names) != set(second.names):
        raise LimitsError(
            f"limits are for joints {', '.join(first.names)} and for {', '.join(second.names)}"
        )
    order = [second.names.index(name) for name in first.names]
    return JointLimits(
        first.names,
        np.fmax(first.lower, second.lower[order]),
        *(
            np.fmin(getattr(first, kind), getattr(second, kind)[order])
            for kind in ("upper", "velocity", "acceleration", "jerk")
        ),
    )
