"""The controller's inputs, each of which must have one source, and others on its own topics.

While a second source sends, it is ignored and the arm holds, since there is no way to know which is
right. What others say on the controller's topics vla/instruction and vla/status, or as responses
beside the model's, moves nothing: nobody believes it, the arm goes on, and the status names them.
"""

from __future__ import annotations

import time

from vla_ros.msg import Instruction, Response

from vla_nodes.core import qos
from vla_nodes.core.liveliness import WriterWatch, lease_of
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.sources import LOOK_PERIOD, OneSource, SourceWatch, other_publishers

INSTRUCTIONS, STATUSES = "vla/instruction", "vla/status"
# What to do about another publisher of the controller's topics.
INSTEAD = {
    INSTRUCTIONS: " (the service vla/set_instruction is for instructions)",
    STATUSES: " (the service vla/stop stops the policy)",
}


class ControllerSources:
    """Watches all streams that the controller reads, and its own topics."""

    def __init__(self, node: ManagedNode, joint_states_topic: str):
        self._node = node
        # Nodes may share the topic: an arm's and a gripper's driver often do.
        self.joint_states = SourceWatch(node, joint_states_topic, "the arm's joint states")
        self._watches = [self.joint_states]
        # The arm does not move by these.
        self.responses = OneSource(node, "vla/response", Response, "responses", qos.RESPONSE)
        # Detects another living controller of our own name by its liveliness.
        self._controllers = WriterWatch(
            node, Instruction, INSTRUCTIONS, qos.LATCHED, lambda _: None
        )
        self._looked_at = 0.0
        self._has_other = False
        self._told: set[str] = set()
        # Why the arm must hold, and what else to report; "" for nothing.
        self.problem = self.notice = ""
        node.diagnostics.checks.append(self._report)

    def watch(self, topic: str, what: str, writer: WriterWatch) -> SourceWatch:
        """Adds a stream that must have one living publisher."""
        self._watches.append(SourceWatch(self._node, topic, what, writer))
        return self._watches[-1]

    def poll(self, announced_at: float) -> bool:
        """Call it once in a cycle; whether a second source has just appeared.

        announced_at: when we last announced an instruction, steady clock [s].
        """
        now = time.monotonic()
        for watch in self._watches:
            watch.poll()
        problem = next((w.problem for w in self._watches if w.problem), "")
        problem = problem or self._second_controller(now - announced_at)
        has_come = bool(problem) and not self.problem
        self.problem = problem
        if now - self._looked_at > LOOK_PERIOD:
            self._looked_at = now
            self.responses.poll()
            notices = (*map(self._foreign, INSTEAD), self.responses.problem)
            self.notice = "; ".join(filter(None, notices))
        if {self.problem, self.notice} - self._told - {""}:
            self._report()
        self._told = {self.problem, self.notice}
        return has_come

    def close(self) -> None:
        """Stops watching and reporting."""
        self._controllers.destroy()
        self.responses.destroy()
        self._node.diagnostics.checks.remove(self._report)

    def _second_controller(self, silence: float) -> str:
        """silence: since our last announcement [s], which our own reader hears, too.

        One living writer may be our own, whose lease a busy machine ends late.
        """
        self._controllers.poll()
        if self._controllers.alive > 1:
            self._has_other = True
        elif silence > 2 * lease_of(self._node) and not self._controllers.alive:
            self._has_other = False
        if not self._has_other:
            return ""
        name = self._node.get_fully_qualified_name()
        return (
            f"another controller of the name {name} runs, too: end one, or give each graph a "
            "namespace or a ROS_DOMAIN_ID of its own"
        )

    def _foreign(self, own_topic: str) -> str:
        """Who else publishes on a topic of ours, in words; "" for nobody."""
        if self._node.count_publishers(own_topic) <= 1:
            return ""
        others = other_publishers(self._node, own_topic)
        if not others:
            return ""
        topic = self._node.resolve_topic_name(own_topic)
        return (
            f"{', '.join(others)} publishes on '{topic}', too, which is the controller's: it is "
            f"not followed, end it{INSTEAD[own_topic]}"
        )

    def _report(self) -> None:
        # One report: a later one of the same reason would hide it.
        if text := "; ".join(filter(None, (self.problem, self.notice))):
            self._node.diagnostics.report("second_publisher", text)
