"""The instruction in force, for a node that reads vla/instruction and vla/status of the controller.

    watch = InstructionWatch(node)
    watch.poll()                       # ten times a second
    if watch.announce(instruction): …  # for each message of vla/instruction
    if watch.confirm(status): …        # for each message of vla/status
    watch.instruction, watch.problem

The node subscribes to both topics itself. What counts is decided in followed_instruction.py.
"""

from __future__ import annotations

from rclpy.node import Node
from vla_ros.msg import Instruction, PolicyStatus

from vla_nodes.core import qos
from vla_nodes.core.followed_instruction import FollowedInstruction
from vla_nodes.core.sources import OneSource

NEITHER = "until then the instruction that was in force goes on, since neither topic can be trusted"


class InstructionWatch:
    """Follows the controller, and names others who publish on its topics. One thread calls it."""

    def __init__(self, node: Node):
        """The node must not be the controller."""
        self._followed = FollowedInstruction()
        self._instructions = OneSource(
            node, "vla/instruction", Instruction, "instructions", qos.LATCHED
        )
        self._statuses = OneSource(node, "vla/status", PolicyStatus, "statuses", qos.LATCHED)

    @property
    def instruction(self) -> Instruction:
        """The instruction in force; its id is 0 when there is none."""
        return self._followed.instruction

    @property
    def problem(self) -> str:
        """Who else publishes on the two topics, in words; "" for nobody."""
        problems = [source.problem for source in (self._instructions, self._statuses)]
        if all(problems):
            problems.append(NEITHER)
        return "; ".join(filter(None, problems))

    def poll(self) -> None:
        """Reads the graph."""
        self._instructions.poll()
        self._statuses.poll()
        if self._statuses.problem:
            self._followed.doubt()

    def announce(self, message: Instruction) -> bool:
        """Takes an announcement; whether another instruction is in force now, or the same again."""
        self.poll()
        return self._followed.announce(message, alone=not self._instructions.problem)

    def confirm(self, status: PolicyStatus) -> bool:
        """Takes a status; whether another instruction is in force now."""
        self.poll()
        if self._statuses.problem:
            return False
        return self._followed.confirm(status, alone=not self._instructions.problem)

    def destroy(self) -> None:
        """Ends the watch; the node destroys its readers."""
        self._instructions.destroy()
        self._statuses.destroy()
