"""Detects within a fraction of a second that the process behind a topic has died.

Ages alone cannot show that in time: a large model may rightly be silent for a second. So the
writers of observations, latent actions and chunks have a liveliness lease, which the middleware's
own threads renew, and the controller watches it in a second reader, beside the one that takes the
messages. A writer without a lease, such as another project's model node, is read as well; then only
ages count.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from rclpy.callback_groups import CallbackGroup
from rclpy.duration import Duration
from rclpy.event_handler import (
    EventHandler,
    QoSSubscriptionEventType,
    SubscriptionEventCallbacks,
    UnsupportedEventTypeError,
)
from rclpy.node import Node
from rclpy.qos import LivelinessPolicy, QoSProfile
from rclpy.subscription import Subscription

from vla_nodes.core.node import ManagedNode
from vla_nodes.core.polled import Unattended
from vla_nodes.core.qos import changed

# A death is noticed after one lease at most. The arm must rest within 300 ms, of which its servos
# need about 180 from full speed. With a shorter lease, which the middleware renews after two thirds
# of it, a busy machine would look like a dead one.
LEASE = 0.1


def lease_of(node: Node) -> float:
    """The node's parameter `liveliness_lease` [s]; LEASE of a node that has no such parameter."""
    return node.settings["liveliness_lease"] if isinstance(node, ManagedNode) else LEASE


def with_liveliness(profile: QoSProfile, lease: float = LEASE) -> QoSProfile:
    """The same profile with a liveliness lease [s], of a writer's offer or a reader's request."""
    duration = Duration(seconds=lease)
    return changed(
        profile, liveliness=LivelinessPolicy.AUTOMATIC, liveliness_lease_duration=duration
    )


class WriterWatch:
    """Reports on request whether a topic has a living writer.

    Poll it often, as in each control cycle: rclpy would wake the node for each message of this
    reader, although only the few events are needed.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        profile: QoSProfile,
        on_alive: Callable[[bool], None],
    ):
        """on_alive: called by poll() with whether a writer lives, when that has changed."""
        self._node, self._topic, self._on_alive = node, topic, on_alive
        group = Unattended()
        subscription = node.create_subscription(
            message_type,
            topic,
            lambda message: None,
            with_liveliness(profile, lease_of(node)),
            callback_group=group,
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            raw=True,
        )
        self._liveliness = self._other_promises = None
        self._counts = (0, 0)
        try:
            kinds = QoSSubscriptionEventType
            self._liveliness = _PolledEvent(
                subscription, group, kinds.RCL_SUBSCRIPTION_LIVELINESS_CHANGED
            )
            self._other_promises = _PolledEvent(
                subscription, group, kinds.RCL_SUBSCRIPTION_REQUESTED_INCOMPATIBLE_QOS
            )
        except UnsupportedEventTypeError:
            node.get_logger().warning(
                f"this middleware gives no signs of life for {topic}: a dead writer will be "
                "noticed only when its messages are too old"
            )

    @property
    def alive(self) -> int:
        """How many writers were alive at the last poll."""
        return self._counts[0]

    def poll(self) -> None:
        """Takes the events, and calls on_alive for changes."""
        if self._liveliness is None:
            return
        status = self._liveliness.take()
        counts = (status.alive_count, status.not_alive_count)
        if counts != self._counts:
            self._counts = counts
            self._on_alive(status.alive_count > 0)
        if self._other_promises and self._other_promises.take().total_count_change:
            self._node.get_logger().info(
                f"a writer of {self._topic} promises no signs of life (liveliness lease of "
                f"{lease_of(self._node):g} s): its death will be noticed only when its messages "
                "are too old"
            )

    def destroy(self) -> None:
        """Releases the reader, which the node destroys."""
        for event in (self._liveliness, self._other_promises):
            if event is not None:
                event.destroy()
        self._liveliness = self._other_promises = None


class _PolledEvent(EventHandler):
    """An event's status, without a callback."""

    def __init__(self, subscription: Subscription, group: CallbackGroup, kind: IntEnum):
        super().__init__(
            callback_group=group,
            callback=lambda status: None,
            event_type=kind,
            parent_impl=subscription.handle,
        )

    def take(self):
        """The status; its changes are those since the last call."""
        self._ready_to_take_data = True
        return self.take_data()
