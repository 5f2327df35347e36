"""Subscriptions that are polled, instead of waking the node for each message.

At each wake-up rclpy's executor checks everything on a node, which in Python costs more than most
messages do. What a cycle needs is better taken in the cycle.
"""

from __future__ import annotations

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile


class Unattended(CallbackGroup):
    """A group that is never executed: messages and events wait until they are taken."""

    def can_execute(self, entity) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity) -> None:
        """Nothing was begun."""


class PolledSubscription:
    """A subscription without a callback; the node destroys it with its others."""

    def __init__(self, node: Node, kind: type, topic: str, profile: QoSProfile, raw: bool = False):
        """raw: messages are taken as bytes, not unpacked."""
        self._kind, self._raw = kind, raw
        # rclpy's information about the last message taken.
        self.info: dict = {}
        self._subscription = node.create_subscription(
            kind, topic, lambda _: None, profile, callback_group=Unattended(), raw=raw
        )

    def take(self):
        """The oldest message that waits; None when none does."""
        with self._subscription.handle:
            taken = self._subscription.handle.take_message(self._kind, self._raw)
        if taken is None:
            return None
        message, self.info = taken
        return message
