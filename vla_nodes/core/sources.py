"""Watches that a topic has one source, and names the nodes that publish where it has two.

    watch = SourceWatch(node, "vla/latent_action", "latent actions", writer)
    watch.poll()                       # ten times a second: reads the graph
    if watch.accepts(info): …          # for each message, before it is used
    watch.problem                      # "" or a sentence that names topic and nodes

A publisher is on the graph before its first message arrives, so not even that one is used. The
decision is made in vla.control.sources.
"""

from __future__ import annotations

import time
from dataclasses import replace

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vla.control.sources import (
    Publisher,
    SourceTrack,
    count_sources,
    may_be_restarted,
    name_sources,
)
from vla_nodes.core.liveliness import WriterWatch

# A second source is reported for this long after it has left [s].
SHOWN = 1.5
# How often the publishers of a topic with several are checked [s].
LOOK_PERIOD = 0.1
# A publisher's name comes after the publisher; one without a name by then is no ROS node [s].
NAME_PATIENCE = 2.0
# Longer leases do not count [s].
LONGEST_PROMISE = Duration(seconds=10.0)
# Bytes of an endpoint's identity that a process's endpoints share, by DDS's definition.
PROCESS = 12
# rmw's name for a node whose name is not known yet.
UNKNOWN = "_NODE_NAME_UNKNOWN_"


class SourceWatch:
    """One topic, or one kind of messages on a topic that nodes share."""

    def __init__(self, node: Node, topic: str, what: str, writer: WriterWatch | None = None):
        """topic: as the node calls it. what: is sent, for people ("action chunks").

        writer: knows how many publishers with a lease are alive; each further publisher is then a
        second source. Without it nodes may share the topic, as an arm's and a gripper's driver
        share joint states, as long as no two of them send messages that this watch gets.
        """
        self._node, self._what, self._writer = node, what, writer
        self._topic = node.resolve_topic_name(topic)
        self._track = SourceTrack()
        self._seen: dict[bytes, Publisher] = {}
        self._count = 0
        # Whether one of the publishers can be another's successor; None while a name is awaited.
        self._may_be_restarted: bool | None = None
        self._nameless_since: dict[bytes, float] = {}
        self._looked_at = self._second_at = -float("inf")
        self.problem = ""

    def poll(self) -> None:
        """Reads the graph, and updates `problem`; cheap unless there are several publishers."""
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
        """Takes rclpy's information about a message; whether it may be used.

        On a shared topic, the source so far is used further: which of two is right is not known, so
        check `problem` before anything moves by it.
        """
        self.poll()
        number = info["publication_sequence_number"]
        # Not every middleware numbers messages.
        now = time.monotonic()
        if number is not None and not self._track.follows(
            number, self._count, now, self._may_be_restarted
        ):
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
        # In the order of their appearance.
        self._seen = {key: found.pop(key) for key in self._seen if key in found} | found
        nameless = [key for key, publisher in self._seen.items() if not publisher.node]
        now = time.monotonic()
        self._nameless_since = {key: self._nameless_since.get(key, now) for key in nameless}
        is_awaited = any(now - at < NAME_PATIENCE for at in self._nameless_since.values())
        self._may_be_restarted = None if is_awaited else may_be_restarted(list(self._seen.values()))


class OneSource:
    """A topic that must have one living publisher: the watches of both facts, polled together."""

    def __init__(self, node: Node, topic: str, kind: type, what: str, profile: QoSProfile):
        """topic: as the node calls it. kind: of messages. what: is sent, for people."""
        self._writer = WriterWatch(node, kind, topic, profile, lambda alive: None)
        self._watch = SourceWatch(node, topic, what, self._writer)

    @property
    def problem(self) -> str:
        """A sentence that names topic and nodes while there are two, else ""."""
        return self._watch.problem

    def poll(self) -> None:
        """Reads the graph and the signs of life; call it ten times a second."""
        self._writer.poll()
        self._watch.poll()

    def accepts(self, info: dict) -> bool:
        """Takes rclpy's information about a message; whether it may be used."""
        self._writer.poll()
        return self._watch.accepts(info)

    def destroy(self) -> None:
        """Ends the watch; the node destroys its reader."""
        self._writer.destroy()


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
    """Names of nodes by the part of an endpoint's identity that identifies the process.

    The graph knows an endpoint before it knows its node, and a short-lived one may be gone by then.
    Every node publishes its parameters' changes from its start on.
    """
    return {
        bytes(entry.endpoint_gid)[:PROCESS]: name
        for entry in node.get_publishers_info_by_topic("/parameter_events")
        if (name := _full_name(entry))
    }


def other_publishers(node: Node, topic: str) -> list[str]:
    """Names of the other nodes that publish on this node's own topic.

    Those of our own name with a lease are left out: the publisher of a killed process stays on the
    graph for a while, and this node may be its successor.
    """
    own = node.get_fully_qualified_name()
    others = [p for p in publishers_of(node, topic) if not (p.promises and p.node == own)]
    return list(dict.fromkeys(p.node or "a node without a name" for p in others))


def _full_name(entry: TopicEndpointInfo) -> str:
    """The fully qualified name of an endpoint's node; "" where the graph does not know it yet."""
    if UNKNOWN in entry.node_name:
        return ""
    return f"{entry.node_namespace.rstrip('/')}/{entry.node_name}"
