"""Streams of stamped messages as frames of one rate: the newest of each, never from the future."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla.data.frames import DatasetError
from vla.data.messages import NANOSECONDS

# Messages of one topic may overtake each other by less than this [ns]; a clock that goes back
# further was set, or a simulation began anew.
LARGEST_DISORDER = NANOSECONDS


@dataclass
class Stream:
    """Messages of one topic.

    max_age: for how long a message tells what is [s]. stamps: of the robot's clock [ns]; values:
    what was taken from each message.
    """

    topic: str
    max_age: float
    stamps: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, stamp: int, value: Any) -> None:
        """Takes one more. Raises DatasetError where the clock has gone back."""
        if self.stamps and stamp < self.stamps[-1] - LARGEST_DISORDER:
            back = (self.stamps[-1] - stamp) / NANOSECONDS
            raise DatasetError(
                f"'{self.topic}': stamps go back by {back:.1f} s; the clock was set or the "
                "simulation was reset while recording"
            )
        self.stamps.append(stamp)
        self.values.append(value)

    def sort(self) -> None:
        """Puts messages that overtook each other in the order of their stamps."""
        order = np.argsort(self.stamps, kind="stable")
        self.stamps = [self.stamps[i] for i in order]
        self.values = [self.values[i] for i in order]

    def newest(self, times: np.ndarray) -> list[Any]:
        """The values that were the newest at so many times [N], in nanoseconds.

        Raises DatasetError that says when there was none, or only one older than max_age.
        """
        rows = np.searchsorted(self.stamps, times, side="right") - 1
        ages = np.where(rows >= 0, times - np.array(self.stamps)[rows], np.iinfo(np.int64).max)
        if (late := np.flatnonzero(ages > round(self.max_age * NANOSECONDS))).size:
            at = (times[late[0]] - times[0]) / NANOSECONDS
            silent = f"silent for {ages[late[0]] / NANOSECONDS:.3f} s" if rows[late[0]] >= 0 else ""
            raise DatasetError(
                f"'{self.topic}' is {silent or 'not there yet'} at second {at:.2f}; "
                f"the contract allows {self.max_age:g} s"
            )
        return [self.values[row] for row in rows]


def frame_times(reference: Stream, others: Sequence[Stream], rate: float) -> np.ndarray:
    """Stamps [N] of the reference's messages that become frames, `rate` a second [ns].

    They begin at the first that all others have something before, and end one step before the
    first of these ends, so that what comes next is known. Raises DatasetError where the streams
    hardly overlap.
    """
    step = round(NANOSECONDS / rate)
    for stream in (reference, *others):
        if not stream.stamps:
            raise DatasetError(f"no message on '{stream.topic}'")
    stamps = np.array(reference.stamps)
    begin = max(stream.stamps[0] for stream in (reference, *others))
    end = min(stream.stamps[-1] for stream in others) - step
    stamps = stamps[(stamps >= begin) & (stamps <= end)]
    if len(stamps) < 2:
        spans = ", ".join(
            f"'{stream.topic}' {stream.stamps[0] / NANOSECONDS:.1f} to "
            f"{stream.stamps[-1] / NANOSECONDS:.1f} s"
            for stream in (reference, *others)
        )
        raise DatasetError(f"the streams overlap too little, or their clocks differ: {spans}")
    # The newest image at each step's time; a slower camera gives no image twice.
    wanted = np.arange(stamps[0], stamps[-1] + 1, step)
    return np.unique(stamps[np.searchsorted(stamps, wanted, side="right") - 1])
