"""Whether a topic that must have one source has two, and which messages are the source's. No ROS.

A message says neither who sent it nor whether its sender is alive, and a killed process stays on
the graph for up to twenty seconds. So three facts are combined here: the publishers on the graph,
how many of them are alive, and the sequence number that each gives to its messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Consecutive messages of one publisher that may be lost.
LONGEST_GAP = 100
# A source that was silent for this long may have restarted, and count from one [s].
SUCCESSION = 0.3
# Most messages that a source may send in a second: a silence explains no wider gap.
FASTEST = 2000.0
# How long a foreign message puts the source in doubt, while no publisher leaves [s].
DOUBT = 5.0


@dataclass(frozen=True)
class Publisher:
    """A publisher of a topic, as the ROS graph shows it."""

    identity: bytes  # differs between any two
    node: str  # fully qualified name, "" while it is not known yet
    promises: bool  # it sends heartbeats, so that its death is noticed


def count_sources(publishers: Sequence[Publisher], alive: int) -> int:
    """How many living nodes publish.

    alive: how many of those with a liveliness lease are alive. One without counts as alive while
    the graph has it; several of one name count as one node that was killed and restarted: sequence
    numbers tell whether two of one name are alive.
    """
    leased = sum(publisher.promises for publisher in publishers)
    # A publisher that was just killed is still listed; its successor is another.
    living = max(1, min(alive, leased)) if leased else 0
    return living + len({p.node for p in publishers if not p.promises})


def may_be_restarted(publishers: Sequence[Publisher]) -> bool:
    """Whether one of them can be another's successor: two have the same name, or both have none."""
    names = [publisher.node for publisher in publishers]
    return len(set(names)) < len(names)


def name_sources(publishers: Sequence[Publisher]) -> str:
    """The nodes that publish, each once, in the order of their appearance."""
    names = dict.fromkeys(p.node or "one without a name" for p in publishers)
    if not names:
        return "whose names are not known"
    if len(names) == 1:
        return f"two of the name {next(iter(names))}"
    *others, last = names
    return f"{', '.join(others)} and {last}"


class SourceTrack:
    """Follows one source among messages that several publishers may have sent.

    While there are several publishers, such as a killed one and its successor, or an arm's and a
    gripper's driver on one topic, only messages that continue the source's sequence numbers are
    followed. Another sequence becomes the source where the old one is silent and may have been
    restarted; else it is foreign, as it is where the old one comes back. Which of two is right
    cannot be known: that there are two is `in_doubt`.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._other: int | None = None
        self._heard_at = self._other_at = -math.inf
        self._doubt_until = -math.inf
        self._doubted_among = 0

    def follows(
        self, number: int, publishers: int, now: float, may_be_restarted: bool | None = True
    ) -> bool:
        """Takes a message's number; whether it comes from the source.

        publishers: how many the topic has. now: of a steady clock [s]. may_be_restarted: whether
        one of them can be the source's successor. Where none can, as with a driver that pauses
        while another node speaks in its place, another sequence is foreign however long the source
        is silent. None while the names are not known yet: such a message is then not used, and puts
        nobody in doubt.
        """
        self._settle(publishers)
        if publishers <= 1 or self._last is None:
            self._last, self._other, self._heard_at = number, None, now
            return True
        own, other = _gap(self._last, number), _gap(self._other, number)
        # A number that continues both belongs to the one that sent last.
        nearest = (own, -self._heard_at) <= (other, -self._other_at)
        if nearest and own <= LONGEST_GAP:
            self._last, self._heard_at = number, now
            return True
        silence = now - self._heard_at
        goes_on = own <= LONGEST_GAP + FASTEST * silence
        is_next = silence > SUCCESSION and other > LONGEST_GAP
        if is_next and not self.in_doubt(publishers, now):
            if may_be_restarted is None and not goes_on:
                return False
            if may_be_restarted or goes_on:
                self._other, self._other_at = self._last, self._heard_at
                self._last, self._heard_at = number, now
                return True
        self._other, self._other_at = number, now
        self._doubt_until, self._doubted_among = now + DOUBT, publishers
        return False

    def in_doubt(self, publishers: int, now: float) -> bool:
        """Whether another publisher sends the same: until it leaves, or is silent for long."""
        self._settle(publishers)
        return now < self._doubt_until

    def _settle(self, publishers: int) -> None:
        if publishers < self._doubted_among:
            self._doubt_until, self._doubted_among = -math.inf, 0


def _gap(last: int | None, number: int) -> float:
    """By how much a number continues a sequence; infinite where it does not."""
    return number - last if last is not None and number > last else math.inf
