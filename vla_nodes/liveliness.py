"""Learns within a fraction of a second that the process behind a topic has died.

Ages alone cannot tell that in time: a large model may rightly be silent for a second. So the
writers of observations, latent actions and chunks promise a sign of life, which the middleware's
own threads give, and the controller asks for it in a reader of its own, beside the one that takes
the messages. A writer that promises nothing, such as somebody else's model node, is read all the
same; then only ages count.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.qos import LivelinessPolicy, QoSProfile

# A death is noticed after one lease at most. The arm must rest within 300 ms, and its servos take
# about 180 of them to come to rest from full speed. Any shorter, and a busy machine would look like
# a dead one: the middleware gives a sign after two thirds of the lease.
LEASE = 0.1


def promising(profile: QoSProfile) -> QoSProfile:
    """The same profile for a writer, or a reader, that promises, or asks for, signs of life."""
    return QoSProfile(
        depth=profile.depth,
        history=profile.history,
        reliability=profile.reliability,
        durability=profile.durability,
        liveliness=LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=Duration(seconds=LEASE),
    )


def watch_writers(
    node, message_type, topic: str, profile: QoSProfile, on_alive: Callable[[bool], None]
):
    """Calls `on_alive` with whether a writer of the topic lives, whenever that changes.

    Returns the subscription, for the node to destroy, or None when the middleware cannot tell.
    """

    def note(status) -> None:
        on_alive(status.alive_count > 0)

    def ignore_other_promises(status) -> None:
        node.get_logger().info(
            f"a writer of {topic} promises no signs of life (liveliness lease of {LEASE} s): its "
            "death will be noticed only when its messages are too old"
        )

    events = SubscriptionEventCallbacks(
        liveliness=note, incompatible_qos=ignore_other_promises, use_default_callbacks=False
    )
    try:
        return node.create_subscription(
            message_type,
            topic,
            lambda message: None,
            promising(profile),
            event_callbacks=events,
            raw=True,
        )
    except UnsupportedEventTypeError:
        node.get_logger().warning(
            f"this middleware gives no signs of life for {topic}: a dead writer will be noticed "
            "only when its messages are too old"
        )
        return None
