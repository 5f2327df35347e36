"""When to send which gripper action, and what to make of its outcome. No ROS.

A policy says "open" or "closed" in each step; a gripper takes actions that last. At most one action
is under way, none is sent again while it runs or after it has succeeded, and a change of mind first
stops the one under way, since drivers such as Franka's accept a second goal without ending the
first. All times are seconds of one steady clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class Order(Enum):
    """What the driver of a gripper is to do now."""

    NOTHING = "nothing"
    OPEN = "open"
    CLOSE = "close"
    STOP = "stop"


@dataclass(frozen=True)
class GripperConfig:
    """How a gripper is driven.

    open_width: between the fingers when open [m]. close_below, open_above: shares of open_width
    below which it is to close and above which it is to open; between them it stays as it is.
    timeout: longest time for one action [s]. stop_timeout: for the end of one that was stopped [s].
    least_interval: between the starts of two actions [s]. retries: of an action that failed, before
    a person has to look; they begin anew with the next change of mind.
    """

    open_width: float
    close_below: float = 0.4
    open_above: float = 0.6
    timeout: float = 5.0
    stop_timeout: float = 1.0
    least_interval: float = 0.3
    retries: int = 2


class GripperState:
    """Wanted openings and outcomes in, orders and problems out. One thread calls all methods."""

    def __init__(self, config: GripperConfig):
        self.config = config
        self.problem = ""
        self._wanted: Order | None = None
        self._done: Order | None = None
        self._running: Order | None = None
        self._stopping = False
        self._started_at = -math.inf
        self._stopped_at = -math.inf
        self._failures = 0

    @property
    def running(self) -> Order | None:
        """The action under way; None without one."""
        return self._running

    def want(self, width: float, now: float) -> Order:
        """The wanted opening [m], in each cycle; what to do about it.

        OPEN, CLOSE and STOP count as done by the caller: their outcome is told by ended().
        """
        self._decide(width)
        if self._running is not None:
            return self._watch(now)
        due = self._wanted not in (None, self._done)
        waited = now - self._started_at >= self.config.least_interval
        if not due or not waited or self._failures > self.config.retries:
            return Order.NOTHING
        self._running, self._started_at, self._stopping = self._wanted, now, False
        return self._running

    def _decide(self, width: float) -> None:
        if not math.isfinite(width):
            return
        share = width / self.config.open_width
        decided = self._wanted
        if share < self.config.close_below:
            decided = Order.CLOSE
        elif share > self.config.open_above:
            decided = Order.OPEN
        if decided != self._wanted:
            self._wanted, self._failures, self.problem = decided, 0, ""

    def _watch(self, now: float) -> Order:
        """Stops an action that is not wanted any more, and gives up one that does not end."""
        if self._stopping:
            if now - self._stopped_at > self.config.stop_timeout:
                self._fail("the gripper does not stop: is its driver running?")
            return Order.NOTHING
        late = now - self._started_at > self.config.timeout
        if late:
            self._failures += 1
            self.problem = (
                f"the gripper has not finished to {self._running.value} within "
                f"{self.config.timeout:g} s: is it stuck, or its driver gone?"
            )
        if late or self._wanted != self._running:
            self._stopping, self._stopped_at = True, now
            return Order.STOP
        return Order.NOTHING

    def ended(self, success: bool, message: str = "") -> None:
        """The action under way is over. message: why, where it failed."""
        if self._running is None:
            return
        if success and not self._stopping:
            self._done, self._running = self._running, None
            self._failures, self.problem = 0, ""
        elif self._stopping:
            # Somewhere on the way: whatever is wanted next has to be sent.
            self._running = self._done = None
        else:
            self._fail(f"the gripper did not {self._running.value}: {message}")

    def lost(self, message: str) -> None:
        """The driver is gone, and with it whatever was under way."""
        self._running = self._done = None
        self.problem = message

    def found(self) -> None:
        """The driver is there again."""
        self.problem, self._failures = "", 0

    def _fail(self, problem: str) -> None:
        self._failures += 1
        self._running = self._done = None
        self.problem = problem
