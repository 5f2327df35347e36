"""Whether the controller noticed something within a second, counted by its own status.

It repeats a status that stays the same every 0.2 s. A busy machine delays those as it delays what
they are about, so they are counted instead of the test's own time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

REPETITIONS = 5  # of one status, in a second


def noticed_in_time(statuses: Sequence, noticed: Callable) -> object:
    """The first status that fulfils the condition; fails if it came after more than a second.

    statuses: all of the controller since then, at least one of which fulfils it.
    """
    place = next(number for number, status in enumerate(statuses) if noticed(status))
    repeated = sum(
        (before.state, before.hold_reason) == (after.state, after.hold_reason)
        for before, after in pairwise(statuses[:place])
    )
    assert repeated <= REPETITIONS, f"noticed after {repeated} repetitions of the status"
    return statuses[place]
