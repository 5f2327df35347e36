"""Streams of stamped messages as samples: at the stamp of one of them, the newest of each other.

The node `perception` and the conversion of bags both use this: what training sees is what the robot
sees. Nothing is ever taken from the future, and nothing that is older than its stream allows.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vla.datasets.frames import DatasetError
from vla.observations.messages import NANOSECONDS

# Messages of one topic may overtake each other by less than this [ns]; a clock that goes back
# further was set, or a simulation restarted.
LARGEST_DISORDER = NANOSECONDS
# For how long messages are kept for a sample that may yet come [ns].
HISTORY = 2 * NANOSECONDS


class ClockError(DatasetError):
    """Stamps of a stream that go back."""


@dataclass
class Stream:
    """The kept messages of one topic, in the order of their stamps."""

    topic: str
    max_age: float  # for how long a message is valid [s]
    stamps: list[int] = field(default_factory=list)  # of the robot's clock [ns]
    values: list[Any] = field(default_factory=list)  # taken from each message

    @property
    def newest(self) -> int | None:
        """The greatest stamp [ns]."""
        return self.stamps[-1] if self.stamps else None

    def add(self, stamp: int, value: Any) -> None:
        """Takes one more; one that was overtaken is put where it belongs.

        Raises ClockError where the clock has gone back.
        """
        if self.stamps and stamp < self.stamps[-1] - LARGEST_DISORDER:
            back = (self.stamps[-1] - stamp) / NANOSECONDS
            raise ClockError(
                f"'{self.topic}': stamps go back by {back:.1f} s; the clock was set or the "
                "simulation was reset while recording"
            )
        place = bisect_right(self.stamps, stamp)
        self.stamps.insert(place, stamp)
        self.values.insert(place, value)

    def at(self, time: int) -> tuple[int, Any] | None:
        """Stamp and value of the newest message at or before a time [ns]; None before the first."""
        row = bisect_right(self.stamps, time) - 1
        return (self.stamps[row], self.values[row]) if row >= 0 else None

    def too_old(self, age: int) -> bool:
        """Whether a message of that age [ns] tells nothing any more."""
        return age > round(self.max_age * NANOSECONDS)

    def forget(self, time: int) -> None:
        """Drops what `at` needs no more for times from this one on [ns]."""
        if (row := bisect_right(self.stamps, time) - 1) > 0:
            del self.stamps[:row]
            del self.values[:row]


@dataclass(frozen=True)
class Sample:
    """What was known at one stamp of the reference."""

    stamp: int  # [ns]
    values: dict[str, Any]  # by stream, the reference's own among them
    ages: dict[str, int]  # of the values [ns]
    missing: tuple[str, ...] = ()  # streams without a message until then
    stale: tuple[str, ...] = ()  # streams whose newest message was too old
    # Streams whose newer messages may still arrive, but were not waited for.
    unreached: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every stream has a value that may be used."""
        return not (self.missing or self.stale)


class Resampler:
    """Turns messages, in the order of their arrival, into samples in the order of stamps.

    A sample is due once every stream has reached the reference's stamp, since nothing older can
    come then, or after `longest_wait` [s] since the reference's message came. streams: by name.
    restart: a stream whose clock has gone back starts over; without it, ClockError is raised.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        reference: str,
        longest_wait: float = math.inf,
        restart: bool = False,
    ):
        self.streams = dict(streams)
        self.longest_wait = longest_wait
        # Reference messages that came after a later one had become a sample.
        self.overtaken = 0
        self._reference = reference
        self._restart = restart
        self._waiting: list[tuple[int, float, Any]] = []
        self._last: int | None = None

    def add(self, name: str, stamp: int, value: Any, now: float = 0.0) -> list[Sample]:
        """Takes a message; returns the samples that are due now.

        stamp: its own [ns]. now: time of a clock that never goes back [s]; only waiting needs it.
        """
        stream = self.streams[name]
        try:
            stream.add(stamp, value)
        except ClockError:
            if not self._restart:
                raise
            stream.stamps, stream.values = [stamp], [value]
            if name == self._reference:
                self._waiting, self._last = [], None
        if name == self._reference:
            if self._last is not None and stamp <= self._last:
                self.overtaken += 1
            else:
                place = bisect_left(self._waiting, stamp, key=lambda entry: entry[0])
                self._waiting.insert(place, (stamp, now, value))
        self._forget(stream)
        return self.due(now)

    def due(self, now: float = 0.0) -> list[Sample]:
        """The samples that have become due by now, also without a message."""
        samples = []
        while self._waiting:
            stamp, came, value = self._waiting[0]
            behind = tuple(
                name
                for name, stream in self.streams.items()
                if stream.newest is None or stream.newest < stamp
            )
            if behind and now - came < self.longest_wait:
                break
            samples.append(self._sample(stamp, value, behind))
            self._waiting.pop(0)
            self._last = stamp
        return samples

    @property
    def deadline(self) -> float | None:
        """The time at which the next sample is due without a message; None when none waits."""
        if not self._waiting:
            return None
        return self._waiting[0][1] + self.longest_wait

    def _sample(self, stamp: int, value: Any, behind: tuple[str, ...]) -> Sample:
        values, ages, missing, stale = {self._reference: value}, {self._reference: 0}, [], []
        for name, stream in self.streams.items():
            if name == self._reference:
                continue
            entry = stream.at(stamp)
            if entry is None:
                missing.append(name)
                continue
            values[name], ages[name] = entry[1], stamp - entry[0]
            if stream.too_old(ages[name]):
                stale.append(name)
        return Sample(stamp, values, ages, tuple(missing), tuple(stale), behind)

    def _forget(self, stream: Stream) -> None:
        """Keeps of a stream what waiting samples, and those that may yet come, need."""
        oldest = stream.stamps[-1] - HISTORY
        if self._waiting:
            oldest = min(oldest, self._waiting[0][0])
        # All samples to come are later than the last one.
        stream.forget(oldest if self._last is None else max(oldest, self._last))


class FramePicker:
    """Picks samples of which there are about so many a second: the nearest to each wanted time.

    Wanted times are even steps from the first sample on. No sample is picked twice, so a stream
    that is slower than the rate gives fewer.
    """

    def __init__(self, rate: float):
        self._step = NANOSECONDS / rate
        self._wanted = 0
        self._begin = 0
        self._before: tuple[int, Any] | None = None
        self._picked: int | None = None
        # Wanted times for which the sample before them had to do.
        self.skipped = 0

    def add(self, stamp: int, sample: Any) -> list[Any]:
        """Takes the next sample, in the order of stamps [ns]; returns those that are picked."""
        if self._before is None:
            self._begin = stamp
        picked = []
        while (wanted := self._begin + round(self._wanted * self._step)) <= stamp:
            nearest = stamp, sample
            if self._before is not None and wanted - self._before[0] <= stamp - wanted:
                nearest = self._before
            self._wanted += 1
            if nearest[0] == self._picked:
                self.skipped += 1
                continue
            self._picked = nearest[0]
            picked.append(nearest[1])
        self._before = stamp, sample
        return picked
