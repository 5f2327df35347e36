"""Notices that an input of the control loop has fallen silent: free of ROS.

No message for longer than the input's limit counts, and so does each sign that the process behind
it is gone (the middleware's word, a heartbeat that stopped), which comes sooner for slow streams
such as those of large models. All times are seconds of one steady clock, since a dead simulator
stops the ROS clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vla.control.session import HoldReason

# What is seen when the process behind an input dies, independently of each other.
PUBLISHER, HEARTBEAT = "its publisher", "the heartbeat of its node"


@dataclass(frozen=True)
class WatchedInput:
    """An input that must not fall silent."""

    name: str
    # Longest time without a message [s]; infinite: only the death of the process counts.
    max_gap: float
    hold_reason: HoldReason  # of the hold that follows
    advice: str  # what the operator should check


@dataclass(frozen=True)
class SilentInput:
    """An input without which the arm must hold."""

    name: str
    hold_reason: HoldReason
    message: str  # what is missing, and what to do


class InputWatchdog:
    """Keeps when each input was last heard of. Not thread safe: one thread calls all methods."""

    def __init__(self, inputs: list[WatchedInput]):
        """inputs: in the order in which they depend on each other, the first cause first."""
        self._inputs = {entry.name: entry for entry in inputs}
        self._heard_at = dict.fromkeys(self._inputs, -math.inf)
        # Signs that are gone, by input.
        self._lost: dict[str, set[str]] = {name: set() for name in self._inputs}
        self._refused: dict[str, str] = {}

    def heard(self, name: str, now: float) -> None:
        """A usable message of that input came in."""
        self._heard_at[name] = now
        self._refused.pop(name, None)

    def refused(self, name: str, why: str) -> None:
        """A message of that input came in and could not be used; it does not count as heard."""
        self._refused[name] = why

    def set_alive(self, name: str, alive: bool, sign: str = PUBLISHER) -> None:
        """A sign of life of the process behind the input came or went."""
        if alive:
            self._lost[name].discard(sign)
        else:
            self._lost[name].add(sign)

    def forget(self, name: str) -> None:
        """Starts over with that input; that its process is gone, if it is, stays known."""
        self._heard_at[name] = -math.inf
        self._refused.pop(name, None)

    def age(self, name: str, now: float) -> float:
        """Time since the input's last message [s]; infinite before the first."""
        return now - self._heard_at[name]

    def fresh(self, name: str, now: float) -> bool:
        """True when the input's last message is within its limit."""
        return self.age(name, now) <= self._inputs[name].max_gap

    def first_silent(self, now: float) -> SilentInput | None:
        """The first input that is silent or gone, None when all are there."""
        for entry in self._inputs.values():
            age = self.age(entry.name, now)
            if lost := self._lost[entry.name]:
                said = f"{max(lost)} is gone"
            elif age <= entry.max_gap:
                continue
            elif math.isinf(age):
                said = "none has come"
            else:
                said = f"none for {age:.1f} s"
            advice = self._refused.get(entry.name, entry.advice)
            message = f"no {entry.name} ({said}): {advice}"
            return SilentInput(entry.name, entry.hold_reason, message)
        return None
