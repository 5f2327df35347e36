"""Subscriptions that are made again where nothing comes although the topic has a publisher.

After about one in 650 kills of `perception` its successor got no images for minutes (Fast DDS 2.14,
shared memory), while the camera went on sending. A reader that is made again is matched again. A
publisher that sends nothing looks the same from here, so the pauses grow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from functools import partial

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

# Silence before a subscription is made again for the first time, and at most between two times [s].
FIRST_PATIENCE = 3.0
LONGEST_PATIENCE = 60.0


class RenewedSubscription:
    """One subscription of a node, whichever reader serves it at present."""

    def __init__(
        self,
        node: Node,
        kind: type,
        topic: str,
        callback: Callable,
        profile: QoSProfile,
        first_patience: float = FIRST_PATIENCE,
        longest_patience: float = LONGEST_PATIENCE,
    ):
        """callback: takes a message and what rclpy says of it.

        first_patience, longest_patience [s]: as the constants, which they are by default.
        """
        self._node, self._callback = node, callback
        take: Callable = self._on_message
        self._make = partial(node.create_subscription, kind, topic, take, profile)
        self._first_patience, self._longest_patience = first_patience, longest_patience
        self.topic = topic
        # Steady clock [s]; at first when it was made.
        self.heard_at = self._made_at = time.monotonic()
        # How often it was made again, in all and in the present silence.
        self.renewals = self._renewals_now = 0
        self._patience = first_patience
        # Since when there is a publisher, as seen by poll(); infinite while there is none.
        self._published_since = math.inf
        self._subscription: Subscription = self._make()
        # A lifecycle node knows what it made by identity, which must not be given to another.
        self._first = self._subscription

    @property
    def has_publisher(self) -> bool:
        """Whether the graph knows one."""
        return self._node.count_publishers(self.topic) > 0

    def poll(self) -> None:
        """Makes it again if it is time; to be called about once a second.

        Not from a callback of this subscription, which would destroy what is being executed.
        """
        now = time.monotonic()
        if self.heard_at > self._made_at and self._renewals_now:
            self._node.get_logger().info(
                f"messages come on '{self.topic}' again; its subscription had been made again "
                f"{self._renewals_now} time(s)"
            )
            self._renewals_now, self._patience = 0, self._first_patience
        self._published_since = min(self._published_since, now) if self.has_publisher else math.inf
        if now - max(self.heard_at, self._made_at, self._published_since) <= self._patience:
            return
        if not self._renewals_now:
            self._node.get_logger().warning(
                f"nothing has come on '{self.topic}' for {now - self.heard_at:.1f} s although it "
                "has a publisher: its subscription is made again, now and after longer and longer "
                "pauses"
            )
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._make()
        self._made_at = now
        self.renewals += 1
        self._renewals_now += 1
        self._patience = min(2.0 * self._patience, self._longest_patience)

    def close(self) -> None:
        """Destroys it; not from a callback of its own."""
        self._node.destroy_subscription(self._subscription)

    def _on_message(self, message: object, info: dict) -> None:
        self.heard_at = time.monotonic()
        self._callback(message, info)


def renew_silent(subscriptions: Iterable[RenewedSubscription]) -> str:
    """Polls all of them; the topics of those that were made again, and how often, for people."""
    counts: dict[str, int] = {}
    for subscription in subscriptions:
        subscription.poll()
        if subscription.renewals:
            counts[subscription.topic] = subscription.renewals
    return ", ".join(f"{topic} {count}" for topic, count in counts.items()) or "none"
