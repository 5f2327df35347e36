"""How long chunks take, from the observation's stamp to their arrival. No ROS, no clock."""

from __future__ import annotations

from collections import deque


class DelayEstimate:
    """The expected delay of the next chunk: the largest of the last few.

    The first ones after a start or a pause are left out: a model that warms up is slower than
    usual, and would make the arm commit to too much.
    """

    def __init__(self, initial: float, window: int = 10, warm_up: int = 2, pause: float = 2.0):
        """initial: the estimate before any measurement [s]. window: delays that count.

        warm_up: delays left out at the start and after a gap of more than `pause` [s].
        """
        self._initial, self._warm_up, self._pause = initial, warm_up, pause
        self._delays: deque[float] = deque(maxlen=window)
        self._to_skip = warm_up
        self._last = -float("inf")

    def note(self, stamp: float, now: float) -> None:
        """A chunk of the observation at `stamp` was published at `now` [s, one clock]."""
        if now - self._last > self._pause:
            self._to_skip = self._warm_up
        self._last = now
        if self._to_skip > 0:
            self._to_skip -= 1
        elif now >= stamp:
            self._delays.append(now - stamp)

    @property
    def seconds(self) -> float:
        """The expected delay [s]."""
        return max(self._delays, default=self._initial)
