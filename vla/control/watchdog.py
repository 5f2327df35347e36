"""Detects that an input of the control loop has fallen silent. No ROS.

An input is silent when no message came for longer than its limit, or as soon as its process is
known to be gone (the middleware's liveliness, a heartbeat that stopped), which is sooner for the
slow streams of large models. All times are seconds of one steady clock, since a dead simulator
stops the ROS clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vla.control.session import HoldReason

# Independent signs that the process behind an input has died.
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
    """When each input was last heard. Not thread safe: one thread calls all methods."""

    def __init__(self, inputs: list[WatchedInput]):
        """inputs: each after those that it depends on."""
        self._inputs = {entry.name: entry for entry in inputs}
        self._heard_at = dict.fromkeys(self._inputs, -math.inf)
        # Lost signs of life, by input.
        self._lost: dict[str, set[str]] = {name: set() for name in self._inputs}
        self._refused: dict[str, str] = {}

    def heard(self, name: str, now: float) -> None:
        """A usable message of that input arrived."""
        self._heard_at[name] = now
        self._refused.pop(name, None)

    def refused(self, name: str, why: str) -> None:
        """A message of that input could not be used; it does not count as heard."""
        self._refused[name] = why

    def set_alive(self, name: str, alive: bool, sign: str = PUBLISHER) -> None:
        """A sign of life of the process behind the input appeared or went."""
        if alive:
            self._lost[name].discard(sign)
        else:
            self._lost[name].add(sign)

    def forget(self, name: str) -> None:
        """Starts over with that input; a dead process stays known."""
        self._heard_at[name] = -math.inf
        self._refused.pop(name, None)

    def age(self, name: str, now: float) -> float:
        """Time since the input's last message [s]; infinite before the first."""
        return now - self._heard_at[name]

    def fresh(self, name: str, now: float) -> bool:
        """True when the input's last message is within its limit."""
        return self.age(name, now) <= self._inputs[name].max_gap

    def first_silent(self, now: float) -> SilentInput | None:
        """The first silent or dead input, None when there is none."""
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
