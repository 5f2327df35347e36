"""Which requests run together, and which are refused. Pure functions.

A model runs the newest request of each robot, at most eight together. All times are seconds of one
steady clock.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

# Batches have one of these sizes, so that a compiled or captured model has few shapes to know.
SIZES = (8, 4, 2, 1)
WINDOW = 0.002  # for which a request waits for others to join it [s]


@dataclass(frozen=True)
class Waiting:
    """A request that waits for the model."""

    group: Hashable  # requests of one group can run together
    since: float  # when it arrived [s]


@dataclass(frozen=True)
class Choice:
    """What the model does next."""

    batch: tuple[int, ...] = ()  # indices of the waiting requests to run now
    pause: float | None = None  # else how long to wait for more [s]; None until one comes


def choose(
    waiting: Sequence[Waiting], robots: Mapping[Hashable, int], now: float, window: float = WINDOW
) -> Choice:
    """The next batch: of the group whose oldest request is the oldest, that one first.

    robots: how many robots ask for each group now and then. When fewer than those wait, and fewer
    than a full batch, the oldest request waits up to `window` for the others.
    """
    if not waiting:
        return Choice()
    order = sorted(range(len(waiting)), key=lambda index: waiting[index].since)
    oldest = waiting[order[0]]
    group = [index for index in order if waiting[index].group == oldest.group]
    left = oldest.since + window - now
    if len(group) < min(SIZES[0], robots.get(oldest.group, 1)) and left > 0:
        return Choice(pause=left)
    size = next(size for size in SIZES if size <= len(group))
    return Choice(tuple(group[:size]))


def no_room(sessions: int, most: int) -> str:
    """Why no further robot is served, "" where one is. sessions: those that are connected."""
    if sessions < most:
        return ""
    return f"overloaded: {most} connections are served already, and no more; try again later"


def overload(waiting: int, batch_seconds: float, longest_wait: float) -> str:
    """Why one more request is refused, "" where it is not.

    waiting: requests before it. batch_seconds: that a batch took lately. longest_wait: until an
    answer [s].
    """
    expected = (waiting // SIZES[0] + 1) * batch_seconds
    if not waiting or expected <= longest_wait:
        return ""
    return (
        f"overloaded: {waiting} requests wait, and an answer would take {expected:.2f} s, over "
        f"{longest_wait:g} s; ask less often, or serve fewer robots"
    )
