"""Approximate-time synchronisation: message_filters where it is installed, else an equivalent.

    filters = [Subscriber(node, Image, topic, qos_profile=SENSOR) for topic in topics]
    synchronizer = ApproximateTimeSynchronizer(filters, queue_size=10, slop=0.02)
    synchronizer.registerCallback(on_set)      # called with one message per filter, in order

The names of message_filters are kept. Ours differs in one point: of several messages that would
fit it takes the one nearest in time to the message that completes the set, not the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node

from vla.data.messages import NANOSECONDS, stamp_to_nanoseconds


class OwnSubscriber:
    """A subscription whose messages go to every registered callback."""

    def __init__(self, node: Node, kind: type, topic: str, **options: Any):
        self.topic = topic
        self._callbacks: list[tuple[Callable, tuple]] = []
        options.setdefault("qos_profile", 10)
        self.sub = node.create_subscription(kind, topic, self._deliver, **options)

    def registerCallback(self, callback: Callable, *arguments: Any) -> None:
        """Has `callback(message, *arguments)` called for each message."""
        self._callbacks.append((callback, arguments))

    def _deliver(self, message: Any) -> None:
        for callback, arguments in self._callbacks:
            callback(message, *arguments)


class OwnApproximateTimeSynchronizer:
    """Calls back with one message of each filter whose stamps lie less than `slop` [s] apart.

    queue_size: messages kept per filter while they wait for the others.
    """

    def __init__(self, filters: Sequence[Any], queue_size: int, slop: float):
        self._queue_size = queue_size
        self._slop = round(slop * NANOSECONDS)
        self._queues: list[dict[int, Any]] = [{} for _ in filters]
        self._callbacks: list[tuple[Callable, tuple]] = []
        for index, source in enumerate(filters):
            source.registerCallback(self._add, index)

    def registerCallback(self, callback: Callable, *arguments: Any) -> None:
        """Has `callback(*messages, *arguments)` called for each set."""
        self._callbacks.append((callback, arguments))

    def _add(self, message: Any, index: int) -> None:
        stamp = stamp_to_nanoseconds(message.header.stamp)
        queue = self._queues[index]
        queue[stamp] = message
        while len(queue) > self._queue_size:
            # By arrival, not by stamp, so that a clock that jumps back does not block the queue.
            del queue[next(iter(queue))]
        if not all(self._queues):
            return
        stamps = [min(other, key=lambda time: abs(time - stamp)) for other in self._queues]
        stamps[index] = stamp
        if max(stamps) - min(stamps) >= self._slop:
            return
        messages = [other[time] for other, time in zip(self._queues, stamps, strict=True)]
        for other, used in zip(self._queues, stamps, strict=True):
            for time in [time for time in other if time <= used]:
                del other[time]
        for callback, arguments in self._callbacks:
            callback(*messages, *arguments)


try:
    from message_filters import ApproximateTimeSynchronizer, Subscriber
except ImportError:
    ApproximateTimeSynchronizer = OwnApproximateTimeSynchronizer
    Subscriber = OwnSubscriber
