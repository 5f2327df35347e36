"""The controller's inputs, each of which must have one source, and foreign instructions.

While a second source sends, it is ignored and the arm holds, since there is no way to know which is
right. An instruction that another node announces moves nothing: the model nodes follow what
vla/status confirms, so the arm goes on, and the status names that node.
"""

from __future__ import annotations

import time

from vla_ros.msg import Instruction

from vla_nodes.core import qos
from vla_nodes.core.liveliness import LEASE, WriterWatch
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.sources import LOOK_PERIOD, SourceWatch, other_publishers

INSTRUCTIONS = "vla/instruction"
# A publisher of our own process is alive for one lease after each of its messages [s].
OWN_SIGN = 2 * LEASE


class ControllerSources:
    """Watches all streams that the controller reads, and its own topic of instructions."""

    def __init__(self, node: ManagedNode, joint_states_topic: str):
        self._node = node
        # Nodes may share the topic: an arm's and a gripper's driver often do.
        self.joint_states = SourceWatch(node, joint_states_topic, "the arm's joint states")
        self._watches = [self.joint_states]
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
            self.notice = self._foreign_instructions()
        if {self.problem, self.notice} - self._told - {""}:
            self._report()
        self._told = {self.problem, self.notice}
        return has_come

    def close(self) -> None:
        """Stops watching and reporting."""
        self._controllers.destroy()
        self._node.diagnostics.checks.remove(self._report)

    def _second_controller(self, silence: float) -> str:
        """silence: since our last announcement [s], which our own reader hears, too."""
        self._controllers.poll()
        if silence > OWN_SIGN:
            self._has_other = self._controllers.alive > 0
        if not self._has_other:
            return ""
        name = self._node.get_fully_qualified_name()
        return (
            f"another controller of the name {name} runs, too: end one, or give each graph a "
            "namespace or a ROS_DOMAIN_ID of its own"
        )

    def _foreign_instructions(self) -> str:
        if self._node.count_publishers(INSTRUCTIONS) <= 1:
            return ""
        others = other_publishers(self._node, INSTRUCTIONS)
        if not others:
            return ""
        topic = self._node.resolve_topic_name(INSTRUCTIONS)
        return (
            f"{', '.join(others)} publishes on '{topic}', too, which is the controller's: it is "
            "not followed, end it (the service vla/set_instruction is for instructions)"
        )

    def _report(self) -> None:
        for text in (self.problem, self.notice):
            if text:
                self._node.diagnostics.report("second_publisher", text)
