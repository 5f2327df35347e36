"""Watches that a topic has one source, and names the nodes that publish where it has two.

    watch = SourceWatch(node, "vla/latent_action", "latent actions", writer)
    watch.poll()                       # ten times a second: looks at the graph
    if watch.accepts(info): …          # for each message, before it is used
    watch.problem                      # "" or a sentence that names topic and nodes

A publisher is on the graph before its first message arrives, so not even that one is used. What is
decided is in vla.control.sources.
"""

from __future__ import annotations

import time
from dataclasses import replace

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vla.control.sources import Publisher, SourceTrack, count_sources, name_sources
from vla_nodes.core.liveliness import WriterWatch

# A second source that has left is spoken of for so long, so that everybody sees it [s].
SHOWN = 1.5
# How often the publishers of a topic that has several are looked at [s].
LOOK_PERIOD = 0.1
# Leases beyond this promise nothing [s].
LONGEST_PROMISE = Duration(seconds=10.0)
# Bytes of an endpoint's identity that those of one process share, by DDS's definition.
PROCESS = 12
# What rmw calls a node whose name has not come yet.
UNKNOWN = "_NODE_NAME_UNKNOWN_"


class SourceWatch:
    """One topic, or one kind of messages on a topic that nodes share."""

    def __init__(self, node: Node, topic: str, what: str, writer: WriterWatch | None = None):
        """topic: as the node calls it. what: is sent, for people ("action chunks").

        writer: tells how many of those that promise signs of life live; each further publisher is
        then a second source. Without it nodes may share the topic, as an arm's and a gripper's
        driver share joint states, as long as no two of them send what this watch is shown.
        """
        self._node, self._what, self._writer = node, what, writer
        self._topic = node.resolve_topic_name(topic)
        self._track = SourceTrack()
        self._seen: dict[bytes, Publisher] = {}
        self._count = 0
        self._looked_at = self._second_at = -float("inf")
        self.problem = ""

    def poll(self) -> None:
        """Looks at the graph, and brings `problem` up to date; cheap unless there are several."""
        now = time.monotonic()
        count = self._node.handle.get_count_publishers(self._topic)
        if count != self._count or (count > 1 and now - self._looked_at > LOOK_PERIOD):
            self._count, self._looked_at = count, now
            self._look()
        if count > 1 and self._has_second(now):
            self._second_at = now
            names = name_sources(list(self._seen.values()))
            self.problem = (
                f"{self._what} on '{self._topic}' come from more than one node ({names}): end the "
                "one that does not belong there"
            )
        elif now - self._second_at > SHOWN:
            self.problem = ""

    def accepts(self, info: dict) -> bool:
        """Takes what rclpy says of a message; whether that is to be used.

        On a topic that nodes share, the source so far is used on: which of two is the right one is
        not known, so see `problem` before anything moves by it.
        """
        self.poll()
        number = info["publication_sequence_number"]
        # Not every middleware numbers messages.
        if number is not None and not self._track.follows(number, self._count, time.monotonic()):
            self.poll()
            return False
        return self._writer is None or not self.problem

    def _has_second(self, now: float) -> bool:
        if self._track.in_doubt(self._count, now):
            return True
        if self._writer is None:
            return False
        return count_sources(list(self._seen.values()), self._writer.alive) > 1

    def _look(self) -> None:
        found = {
            publisher.identity: publisher for publisher in publishers_of(self._node, self._topic)
        }
        # In the order in which they came.
        self._seen = {key: found.pop(key) for key in self._seen if key in found} | found


def publishers_of(node: Node, topic: str) -> list[Publisher]:
    """The publishers of a topic that the graph knows."""
    entries = node.get_publishers_info_by_topic(topic)
    publishers = [
        Publisher(
            identity=bytes(entry.endpoint_gid),
            node=_full_name(entry),
            promises=entry.qos_profile.liveliness_lease_duration < LONGEST_PROMISE,
        )
        for entry in entries
    ]
    if all(publisher.node for publisher in publishers):
        return publishers
    processes = _names_of_processes(node)
    return [
        p if p.node else replace(p, node=processes.get(p.identity[:PROCESS], ""))
        for p in publishers
    ]


def _names_of_processes(node: Node) -> dict[bytes, str]:
    """Names of nodes by the part of an endpoint's identity that tells the process.

    The graph learns of an endpoint before it learns whose it is, and one that comes for a moment
    may be gone by then. Every node publishes its parameters' changes from its start on.
    """
    return {
        bytes(entry.endpoint_gid)[:PROCESS]: name
        for entry in node.get_publishers_info_by_topic("/parameter_events")
        if (name := _full_name(entry))
    }


def other_publishers(node: Node, topic: str) -> list[str]:
    """Names of the nodes that publish on a topic that is this node's own.

    Those of our own name that promise signs of life, as we do, are left out: the publisher of a
    process that was killed stays on the graph for a while, and this one may be its successor.
    """
    own = node.get_fully_qualified_name()
    others = [p for p in publishers_of(node, topic) if not (p.promises and p.node == own)]
    return list(dict.fromkeys(p.node or "a node without a name" for p in others))


def _full_name(entry: TopicEndpointInfo) -> str:
    """The fully qualified name of an endpoint's node; "" where the graph does not know it yet."""
    if UNKNOWN in entry.node_name:
        return ""
    return f"{entry.node_namespace.rstrip('/')}/{entry.node_name}"
