"""Heartbeats: a node's own sign of life, beside the one that the middleware gives for it.

The middleware's word that a writer is gone does not come after every death. So `perception` and the
model nodes also say many times a second that they live, in a thread that waits for neither the
executor nor the model, and the controller looks in each cycle whether they still do.
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
# Several beats come within the limit of the controller, so that a lost one is no death.
PERIOD = 0.02
# A node whose messages have come for so long without a heartbeat sends none [s].
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
        """Ends that; does nothing where it has not begun."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()


class HeartbeatWatch:
    """Hears the heartbeats of some nodes, and tells when one stops. To be asked in each cycle."""

    def __init__(
        self,
        node: Node,
        names: tuple[str, ...],
        max_age: float,
        on_alive: Callable[[str, bool], None],
        on_new_life: Callable[[str], None],
    ):
        """names: of nodes in the namespace of `node`. max_age: see Heartbeats [s].

        on_alive: called by poll() with a name, and whether that node lives, when that has changed.
        on_new_life: called with the name of a node that stopped and has been started again.
        """
        self._node, self._on_alive, self._on_new_life = node, on_alive, on_new_life
        space = node.get_namespace().rstrip("/")
        self._names = {f"{space}/{name}": name for name in names}
        self._heartbeats = Heartbeats(self._names, max_age)
        self._stopped: set[str] = set()
        self._works_since = dict.fromkeys(names, math.inf)
        self._subscription = PolledSubscription(node, Heartbeat, TOPIC, qos.HEARTBEAT)

    def poll(self) -> None:
        """Takes the heartbeats that have come, and calls on_alive where something has changed."""
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
        """A message of that node came in: says once, in the log, when it sends no heartbeat."""
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
                f"no heartbeat of {full_name} comes on {TOPIC}, although its messages do: its "
                "death will be noticed by the middleware's word, or when its messages are too old"
            )

    def forget_stopped(self) -> list[str]:
        """Takes nodes whose heartbeat has stopped for replaced by some that send none.

        Returns their names; on_alive is not called for them.
        """
        self._heartbeats.forget_stopped()
        names = [self._names[full_name] for full_name in self._stopped]
        self._stopped = set()
        return names
