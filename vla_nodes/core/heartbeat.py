"""Heartbeats: a node's own sign of life, beside the middleware's liveliness.

The middleware does not report every death of a writer. So `perception` and the model nodes also
publish a heartbeat many times a second, from a thread that waits for neither the executor nor the
model, and the controller checks it in each cycle.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable

from rclpy.node import Node
from vla_ros.msg import Heartbeat

from vla.control.heartbeats import Heartbeats
from vla_nodes.core import qos
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.pacing import PacedLoop
from vla_nodes.core.polled import PolledSubscription

TOPIC = "vla/heartbeat"
# Several beats fit into the controller's limit, so that a lost one does not count as a death.
PERIOD = 0.02
# A node whose messages arrive for this long without a heartbeat sends none [s].
PATIENCE = 2.0


class Heart:
    """Publishes a node's heartbeat from start() to stop(). Made in `configure`, for one life."""

    def __init__(self, node: ManagedNode):
        self._node = node
        self._publisher = node.create_publisher(Heartbeat, TOPIC, qos.HEARTBEAT)
        self._life = secrets.randbits(64)
        self._loop: PacedLoop | None = None

    def start(self) -> None:
        """Begins to publish."""
        message = Heartbeat(node=self._node.get_fully_qualified_name(), life=self._life)

        def beat() -> None:
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._publisher.publish(message)

        self._loop = PacedLoop(
            "heartbeat",
            PERIOD,
            beat,
            self._node.report_failure,
        )
        self._loop.start()

    def stop(self) -> None:
        """Ends that; has no effect before start()."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()


class HeartbeatWatch:
    """Follows the heartbeats of some nodes, and reports when one stops. Poll it in each cycle."""

    def __init__(
        self,
        node: Node,
        names: tuple[str, ...],
        max_age: float,
        on_alive: Callable[[str, bool], None],
        on_new_life: Callable[[str], None],
    ):
        """names: of nodes in the namespace of `node`. max_age: see Heartbeats [s].

        on_alive: called by poll() with a name and whether that node lives, when that has changed.
        on_new_life: called with the name of a node that stopped and was restarted.
        """
        self._node, self._on_alive, self._on_new_life = node, on_alive, on_new_life
        space = node.get_namespace().rstrip("/")
        self._names = {f"{space}/{name}": name for name in names}
        self._heartbeats = Heartbeats(self._names, max_age)
        self._stopped: set[str] = set()
        self._works_since = dict.fromkeys(names, math.inf)
        self._subscription = PolledSubscription(node, Heartbeat, TOPIC, qos.HEARTBEAT)

    def poll(self) -> None:
        """Takes the heartbeats that have arrived, and calls on_alive for changes."""
        for _ in range(qos.HEARTBEAT.depth):
            message = self._subscription.take()
            if message is None:
                break
            if self._heartbeats.beat(message.node, message.life, time.monotonic()):
                self._on_new_life(self._names[message.node])
        stopped = self._heartbeats.stopped(time.monotonic())
        for full_name in stopped ^ self._stopped:
            self._on_alive(self._names[full_name], full_name not in stopped)
        self._stopped = stopped

    def heard(self) -> list[str]:
        """Names of the nodes whose heartbeat is followed, stopped ones too."""
        return [name for full, name in self._names.items() if self._heartbeats.beats(full)]

    def note_work(self, name: str) -> None:
        """A message of that node arrived: logs once if it sends no heartbeat."""
        now = time.monotonic()
        since = self._works_since.get(name)
        if since is None:
            return
        self._works_since[name] = min(since, now)
        if now - since < PATIENCE:
            return
        del self._works_since[name]
        full_name = next(full for full, short in self._names.items() if short == name)
        if not self._heartbeats.beats(full_name):
            self._node.get_logger().info(
                f"no heartbeat of {full_name} arrives on {TOPIC}, although its messages do: its "
                "death will be noticed by the middleware, or when its messages are too old"
            )

    def forget_stopped(self) -> list[str]:
        """Treats nodes whose heartbeat has stopped as replaced by ones without a heartbeat.

        Returns their names; on_alive is not called for them.
        """
        self._heartbeats.forget_stopped()
        names = [self._names[full_name] for full_name in self._stopped]
        self._stopped = set()
        return names
