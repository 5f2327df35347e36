"""Everything that reaches the recorder: all topics, their freshness, and the ring buffer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from rclpy.node import Node

from vla.bags.episode_writer import RecordedTopic
from vla.bags.message_types import load_message_type
from vla.bags.ring_buffer import ReceivedMessage, RingBuffer
from vla_nodes.core.polled import Unattended
from vla_nodes.recorder.topics import TopicPlan, TopicReader, bag_qos, type_name

# Messages of different topics may be read this much later than they arrived [ns].
ORDERING_TIME = 10_000_000


def _receive_time(entry: tuple[TopicReader, ReceivedMessage]) -> int:
    return entry[1].receive_time


class Intake:
    """Reads all planned topics and passes on every wanted message."""

    def __init__(
        self,
        node: Node,
        plans: Sequence[TopicPlan],
        is_wanted: Callable[[TopicPlan], bool],
        ring_seconds: float = 0.0,
        ring_bytes: int = 0,
    ) -> None:
        """ring_seconds: 0 for no ring buffer."""
        group = Unattended()
        self.readers = [TopicReader(node, plan, group) for plan in plans]
        self._is_wanted = is_wanted
        self.classes = {reader.name: reader.plan.message_class for reader in self.readers}
        self.names = {reader.plan.name: reader.name for reader in self.readers}
        self.required = [reader.name for reader in self.readers if reader.plan.required]
        self._held: list[tuple[TopicReader, ReceivedMessage]] = []
        self._newest = 0
        self.ring: RingBuffer | None = None
        if ring_seconds > 0.0:
            latched = [reader.name for reader in self.readers if reader.plan.latched]
            self.ring = RingBuffer(ring_seconds, ring_bytes, latched)

    def close(self) -> None:
        """Ends all subscriptions."""
        for reader in self.readers:
            reader.close()

    def take(self, everything: bool = False) -> Iterator[tuple[TopicReader, ReceivedMessage]]:
        """Messages of the wanted topics since the last call, in the order of arrival.

        The order also holds across calls, since some readers refuse an unfinished bag without it:
        the newest messages wait for others that are still on their way, unless `everything` is
        asked for, and a late one gets the receive time of the one before it.
        """
        limit = time.time_ns() - ORDERING_TIME
        arrived, self._held = self._held, []
        for reader in self.readers:
            wanted = self._is_wanted(reader.plan)
            arrived += [(reader, message) for message in reader.take() if wanted]
        arrived.sort(key=_receive_time)
        for reader, message in arrived:
            if message.receive_time > limit and not everything:
                self._held.append((reader, message))
                continue
            if message.receive_time < self._newest:
                message = replace(message, receive_time=self._newest)
            self._newest = message.receive_time
            if self.ring is not None:
                self.ring.append(message)
            yield reader, message

    def now(self) -> int:
        """A time [ns] that no message to come is older than."""
        self._newest = max(self._newest, time.time_ns())
        return self._newest

    def match_publishers(self) -> None:
        """Adapts every subscription to the topic's publishers."""
        for reader in self.readers:
            reader.match_publishers()

    def topics(self) -> list[RecordedTopic]:
        """The wanted topics as a bag declares them."""
        return [
            RecordedTopic(
                reader.name,
                load_message_type(type_name(reader.plan.message_class)),
                (bag_qos(reader.profile),),
            )
            for reader in self.readers
            if self._is_wanted(reader.plan)
        ]

    def latched(self) -> list[ReceivedMessage]:
        """The newest message of each latched topic."""
        return [r.last for r in self.readers if r.plan.latched and r.last is not None]

    def silent(self, limit: float) -> list[str]:
        """Topics of the contract that were not heard for `limit` [s], each with the reason."""
        silent = []
        for reader in self.readers:
            publishers = reader.count_publishers()
            age = reader.age()
            if not reader.plan.required or age <= limit:
                continue
            if not publishers:
                reason = "nobody publishes it"
            elif math.isinf(age):
                reason = "nothing was received yet"
            else:
                reason = f"last message {age:.1f} s ago"
            silent.append(f"{reader.name} ({reason})")
        return silent

    def expire(self) -> None:
        """Drops messages that are too old for the ring buffer."""
        if self.ring is not None:
            self.ring.expire(time.time_ns())
