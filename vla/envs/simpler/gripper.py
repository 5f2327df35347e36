"""What SimplerEnv's robots are told of a gripper that a policy wants open (1) or closed (0)."""

from __future__ import annotations

from typing import Protocol


class SimplerGripper(Protocol):
    """What the robot is told, step by step."""

    def reset(self) -> None:
        """An episode begins."""

    def command(self, opening: float) -> float:
        """What the robot is told. opening: what the policy wants, open above 0.5."""
        ...


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


class LatchingGripper:
    """The Google robot's as InstructVLA tells it: by how much the policy's wish has changed.

    A change of more than a half, against what was wanted when the last such change began, is held
    for some steps; smaller ones are passed on. So a change that comes while another is held is not
    lost, and a wish between open and closed, such as the mean of several chunks, counts.
    """

    def __init__(self, steps: int):
        """steps: that a change is held; 10 in InstructVLA."""
        self.steps = steps
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        self._before: float | None = None
        self._held, self._left = 0.0, 0

    def command(self, opening: float) -> float:
        """Above 0 to close, below to open, at most 1. opening: what the policy wants, 0 to 1."""
        if self._before is None:
            self._before = opening
        change = self._before - opening
        if abs(change) > 0.5 and not self._left:
            self._held, self._left, self._before = change, self.steps, opening
        if not self._left:
            return change
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
