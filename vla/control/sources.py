"""Tells whether a topic that must have one source has two, and which messages are the source's.

Free of ROS. A message says neither who sent it nor whether its sender still lives: a process that
was killed stays on the graph for up to twenty seconds. What there is, is put together here: the
publishers that the graph knows, how many of them keep a sign of life, and the number that each
publisher gives to its messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Messages of one publisher that may be lost one after the other.
LONGEST_GAP = 100
# A source that was silent for so long may have been started again, and count from one [s].
SUCCESSION = 0.3
# For how long after a foreign message the source is in doubt, while no publisher leaves [s].
DOUBT = 5.0


@dataclass(frozen=True)
class Publisher:
    """A publisher of a topic, as the ROS graph shows it."""

    identity: bytes  # differs between any two
    node: str  # fully qualified name, "" while it is not known yet
    promises: bool  # it sends heartbeats, so that its death is noticed


def count_sources(publishers: Sequence[Publisher], alive: int) -> int:
    """How many living nodes publish.

    alive: how many of those that promise a sign of life give it. One that promises none is taken
    for alive while the graph has it. Several of one name are taken for one node that was killed and
    started again: whether two of one name live is told by the numbers of their messages.
    """
    promising = sum(publisher.promises for publisher in publishers)
    # One that was killed a moment ago still has its place: what comes in its stead is another.
    living = max(1, min(alive, promising)) if promising else 0
    return living + len({p.node for p in publishers if not p.promises})


def name_sources(publishers: Sequence[Publisher]) -> str:
    """The nodes that publish, each once; the last has come last."""
    names = dict.fromkeys(p.node or "one without a name" for p in publishers)
    if not names:
        return "whose names are not known"
    if len(names) == 1:
        return f"two of the name {next(iter(names))}"
    *others, last = names
    return f"{', '.join(others)} and {last}"


class SourceTrack:
    """Follows one source among messages that several publishers may have sent.

    Each publisher numbers its messages. While there are several publishers, such as one that was
    killed and its successor, or an arm's and a gripper's driver on one topic, only messages that go
    on with the numbers of the source so far are followed. Numbers of another publisher are the new
    source's where the old one is silent, and a foreign one's where it is not, or where it comes
    back. Which of two is the right one cannot be known: that there are two is `in_doubt`.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._other: int | None = None
        self._heard_at = self._other_at = -math.inf
        self._doubt_until = -math.inf
        self._doubted_among = 0

    def follows(self, number: int, publishers: int, now: float) -> bool:
        """Takes a message's number; whether it comes from the source.

        publishers: how many the topic has now. now: of a clock that never goes back [s].
        """
        self._settle(publishers)
        if publishers <= 1 or self._last is None:
            self._last, self._other, self._heard_at = number, None, now
            return True
        own, other = _gap(self._last, number), _gap(self._other, number)
        # Where a number goes on with both alike, it is of the one that spoke last.
        nearest = (own, -self._heard_at) <= (other, -self._other_at)
        if nearest and own <= LONGEST_GAP:
            self._last, self._heard_at = number, now
            return True
        is_silent = now - self._heard_at > SUCCESSION
        if is_silent and other > LONGEST_GAP and not self.in_doubt(publishers, now):
            self._other, self._other_at = self._last, self._heard_at
            self._last, self._heard_at = number, now
            return True
        self._other, self._other_at = number, now
        self._doubt_until, self._doubted_among = now + DOUBT, publishers
        return False

    def in_doubt(self, publishers: int, now: float) -> bool:
        """Whether another publisher sends the same: until it has left, or is silent for long."""
        self._settle(publishers)
        return now < self._doubt_until

    def _settle(self, publishers: int) -> None:
        if publishers < self._doubted_among:
            self._doubt_until, self._doubted_among = -math.inf, 0


def _gap(last: int | None, number: int) -> float:
    """By how much a number goes on; infinite where it does not."""
    return number - last if last is not None and number > last else math.inf
