"""Keeps the newest messages in memory, so that the recent past can still be saved.

Bounded in time and in bytes. A latched message (an instruction, a status) is kept while it is in
force, because a recording needs it at its start.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """One message as it arrived. Times in nanoseconds since the epoch."""

    topic: str
    data: bytes  # CDR
    receive_time: int
    publish_time: int
    sequence: int = 0
    lost: int = 0  # messages of the topic that went missing just before it


@dataclass(frozen=True)
class Recent:
    """The result of `RingBuffer.last`."""

    start: int  # it is complete from here on [ns]
    # In the order of receive times.
    messages: list[ReceivedMessage] = field(default_factory=list)
    # Of each latched topic the message in force at the start, where there was one.
    latched: list[ReceivedMessage] = field(default_factory=list)
    limited: bool = False  # it reaches less far back than was asked, for lack of memory

    @property
    def size(self) -> int:
        """Bytes of all messages."""
        return sum(len(message.data) for message in (*self.messages, *self.latched))


class RingBuffer:
    """Messages of the last `seconds` in at most `max_bytes`. Not thread-safe.

    Messages may come slightly out of order, as topics are read one after the other. latched: topics
    whose newest message is kept regardless of age and of `max_bytes`. Raises ValueError for limits
    that are not positive.
    """

    def __init__(self, seconds: float, max_bytes: int, latched: Collection[str] = ()) -> None:
        if not seconds > 0.0 or max_bytes <= 0:
            raise ValueError("a ring buffer needs a positive time and size")
        self.seconds = seconds
        self.max_bytes = max_bytes
        self.size = 0
        self._latched = frozenset(latched)
        self._messages: deque[ReceivedMessage] = deque()
        self._before: dict[str, ReceivedMessage] = {}
        self._newest = 0
        # Up to here messages were dropped for lack of memory [ns].
        self._evicted_until = -1
        # Up to here messages were dropped for their age [ns].
        self._expired_until = -1

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def duration(self) -> float:
        """From the oldest to the newest message [s]."""
        if not self._messages:
            return 0.0
        return max(0, self._newest - self._messages[0].receive_time) / NANOSECONDS

    def append(self, message: ReceivedMessage) -> None:
        """Adds a message, and drops those that are too old or exceed the memory."""
        self._messages.append(message)
        self.size += len(message.data)
        self._newest = max(self._newest, message.receive_time)
        self.expire(self._newest)
        while self.size > self.max_bytes:
            self._evicted_until = max(self._evicted_until, self._drop_oldest())

    def expire(self, now: int) -> None:
        """Drops messages older than the buffer's time at `now` [ns]."""
        limit = now - round(self.seconds * NANOSECONDS)
        if limit > self._expired_until:
            self._expired_until = limit
        while self._messages and self._messages[0].receive_time <= self._expired_until:
            self._drop_oldest()

    def last(self, now: int, seconds: float = math.inf) -> Recent:
        """Messages of the `seconds` before `now` [ns], or as many as there are. Keeps them."""
        asked = now - round(min(seconds, self.seconds) * NANOSECONDS)
        start = max(asked, self._expired_until, self._evicted_until) + 1
        messages = [message for message in self._messages if message.receive_time >= start]
        messages.sort(key=lambda message: message.receive_time)
        before = dict(self._before)
        for message in self._messages:
            if message.receive_time < start and message.topic in self._latched:
                _keep_newest(before, message)
        limited = self._evicted_until > max(asked, self._expired_until)
        return Recent(start, messages, list(before.values()), limited)

    def _drop_oldest(self) -> int:
        message = self._messages.popleft()
        self.size -= len(message.data)
        if message.topic in self._latched:
            _keep_newest(self._before, message)
        return message.receive_time


def _keep_newest(newest: dict[str, ReceivedMessage], message: ReceivedMessage) -> None:
    known = newest.get(message.topic)
    if known is None or message.receive_time >= known.receive_time:
        newest[message.topic] = message
