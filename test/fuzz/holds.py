"""How long foreign messages keep the arm from moving, told from what the controller's status says.

A foreign publisher may hold the arm while it is there. When it has left, the status names it for
1.5 s, and joint states that were in doubt must be at rest for 0.5 s; then the hold is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.control.session import HoldReason, State

# Holds for reasons that somebody else's messages give; others, such as a model that is too slow on
# a busy machine, are recorded and not judged.
FOREIGN = frozenset(
    {
        HoldReason.SECOND_PUBLISHER,
        HoldReason.IMPLAUSIBLE_STATE,
        HoldReason.NON_FINITE,
        HoldReason.CONTRACT_MISMATCH,
        HoldReason.CLOCK,
    }
)
# What docs/safety.md promises after a foreign publisher has left, and what messages need on their
# way: the status repeats itself every 0.2 s [s].
LONGEST_AFTER = 2.0
ON_THE_WAY = 0.5
# What moves nothing holds nothing either: the model nodes follow what vla/status confirms.
NEVER_HOLD = ("vla/instruction",)
# The simulator tells its state every 0.1 s; where it does not, the machine stands still [s].
USUAL_GAP = 0.15


@dataclass(frozen=True)
class Told:
    """One status, and when it came."""

    at: float  # [s]
    state: int
    reason: int
    message: str


@dataclass(frozen=True)
class Hold:
    """A time in which the arm was held for one reason."""

    reason: HoldReason
    begin: float  # [s]
    end: float  # of the last status that said so, or of the next that did not [s]
    message: str

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end - self.begin


def holds_of(told: Sequence[Told]) -> list[Hold]:
    """The holds, in order; a reason that changes begins another one."""
    found: list[Hold] = []
    for number, status in enumerate(told):
        if status.state != State.HOLDING:
            continue
        end = told[number + 1].at if number + 1 < len(told) else status.at
        reason, begin = HoldReason(status.reason), status.at
        before = told[number - 1] if number else None
        if before and before.state == State.HOLDING and before.reason == status.reason:
            begin = found.pop().begin
        found.append(Hold(reason, begin, end, status.message))
    return found


def standstill(times: Sequence[float], begin: float, end: float) -> float:
    """For how long within [begin, end] [s] nothing came of what comes all the time."""
    inside = [time for time in times if begin <= time <= end]
    gaps = np.diff([begin, *inside, end])
    return float(np.maximum(gaps - USUAL_GAP, 0.0).sum())


def fault_of(
    topic: str, holds: Sequence[Hold], left_at: float, heartbeats: Sequence[float]
) -> str | None:
    """What is wrong with the holds; None where nothing is.

    left_at: when the foreign publisher had left [s]. heartbeats: times [s] of messages that come
    all the time, by which a machine that stands still is known.
    """
    foreign = [hold for hold in holds if hold.reason in FOREIGN]
    if topic in NEVER_HOLD and foreign:
        return f"held for {foreign[0].seconds:.2f} s: {foreign[0].message}"
    for hold in foreign:
        after = hold.end - left_at
        after -= standstill(heartbeats, left_at, hold.end) if after > 0.0 else 0.0
        if after > LONGEST_AFTER + ON_THE_WAY:
            return (
                f"held for {after:.2f} s after the foreigner had left ({hold.reason.name}), at "
                f"most {LONGEST_AFTER:g} is right: {hold.message}"
            )
    return None


def longest(holds: Sequence[Hold]) -> dict[str, float | str]:
    """The longest hold for a foreign reason, for the report; empty where there was none."""
    foreign = [hold for hold in holds if hold.reason in FOREIGN]
    if not foreign:
        return {}
    hold = max(foreign, key=lambda entry: entry.seconds)
    return {"seconds": round(hold.seconds, 2), "reason": hold.reason.name}
