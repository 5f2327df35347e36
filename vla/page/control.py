"""One operator at a time: who of the viewers may command the robot."""

from __future__ import annotations

import time
from collections.abc import Callable

# An operator who lost the connection keeps control for this long, to come back [s].
GRACE = 10.0


class ControlLease:
    """Held by one viewer, or nobody; viewers are numbers."""

    def __init__(self, idle_limit: float, clock: Callable[[], float] = time.monotonic):
        """idle_limit: another may take control from one who commanded nothing for so long [s]."""
        self._idle_limit, self._clock = idle_limit, clock
        self._holder: int | None = None
        self._used = 0.0
        self._left: float | None = None

    @property
    def holder(self) -> int | None:
        """Who has control; None where nobody has."""
        if self._left is not None and self._clock() - self._left > GRACE:
            self._holder, self._left = None, None
        return self._holder

    def take(self, viewer: int) -> str:
        """Gives control to `viewer`; returns why not, or "" where it has it now."""
        holder = self.holder
        if holder not in (None, viewer) and self._clock() - self._used < self._idle_limit:
            return (
                f"viewer {holder} has control: ask them to give it, or wait until they have "
                f"done nothing for {self._idle_limit:g} s"
            )
        self._holder, self._left = viewer, None
        self._used = self._clock()
        return ""

    def give(self, viewer: int) -> None:
        """Takes control from `viewer`, who has it no longer afterwards."""
        if self.holder == viewer:
            self._holder, self._left = None, None

    def use(self, viewer: int) -> bool:
        """Whether `viewer` has control; notes that it was used."""
        if self.holder != viewer:
            return False
        self._used = self._clock()
        return True

    def leave(self, viewer: int) -> None:
        """Notes that the connection of `viewer` is gone."""
        if self.holder == viewer:
            self._left = self._clock()

    def come_back(self, viewer: int) -> None:
        """Notes that `viewer` is connected again."""
        if self.holder == viewer:
            self._left = None
