"""Dimensions of states and actions: what each number is, and how it is normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vla.contract.normalization import ABSOLUTE, ANGLE, BINARY, RELATIVE, RELATIVE_ANGLE
from vla.core.shown import brief

Kind = Literal[
    "position",  # a place
    "angle",  # one that wraps at half a turn
    "position_delta",  # motion from one step to the next
    "rotation_delta",  # the same of an orientation: part of a rotation vector, or an Euler angle
    "joint_position",
    "joint_velocity",
    "gripper",  # of a state its opening, of an action 1 open and 0 closed
    "other",
]
# SI units that a kind may have, the usual one first; those not named here may have any.
UNITS = {
    "position": ("m",),
    "angle": ("rad",),
    "position_delta": ("m",),
    "rotation_delta": ("rad",),
    "joint_position": ("rad", "m"),
    "joint_velocity": ("rad/s", "m/s"),
}
# Kinds of actions that ask for motion, so that zero is none.
MOTION_KINDS = ("position_delta", "rotation_delta", "joint_velocity")
LONGEST_UNIT = 20

# States of a tool with a gripper: one without an angle that wraps, then those of Bridge, Fractal
# and DROID.
STATE_NAMES = ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32", "gripper_width")
STATE_LAYOUTS = (
    STATE_NAMES,
    ("x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper_open"),
    ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper_closed"),
    ("x", "y", "z", "roll", "pitch", "yaw", "gripper_open"),
)
ACTION_NAMES = ("x", "y", "z", "rx", "ry", "rz", "gripper")


@dataclass(frozen=True)
class Dimension:
    """One number of a state or an action. Raises ValueError for a unit that its kind can't have."""

    name: str
    kind: Kind = "other"
    unit: str = ""  # by default the usual one of the kind

    def __post_init__(self) -> None:
        allowed = UNITS.get(self.kind, ())
        if not self.unit and allowed:
            object.__setattr__(self, "unit", allowed[0])
        elif allowed and self.unit not in allowed:
            raise ValueError(
                f"{brief(self.name)} is a {self.kind} in {brief(self.unit)}; it must be in "
                f"{' or '.join(allowed)}"
            )
        elif len(self.unit) > LONGEST_UNIT or not self.unit.isprintable():
            raise ValueError(
                f"the unit of {brief(self.name)} must be a word of at most {LONGEST_UNIT} "
                f"characters, got {brief(self.unit)}"
            )


_STATE_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("x", "y", "z"), "position"),
    **dict.fromkeys(("roll", "pitch", "yaw"), "angle"),
    **dict.fromkeys(("gripper_width", "gripper_open", "gripper_closed"), "gripper"),
}
_ACTION_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("x", "y", "z"), "position_delta"),
    **dict.fromkeys(("rx", "ry", "rz"), "rotation_delta"),
    "gripper": "gripper",
}


def named_states(names: tuple[str, ...]) -> tuple[Dimension, ...]:
    """The dimensions of a state that is given by names alone."""
    return tuple(Dimension(name, _STATE_KINDS.get(name, "other")) for name in names)


def named_actions(names: tuple[str, ...]) -> tuple[Dimension, ...]:
    """The dimensions of an action that is given by names alone."""
    return tuple(Dimension(name, _ACTION_KINDS.get(name, "other")) for name in names)


def normalized_as(kind: Kind, action: bool, euler: bool) -> str:
    """How a dimension is normalised: see vla.contract.normalization.

    euler: rotation deltas are differences of Euler angles. These wrap; a rotation vector from one
    step to the next never comes near half a turn.
    """
    if kind == "rotation_delta":
        return RELATIVE_ANGLE if euler else RELATIVE
    kinds = {"position_delta": RELATIVE, "angle": ANGLE}
    if action:
        kinds["gripper"] = BINARY
    return kinds.get(kind, ABSOLUTE)
