"""Faults that a bag's messages show by themselves: stamps, units, names, two sources.

One object per bag gets all its messages. Each method raises DatasetError that names topic and time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.contract.state_checks import (
    MOST_NAMES,
    Fault,
    joints_fault,
    missing_joints,
    opening_fault,
    place_fault,
    renamed_joints,
)
from vla.datasets.frames import DatasetError
from vla.observations.messages import NANOSECONDS

# Fingers that move by more than WAY [m] and back within BRISK [s] this often have two sources.
WAY, BRISK, REVERSALS = 0.01, 0.1, 3
# Time for the fingers to obey a command [s], and the shares that then count as open and closed.
OBEYED, MOSTLY_OPEN, MOSTLY_CLOSED = 1.0, 0.75, 0.25
# Fingers that obey less often than this, relative to doing the opposite, are reversed.
TURNED_SHARE = 0.1
# A tool that moves this far [m] faster than any arm [m/s] was relocated.
LEAP, LEAP_SPEED = 0.1, 10.0


@dataclass
class _Fingers:
    """The last message, the last quick motion, and how often it reversed."""

    stamp: int
    width: float
    change: float = 0.0
    reversals: int = 0


class StreamChecks:
    """Checks the messages of one bag, topic by topic, in the order of their arrival."""

    def __init__(self, contract: EmbodimentContract):
        self._contract = contract
        self._first: dict[str, int] = {}
        self._unstamped: set[str] = set()
        self._sizes: dict[str, tuple[int, int]] = {}
        self._names: dict[str, None] = {}
        self._fingers: _Fingers | None = None
        self._place: tuple[int, np.ndarray] | None = None
        # The newest command to the fingers: since when [ns], and the share of the open width.
        self._told: tuple[int, float] | None = None
        # Counts of commanded and actual ends of the stroke.
        self._seen: Counter[tuple[str, str]] = Counter()

    def stamp(self, topic: str, stamp: int) -> None:
        """Refuses stamps [ns] that were never set, except a simulation's first."""
        if stamp == 0 and topic in self._unstamped:
            raise DatasetError(
                f"'{topic}' has zero stamps: its driver must stamp with the time of the measurement"
            )
        if stamp == 0:
            self._unstamped.add(topic)
        self._first.setdefault(topic, stamp)

    def joints(self, topic: str, stamp: int, message: Any) -> None:
        """Checks joint states: their form, and the arm's angles if present."""
        if len(self._names) < MOST_NAMES:
            self._names |= dict.fromkeys(message.name)
        positions = dict(zip(message.name, message.position, strict=False))
        self._require(joints_fault(self._contract, positions), topic, stamp)

    def command(self, received: int, opening: float) -> None:
        """Notes the opening [m] commanded at a receive time [ns]."""
        share = opening / self._contract.gripper_open_width
        if self._told is None or _end(share) != _end(self._told[1]):
            self._told = received, share

    def opening(self, topic: str, stamp: int, width: float, received: int) -> None:
        """Checks the fingers' opening [m]: of the contract's gripper, and from one source.

        received: of the message [ns].
        """
        self._require(opening_fault(width, self._contract), topic, stamp)
        if self._told is not None and received - self._told[0] > OBEYED * NANOSECONDS:
            share = width / self._contract.gripper_open_width
            self._seen[_end(self._told[1]), _end(share)] += 1
        before, self._fingers = self._fingers, _Fingers(stamp, width)
        if before is None:
            return
        change = width - before.width
        brisk = abs(stamp - before.stamp) < BRISK * NANOSECONDS
        if not brisk:
            return
        self._fingers.change, self._fingers.reversals = before.change, before.reversals
        if abs(change) < WAY:
            return
        self._fingers.change = change
        self._fingers.reversals += change * before.change < 0
        if self._fingers.reversals >= REVERSALS:
            self._fail(
                topic,
                stamp,
                f"the fingers go by {abs(change):.3f} m and back again and again: two nodes "
                "publish them here; stop one, or name the right topic in the contract",
            )

    def place(self, topic: str, stamp: int, position: np.ndarray) -> None:
        """Checks the tool's position [3] in the base frame [m]."""
        self._require(place_fault(position), topic, stamp)
        if self._place is not None:
            way = float(np.linalg.norm(position - self._place[1]))
            time = abs(stamp - self._place[0]) / NANOSECONDS
            if way > LEAP and way > LEAP_SPEED * time:
                self._fail(
                    topic,
                    stamp,
                    f"the tool leaps by {way:.2f} m in {time:.3f} s: two nodes publish it here, or "
                    "the simulation was reset while recording; record without that",
                )
        self._place = stamp, position

    def size(self, topic: str, stamp: int, pixels: np.ndarray) -> None:
        """Checks that the size of a camera's images stays the same."""
        size = pixels.shape[1], pixels.shape[0]
        before = self._sizes.setdefault(topic, size)
        if size != before:
            self._fail(
                topic,
                stamp,
                f"images change from {before[0]} x {before[1]} to {size[0]} x {size[1]} pixels: "
                "record with one resolution",
            )

    def finish(self, topic: str) -> None:
        """After all messages: an arm of other names, fingers that did the opposite of commands.

        A bag need not have the arm's joints; those of other names show that the contract is wrong.
        """
        arm = self._contract.joint_names
        fault = renamed_joints(arm, list(self._names))
        if fault and self._names.keys().isdisjoint(arm):
            raise DatasetError(f"'{topic}': {fault}")
        seen = self._seen
        turned = seen["open", "closed"], seen["closed", "open"]
        obeyed = seen["open", "open"] + seen["closed", "closed"]
        if min(turned) > 0 and obeyed < TURNED_SHARE * sum(turned):
            raise DatasetError(
                f"'{topic}': the fingers are closed where they were told to open, and open where "
                "they were told to close: their joint is turned round; let its driver say 0 for "
                "closed"
            )

    def no_fingers(self, topic: str) -> DatasetError:
        """Why a topic has no message with the contract's fingers."""
        contract = self._contract
        fault = missing_joints(contract.joint_names + contract.finger_joint_names, self._names)
        fault = missing_joints(contract.finger_joint_names, self._names) or fault
        return DatasetError(f"'{topic}': {fault}" if fault else f"no message on '{topic}'")

    def _require(self, fault: Fault | None, topic: str, stamp: int) -> None:
        if fault is not None:
            self._fail(topic, stamp, str(fault))

    def _fail(self, topic: str, stamp: int, text: str) -> None:
        seconds = (stamp - self._first.get(topic, stamp)) / NANOSECONDS
        raise DatasetError(f"'{topic}', second {seconds:.2f}: {text}")


def _end(share: float) -> str:
    """Which end of the stroke a share of the open width is at; "" between."""
    return "open" if share >= MOSTLY_OPEN else "closed" if share <= MOSTLY_CLOSED else ""
