"""When to send which gripper action, and how to judge its outcome. No ROS.

A policy says "open" or "closed" in each step; a gripper's actions last. At most one action runs:
none is sent again while it runs or after it has succeeded, and a change of mind first stops the
running one and waits for its end, since drivers such as Franka's accept a second goal without
ending the first. An action that fails is retried a few times; then the operator must look, and the
retries start over after a pause without commands (the policy stopped and resumed). All times are
seconds of one steady clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class Order(Enum):
    """What the driver of a gripper should do now."""

    NOTHING = "nothing"
    HOME = "home"
    OPEN = "open"
    CLOSE = "close"
    STOP = "stop"


DOING = {Order.HOME: "homing", Order.OPEN: "opening", Order.CLOSE: "closing"}


@dataclass(frozen=True)
class GripperConfig:
    """How a gripper is driven; raises ValueError for values that contradict each other."""

    open_width: float  # between the fingers when open [m]
    # Share of open_width below which it closes; between this and `open_above` it stays as it is.
    close_below: float = 0.4
    open_above: float = 0.6  # share of open_width above which it opens
    timeout: float = 5.0  # of one action [s]
    homing_timeout: float = 20.0  # of homing [s]
    # Fingers that moved less than `least_progress` of their stroke for this long are stuck [s].
    stuck_time: float = 2.0
    least_progress: float = 0.01
    stop_timeout: float = 1.0  # for the end of an action that was stopped [s]
    # Between the starts of two actions, and before a failed one is retried [s].
    least_interval: float = 0.3
    retries: int = 2  # of a failed action, before the operator is asked for help
    # Without commands, after which earlier actions and retries are forgotten [s].
    pause: float = 0.5
    homing: bool = False  # whether the fingers find their range once, before anything else

    def __post_init__(self):
        if not self.open_width > 0.0:
            raise ValueError(
                f"the gripper's open width is {self.open_width:g} m: it must be above zero "
                "(gripper_open_width in the contract)"
            )
        if not 0.0 <= self.close_below <= self.open_above <= 1.0:
            raise ValueError(
                f"the gripper closes below {self.close_below:g} and opens above "
                f"{self.open_above:g}: the first must not be above the second, both from 0 to 1"
            )


class GripperState:
    """Wanted openings and outcomes in, orders and problems out. One thread calls all methods.

    The caller carries orders out at once. HOME, OPEN and CLOSE start an action, and ended() reports
    its end. STOP ends the running one: ended() reports that, too, or stop_confirmed(), where the
    driver says that nothing runs.
    """

    def __init__(self, config: GripperConfig):
        self.config = config
        self._wanted: Order | None = None
        self._done: Order | None = None
        self._running: Order | None = None
        self._homed = not config.homing
        self._stopping = self._stop_confirmed = False
        self._stopped_at = self._started_at = self._moved_at = -math.inf
        self._not_before = self._commanded_at = -math.inf
        self._place: float | None = None
        self._failures = self._stops = 0
        self._fault = self._lost = ""
        self._forgotten = True

    @property
    def running(self) -> Order | None:
        """The running action, also while it is being stopped; None without one."""
        return self._running

    @property
    def insisting(self) -> bool:
        """Whether an earlier stop of the same action had no effect."""
        return self._stops > 0

    @property
    def problem(self) -> str:
        """Why the gripper does not do what was asked, and what to do; "" when all is well."""
        if self._lost:
            return self._lost
        if self._fault:
            tries = f" ({self._failures} tries)" if self._failures > 1 else ""
            return f"{self._fault}{tries}"
        return "" if self._homed else "the gripper is homing: wait, and leave the hand empty"

    @property
    def exhausted(self) -> bool:
        """Whether actions failed so often that the operator must look.

        A driver that does not answer does not count: when it is back, all goes on.
        """
        return self._failures > self.config.retries

    def tick(self, now: float) -> Order:
        """What is due independently of the wanted opening, in each cycle: STOP, HOME or nothing."""
        if not self._forgotten and now - self._commanded_at > self.config.pause:
            self._forget()
        if self._lost:
            return Order.NOTHING
        if self._running is not None:
            return self._watch(self._running, now)
        return Order.NOTHING if self._homed else self._start(Order.HOME, now)

    def want(self, width: float, now: float) -> Order:
        """The wanted opening [m], in each cycle with commands; what to do about it."""
        self._commanded_at, self._forgotten = now, False
        self._decide(width)
        if self._lost or not self._homed or self._wanted is None:
            return Order.NOTHING
        if self._running is None:
            due = self._wanted is not self._done
            return self._start(self._wanted, now) if due else Order.NOTHING
        if self._stopping or self._wanted is self._running:
            return Order.NOTHING
        return self._stop(now)

    def progress(self, place: float, now: float) -> None:
        """Where the fingers are during an action, as a share of their stroke."""
        if not math.isfinite(place):
            return
        moved = self._place is None or abs(place - self._place) >= self.config.least_progress
        if moved:
            self._place, self._moved_at = place, now

    def ended(self, success: bool, now: float, message: str = "") -> None:
        """The running action is over. message: why, where it failed."""
        if self._running is None:
            return
        ended, stopped = self._running, self._stopping
        self._over()
        if success and (not stopped or ended is Order.HOME):
            # Homing is done once it has succeeded, however late.
            self._homed = True
            self._done = ended if ended is not Order.HOME else None
            self._failures, self._fault = 0, ""
        elif not stopped:
            self._failures += 1
            self._fault = f"{DOING[ended]} of the gripper failed: {message}"
            self._not_before = now + self.config.least_interval

    def accepted(self, now: float) -> Order:
        """The driver accepted the action; STOP if it was to end before it began."""
        self._stop_confirmed = False
        return self._stop(now) if self._stopping else Order.NOTHING

    def stop_confirmed(self) -> None:
        """The driver says that nothing is left to stop; the action's own end may still come."""
        self._stop_confirmed = self._stopping

    def lost(self, message: str) -> None:
        """The driver is gone; the running action is stopped first when it is back."""
        self._lost, self._done = message, None
        if self._running is not None:
            self._stopping, self._stop_confirmed, self._stopped_at = True, False, -math.inf

    def found(self) -> None:
        """The driver is there, for the first time or again."""
        self._lost = ""
        self._forget()

    def _decide(self, width: float) -> None:
        if not math.isfinite(width):
            return
        share = width / self.config.open_width
        if share < self.config.close_below:
            self._wanted = Order.CLOSE
        elif share > self.config.open_above:
            self._wanted = Order.OPEN

    def _start(self, order: Order, now: float) -> Order:
        if now < self._not_before or self.exhausted:
            return Order.NOTHING
        self._running, self._done = order, None
        self._started_at = self._moved_at = now
        self._not_before = now + self.config.least_interval
        self._place = None
        return order

    def _stop(self, now: float) -> Order:
        self._stopping, self._stopped_at = True, now
        return Order.STOP

    def _watch(self, running: Order, now: float) -> Order:
        """Gives up an action that does not end, and insists on the end of a stopped one."""
        if self._stopping:
            return self._watch_stop(running, now)
        config = self.config
        limit = config.homing_timeout if running is Order.HOME else config.timeout
        if now - self._started_at > limit:
            self._fault = (
                f"the gripper has not finished {DOING[running]} within {limit:g} s: look "
                "whether it is stuck, or its driver hangs"
            )
        elif self._place is not None and now - self._moved_at > config.stuck_time:
            self._fault = (
                f"the fingers do not move while {DOING[running]}, for {config.stuck_time:g} "
                "s: look what is in their way"
            )
        else:
            return Order.NOTHING
        self._failures += 1
        return self._stop(now)

    def _watch_stop(self, running: Order, now: float) -> Order:
        if now - self._stopped_at <= self.config.stop_timeout:
            return Order.NOTHING
        if self._stop_confirmed:
            self._over()
            return Order.NOTHING
        if not math.isinf(self._stopped_at):
            self._stops += 1
            self._fault = (
                f"the gripper's driver does not end {DOING[running]} when told to stop: look "
                "at its log, and start it again"
            )
        if self._stops > self.config.retries:
            self._stopped_at = now
            return Order.NOTHING
        return self._stop(now)

    def _over(self) -> None:
        """Nothing runs any more, and the fingers may be anywhere."""
        self._running = self._done = None
        self._stopping, self._stop_confirmed, self._stops = False, False, 0

    def _forget(self) -> None:
        """Someone else may have moved the gripper, or repaired it."""
        self._wanted = self._done = None
        self._failures = self._stops = 0
        self._fault, self._forgotten = "", True
