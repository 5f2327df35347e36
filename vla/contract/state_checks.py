"""Faults that a robot's state shows by itself: names of joints, units, openings. No ROS.

`vla preflight`, the live nodes and the conversion of bags share these checks and their words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.core.shown import first_few
from vla.core.text import one_line

# Tolerance of the fingers' positions [m].
WIDTH_TOLERANCE = 0.005
# No gripper opens wider than this [m]: beyond are millimetres, percent or ticks.
WIDEST_GRIPPER = 2.0
# No joint turns further than this [rad]; continuous joints are kept to two turns, too.
LARGEST_ANGLE = 4.0 * math.pi
# How far outside of its range a joint may be measured [rad]: encoders and zeros are never exact.
ANGLE_TOLERANCE = 0.1
# No tool is further from its arm's base [m].
FARTHEST_TOOL = 10.0
FINGER = "finger"
# Joint names that are kept, and the length of those compared, when a missing joint is searched
# under another name.
MOST_NAMES, LONGEST_NAME = 200, 200
# Joint names that are shown, and characters of each.
SHOWN, SHOWN_NAME = 12, 80


@dataclass(frozen=True)
class Fault:
    """What is wrong, and what to do about it."""

    message: str
    cure: str

    def __str__(self) -> str:
        return f"{self.message}: {self.cure}"


def missing_joints(wanted: Sequence[str], names: Iterable[str]) -> Fault | None:
    """The joints that joint states lack, or have under another prefix or suffix.

    wanted: the contract's names, of the arm, the fingers or both. names: those of the joint states.
    """
    names = list(dict.fromkeys(names))
    missing = [name for name in wanted if name not in names]
    if not missing:
        return None
    have = first_few(names, SHOWN, SHOWN_NAME) or "none"
    return renamed_joints(wanted, names) or Fault(
        f"the joint states lack {first_few(missing, SHOWN, SHOWN_NAME)}; they have {have}",
        "correct joint_names and finger_joint_names of the contract, or start the missing driver "
        "(the gripper's, most often)",
    )


def renamed_joints(wanted: Sequence[str], names: Sequence[str]) -> Fault | None:
    """Both names, where joint states have the missing joints under another prefix or suffix."""
    missing = [name for name in wanted if name not in names]
    others = [n for n in names[:MOST_NAMES] if len(n) <= LONGEST_NAME and n not in wanted]
    renamings = _renamings(missing, others) if missing else []
    if not renamings:
        return None
    first = missing[0]
    called = " or ".join(one_line(rename(first), SHOWN_NAME) for rename in renamings[:3])
    more = f", and {len(missing) - 1} more likewise" if len(missing) > 1 else ""
    return Fault(
        f"the joint states call it {called}, the contract {one_line(first, SHOWN_NAME)}{more}",
        "change joint_names and finger_joint_names in the contract to the driver's names, or set "
        "the prefix in the driver's description to the contract's",
    )


@dataclass(frozen=True)
class _Renaming:
    """Replaces one end of a name."""

    old: str
    new: str
    at_end: bool

    def __call__(self, name: str) -> str:
        if self.at_end:
            return name.removesuffix(self.old) + self.new
        return self.new + name.removeprefix(self.old)

    def fits(self, missing: Sequence[str], others: set[str]) -> bool:
        cut = str.endswith if self.at_end else str.startswith
        renamed = [self(name) for name in missing if cut(name, self.old)]
        return len(renamed) == len(missing) and others.issuperset(renamed)


def _renamings(missing: Sequence[str], others: Sequence[str]) -> list[_Renaming]:
    """Changes of prefix or suffix that turn every missing name into one of the others.

    Those that keep most of the name; several where a robot has two arms.
    """
    first, there = missing[0], set(others)
    # The common part must be telling: half of a name, or a word where several names change alike.
    least = max(3, len(first) // 2) if len(missing) == 1 else 3
    found: dict[_Renaming, int] = {}
    for name in others:
        for at_end in (False, True):
            kept = _common(first, name, from_end=not at_end)
            if kept < least:
                continue
            old, new = (first[kept:], name[kept:]) if at_end else (first[:-kept], name[:-kept])
            renaming = _Renaming(old, new, at_end)
            # joint_2 is not joint_1 under another name.
            if old.isdigit() and new.isdigit():
                continue
            # A finger is no joint of the arm under another name.
            if (FINGER in old) == (FINGER in new) and renaming.fits(missing, there):
                found[renaming] = kept
    most = max(found.values(), default=0)
    return [renaming for renaming, kept in found.items() if kept == most]


def _common(one: str, other: str, from_end: bool) -> int:
    """Length of the common beginning, or end, of two names."""
    if from_end:
        one, other = one[::-1], other[::-1]
    for length, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return length
    return min(len(one), len(other))


def opening_fault(width: float, contract: EmbodimentContract) -> Fault | None:
    """The fault where the fingers' positions add up to no opening of the gripper: width [m]."""
    most = contract.gripper_open_width
    if -WIDTH_TOLERANCE <= width <= most + WIDTH_TOLERANCE:
        return None
    message = f"the fingers are {width:.3f} m apart; open is {most:g}"
    fingers = contract.finger_joint_names
    if width > WIDEST_GRIPPER:
        hint = "this looks like millimetres, percent or ticks; "
    elif len(fingers) > 1 and abs(width / len(fingers) - most) <= WIDTH_TOLERANCE:
        hint = f"each finger may say the whole opening: name {fingers[0]} alone, or halve them; "
    elif width > 0:
        hint = "this may be the angle of a joint: let a node publish the opening (docs/robots.md); "
    else:
        hint = "the sign may be turned round; "
    return Fault(
        message,
        f"{hint}check the gripper's joints and sign: their sum must be the opening in metres, "
        "0 closed",
    )


def joints_fault(contract: EmbodimentContract, positions: Mapping[str, float]) -> Fault | None:
    """The fault where arm joints are not finite, not in radians, or out of range.

    positions: by name; missing joints are ignored.
    """
    known = {name: positions[name] for name in contract.joint_names if name in positions}
    if bad := [name for name, value in known.items() if not math.isfinite(value)]:
        return Fault(f"no finite position of {', '.join(bad)}", "restart the robot's driver")
    if beyond := [name for name, value in known.items() if abs(value) > LARGEST_ANGLE]:
        name = beyond[0]
        return Fault(
            f"{name} is at {known[name]:.1f}, which is more than two turns in radians",
            "if the driver publishes degrees, set it to radians; if the joint has really turned "
            "so far, unwind it",
        )
    limits = contract.joint_limits
    if limits is None:
        return None
    for row, name in enumerate(limits.names):
        low, high, value = limits.lower[row], limits.upper[row], known.get(name)
        # Limits that the contract leaves to the robot's description are not finite.
        if value is not None and (value < low - ANGLE_TOLERANCE or value > high + ANGLE_TOLERANCE):
            return Fault(
                f"{name} is at {value:.3f} rad, outside of {low:.3f} to {high:.3f}",
                "check the joint's unit, sign and zero, or correct joint_limits of the contract",
            )
    return None


def place_fault(position: np.ndarray) -> Fault | None:
    """The fault where the tool's position [3] in the base frame [m] is beyond any arm."""
    away = float(np.linalg.norm(position))
    if away <= FARTHEST_TOOL:
        return None
    return Fault(
        f"the tool is {away:.0f} m from the base, at {np.round(position, 1).tolist()}",
        "if the driver publishes millimetres, set it to metres; else check that the pose is in "
        "the base frame of the contract",
    )
