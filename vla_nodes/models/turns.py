"""When a model may compute again: at most at a rate, and for at most a share of the time."""

from __future__ import annotations

import math

# After a result that took unusually long, so that one hiccup does not become two [s].
LONGEST_REST = 0.2


class Turns:
    """Tells for each observation whether the model takes it. Times are of a steady clock [s]."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The next observation is taken."""
        self._next = self._rests_until = -math.inf

    def take(self, now: float, rate: float) -> bool:
        """Whether the observation that is there now is taken. rate: most in a second, 0 for any."""
        if now < self._rests_until:
            return False
        if rate <= 0.0:
            return True
        # A little early is fine: observations come in steps, and the mean is kept all the same.
        if now < self._next - 0.1 / rate:
            return False
        self._next = max(self._next, now) + 1.0 / rate
        return True

    def rest(self, now: float, seconds: float, load: float) -> None:
        """Notes that the model has just computed for so long; it may for a share `load` of time."""
        self._rests_until = now + min(seconds * (1.0 / load - 1.0), LONGEST_REST)
