"""Judges by heartbeats which nodes have died: free of ROS.

A heartbeat has a limit of its own, since the streams of a large model may rightly be silent for
longer. A node that never sent one is not judged. All times are seconds of one steady clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class _Pulse:
    """The newest life of one publisher."""

    life: int  # the one that is followed
    heard_at: float  # its last beat [s]
    stopped: bool = False


class Heartbeats:
    """Keeps the last heartbeat of each watched node. Not thread safe: one thread calls all."""

    def __init__(self, nodes: Iterable[str], max_age: float):
        """nodes: fully qualified names. max_age: longest time between two beats of a life [s]."""
        self._nodes = frozenset(nodes)
        self._max_age = max_age
        self._pulses: dict[str, _Pulse] = {}

    def beat(self, node: str, life: int, now: float) -> bool:
        """A heartbeat came in; returns whether another life has taken the place of a stopped one.

        A life other than the one that is followed says nothing until that has stopped, so that it
        cannot cover up a death. Nor does a node that is not watched.
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
        """Whether that node has sent a heartbeat, be it that it has stopped since."""
        return node in self._pulses

    def stopped(self, now: float) -> set[str]:
        """Nodes whose heartbeat has stopped; to be asked after all beats that have come by now."""
        for pulse in self._pulses.values():
            pulse.stopped = pulse.stopped or now - pulse.heard_at > self._max_age
        return {node for node, pulse in self._pulses.items() if pulse.stopped}

    def forget_stopped(self) -> None:
        """From now on nodes whose heartbeat has stopped count as if they had never sent one."""
        self._pulses = {node: p for node, p in self._pulses.items() if not p.stopped}
