"""Which instruction a node follows when others than the controller announce some, too.

Messages do not say who sent them. While one node publishes on vla/instruction, what comes there is
in force. While there are several, it is in force only once the controller's status has the same id
and text; and since the controller announces its instruction again and again, a node that has heard
another is back within a second. While there are several on vla/status as well, neither topic tells
what the controller says, and the instruction that was in force stays so.
"""

from __future__ import annotations

from vla_ros.msg import Instruction, PolicyStatus

# Announcements that are remembered until the status confirms one.
REMEMBERED = 8


class FollowedInstruction:
    """The instruction in force; its id is 0 when there is none. Callbacks of one thread call it."""

    def __init__(self) -> None:
        self.instruction = Instruction()
        # None while it is not known what the controller says.
        self._status: PolicyStatus | None = None
        self._offers: dict[tuple[int, str], Instruction] = {}

    def announce(self, message: Instruction, alone: bool) -> bool:
        """Takes an announcement; whether another instruction is in force now, or the same again.

        alone: one node publishes on the topic.
        """
        if alone:
            return self._follow(message)
        key = (message.instruction_id, message.instruction)
        # The first of an id and text counts: what comes after it may be forged.
        self._offers.setdefault(key, message)
        while len(self._offers) > REMEMBERED:
            self._offers.pop(next(iter(self._offers)))
        return self._confirm()

    def confirm(self, status: PolicyStatus, alone: bool) -> bool:
        """Takes the controller's status; whether another instruction is in force now.

        alone: one node publishes on vla/instruction; what it announces then counts.
        """
        self._status = status
        if alone:
            self._offers.clear()
            return False
        return self._confirm()

    def doubt(self) -> None:
        """Forgets the last status: others than the controller may have sent it, or the next."""
        self._status = None

    def _confirm(self) -> bool:
        status = self._status
        if status is None:
            return False
        rests = status.state in (PolicyStatus.STOPPED, PolicyStatus.EMERGENCY_STOPPED)
        pauses = (PolicyStatus.HOLD_LOADING, PolicyStatus.HOLD_INACTIVE)
        if rests or status.hold_reason in pauses or status.instruction_id == 0:
            return self._follow(Instruction())
        told = (status.instruction_id, status.instruction)
        if told == (self.instruction.instruction_id, self.instruction.instruction):
            return False
        offer = self._offers.get(told)
        return offer is not None and self._follow(offer)

    def _follow(self, message: Instruction) -> bool:
        before, self.instruction = self.instruction, message
        return _key(message) != _key(before)


def _key(message: Instruction) -> tuple:
    """What differs between two starts, also of one instruction before and after a stop.

    The announcement of the stop between them may be missed, since only the last one is kept.
    """
    if message.instruction_id == 0:
        return (0,)
    stamp = message.header.stamp
    words = (message.instruction, message.mode)
    return (message.instruction_id, *words, stamp.sec, stamp.nanosec)
