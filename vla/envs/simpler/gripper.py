"""What SimplerEnv's robots are told of a gripper that a policy wants open (1) or closed (0)."""

from __future__ import annotations


class StickyGripper:
    """The Google robot's: told to open or close for some steps after each change, else nothing.

    As in SimplerEnv, a change is seen against the step before, and one that comes while another is
    held is lost; the first step is never a change.
    """

    def __init__(self, steps: int):
        """steps: that a change is held; 15 in SimplerEnv, 2 in RoboVLMs."""
        self.steps = steps
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        self._last: bool | None = None
        self._held, self._left = 0.0, 0

    def command(self, opening: float) -> float:
        """1 to close, -1 to open, 0 to stay. opening: what the policy wants, open above 0.5."""
        is_open = opening > 0.5
        change = 0.0 if self._last is None else float(self._last) - float(is_open)
        self._last = is_open
        if change and not self._left:
            self._held, self._left = change, self.steps
        if not self._left:
            return 0.0
        self._left -= 1
        return self._held


class SlowToOpenGripper:
    """The WidowX's: open as soon as that was wanted some steps in a row, closed otherwise."""

    def __init__(self, steps: int):
        """steps: in a row; 1 in SimplerEnv, 2 in RoboVLMs."""
        self.steps = steps
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        self._in_a_row = 0

    def command(self, opening: float) -> float:
        """1 open, -1 closed. opening: what the policy wants, open above 0.5."""
        self._in_a_row = self._in_a_row + 1 if opening > 0.5 else 0
        return 1.0 if self._in_a_row >= self.steps else -1.0
