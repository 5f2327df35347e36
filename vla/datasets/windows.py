"""Windows of the past: the earlier frames that a policy sees beside the newest one.

A window is a grid of slots, `step` seconds apart, that ends at the newest frame. Each slot holds
the newest frame up to its time. A slot without a frame within GAP steps ends the history there.
Training and inference both use `window_slots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Stamps that differ by less are equal [s]: they are sums of binary fractions.
SAME_TIME = 1e-6
# Frames may come so much later than their rate says.
JITTER = 1.05
# Steps after which a frame is too old for a slot. More than one: frames that are read as soon as a
# step has passed lie a little further apart than a step, by their jitter and up to their spacing.
GAP = 1.5


@dataclass(frozen=True)
class Timeline:
    """When the frames of a data set were taken, and which are consecutive."""

    times: np.ndarray  # [N], seconds, increasing within a stretch
    # Frames up to and with each stretch: one episode, or the part of it that has one instruction.
    ends: np.ndarray

    def part(self, start: int, stop: int) -> Timeline:
        """That of frames `start` to `stop` alone."""
        inside = self.ends[(self.ends > start) & (self.ends < stop)] - start
        return Timeline(self.times[start:stop], np.append(inside, stop - start))


def ends_of_words(instructions: Sequence[str], start: int = 0) -> list[int]:
    """Frames up to and with each run of one instruction; the episode begins at frame `start`."""
    changes = [
        index for index in range(1, len(instructions))
        if instructions[index] != instructions[index - 1]
    ]  # fmt: skip
    return [start + index for index in (*changes, len(instructions))]


def window_slots(stamps: Sequence[float] | np.ndarray, window: int, step: float) -> list[int]:
    """Indices into increasing stamps [s], oldest first, the last one's always among them."""
    stamps = np.asarray(stamps, dtype=np.float64)
    slots = stamps[-1] - step * np.arange(window)
    found = np.searchsorted(stamps, slots + SAME_TIME, side="right") - 1
    ages = np.where(found >= 0, slots - stamps[found], np.inf)
    gone = np.flatnonzero(ages > GAP * step)
    return found[: gone[0] if len(gone) else window][::-1].tolist()


def reach(window: int, step: float) -> float:
    """How much older than the newest frame those of a window can be [s]."""
    return (window - 1 + GAP) * step + SAME_TIME


def why_no_windows(timeline: Timeline, step: float) -> str:
    """Why frames can't fill slots that are `step` [s] apart; empty where they can."""
    times, begins = timeline.times, np.array([0, *timeline.ends[:-1]])
    gaps = np.delete(np.diff(times), begins[1:] - 1)
    spacing = float(np.median(gaps)) if len(gaps) else 0.0
    if spacing > JITTER * step:
        return (
            f"its frames are {spacing:.3g} s apart, so that slots {step:g} s apart stay empty; set "
            f"structure.history_step to {spacing:.3g} or more"
        )
    longest = float((times[timeline.ends - 1] - times[begins]).max())
    if longest < step - SAME_TIME:
        return (
            "no episode, or part of one with the same words, lasts longer than "
            f"{longest:.3g} s, so that nothing was seen {step:g} s before; set "
            "structure.history_step to less"
        )
    return ""


def window_indices(timeline: Timeline, window: int, step: float) -> np.ndarray:
    """Frames [N, W] of the window that ends with each of N frames, oldest first, -1 for none.

    No window crosses a stretch. What a window lacks is at its end, behind the newest.
    """
    times = timeline.times
    indices = np.full((len(times), window), -1, dtype=np.int64)
    start = 0
    for end in timeline.ends:
        for newest in range(start, end):
            oldest = times[newest] - reach(window, step)
            first = int(np.searchsorted(times[start:newest], oldest) + start)
            slots = window_slots(times[first : newest + 1], window, step)
            indices[newest, : len(slots)] = np.array(slots) + first
        start = end
    return indices
