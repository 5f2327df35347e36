"""A policy's earlier observations during an episode, by their stamps."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from vla.datasets.windows import SAME_TIME, reach, window_slots

Kept = TypeVar("Kept")


class History(Generic[Kept]):
    """Entries of one episode, observations or results computed from them, and their window.

    It keeps no more than the window can reach.
    """

    def __init__(self, window: int, step: float):
        """window: slots, the newest included. step: time between two of them [s]."""
        self.window, self.step = window, step
        self._kept: deque[tuple[float, Kept]] = deque()

    def __len__(self) -> int:
        return len(self._kept)

    def reset(self) -> None:
        """Forgets everything, as for a new episode."""
        self._kept.clear()

    def is_due(self, stamp: float) -> bool:
        """Whether a slot of later windows would miss an observation of that time [s]."""
        return not self._kept or not 0 <= stamp - self._kept[-1][0] < self.step - SAME_TIME

    def add(self, stamp: float, entry: Kept) -> list[Kept]:
        """Takes an entry of that time [s], and returns its window, oldest first, itself last.

        A stamp before the last one starts a new history; the same stamp replaces the last entry.
        """
        if self._kept and stamp <= self._kept[-1][0]:
            if stamp < self._kept[-1][0]:
                self.reset()
            else:
                self._kept.pop()
        self._kept.append((stamp, entry))
        while self._kept[0][0] < stamp - reach(self.window, self.step):
            self._kept.popleft()
        stamps = [time for time, _ in self._kept]
        return [self._kept[index][1] for index in window_slots(stamps, self.window, self.step)]
