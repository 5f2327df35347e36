"""Judges by heartbeats which nodes have died. No ROS.

Heartbeats have their own limit, since the streams of a large model may rightly be silent for
longer. A node that never sent one is not judged. All times are seconds of one steady clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class _Pulse:
    """The life that is followed of one node."""

    life: int  # identifies the process
    heard_at: float  # its last beat [s]
    stopped: bool = False


class Heartbeats:
    """The last heartbeat of each watched node. Not thread safe: one thread calls all methods."""

    def __init__(self, nodes: Iterable[str], max_age: float):
        """nodes: fully qualified names. max_age: longest time between two beats [s]."""
        self._nodes = frozenset(nodes)
        self._max_age = max_age
        self._pulses: dict[str, _Pulse] = {}

    def beat(self, node: str, life: int, now: float) -> bool:
        """A heartbeat arrived; returns whether a new life replaces a stopped one.

        Another life is ignored until the one that is followed has stopped, so that it cannot hide a
        death, and so is a node that is not watched.
        """
        if node not in self._nodes:
            return False
        pulse = self._pulses.get(node)
        if pulse is None or pulse.stopped:
            self._pulses[node] = _Pulse(life, now)
            return pulse is not None and pulse.life != life
        if pulse.life == life:
            pulse.heard_at = now
        return False

    def beats(self, node: str) -> bool:
        """Whether that node has ever sent a heartbeat."""
        return node in self._pulses

    def stopped(self, now: float) -> set[str]:
        """Nodes whose heartbeat has stopped; call it after beat() for all that have arrived."""
        for pulse in self._pulses.values():
            pulse.stopped = pulse.stopped or now - pulse.heard_at > self._max_age
        return {node for node, pulse in self._pulses.items() if pulse.stopped}

    def forget_stopped(self) -> None:
        """From now on the stopped nodes count as if they had never sent a heartbeat."""
        self._pulses = {node: p for node, p in self._pulses.items() if not p.stopped}
