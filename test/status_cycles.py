"""Whether the controller noticed something soon, counted by its own status.

It repeats a status that stays the same every 0.2 s. A busy machine delays those as it delays what
they are about, so they are counted instead of the test's own time. The controller should notice a
publisher within a second of its discovery, which is up to the middleware: each process discovers it
in its own time, on two busy cores a second or more after another one has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

REPETITIONS = 15  # of one status: a second to notice, and two for the middleware


def noticed_in_time(statuses: Sequence, noticed: Callable) -> object:
    """The first status that fulfils the condition; fails if it came after REPETITIONS of another.

    statuses: all of the controller since then, at least one of which fulfils it.
    """
    place = next(number for number, status in enumerate(statuses) if noticed(status))
    repeated = sum(
        (before.state, before.hold_reason) == (after.state, after.hold_reason)
        for before, after in pairwise(statuses[:place])
    )
    assert repeated <= REPETITIONS, f"noticed after {repeated} repetitions of the status"
    return statuses[place]
