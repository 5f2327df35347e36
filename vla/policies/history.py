"""The window of past observations that a policy reads, kept between its steps."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from vla.policies.base import Observation, PolicyFeatures

# An observation may be so much earlier or later than a place of the window [periods of spacing].
TOLERANCE = 0.5


class ObservationHistory:
    """Observations of one episode by their stamps, and the window that ends with the newest.

    Places of the window lie `window_spacing` time steps of the contract apart; each has the newest
    observation up to half a spacing after it. Where there is none yet, the oldest stands for it.
    """

    def __init__(self, features: PolicyFeatures):
        self._count = features.window - 1
        self._spacing = features.window_spacing / features.rate
        self._kept: deque[tuple[float, Observation]] = deque()

    def reset(self) -> None:
        """Forgets everything, as a new episode needs it."""
        self._kept.clear()

    def add(self, stamp: float, observation: Observation) -> Observation:
        """Takes an observation of that time [s], and returns it with its past.

        A stamp that is not after the last one starts a new history.
        """
        if self._count == 0:
            return observation
        if self._kept and stamp <= self._kept[-1][0]:
            self.reset()
        self._kept.append((stamp, observation))
        earliest = stamp - (self._count + 1) * self._spacing
        while len(self._kept) > 1 and self._kept[1][0] <= earliest:
            self._kept.popleft()
        past = [self._at(stamp - number * self._spacing) for number in range(self._count, 0, -1)]
        return replace(observation, past=tuple(past))

    def _at(self, time: float) -> Observation:
        latest = time + TOLERANCE * self._spacing
        found = [observation for stamp, observation in self._kept if stamp <= latest]
        return found[-1] if found else self._kept[0][1]
