"""The instruction in force and its progress. No ROS.

One instruction is in force at a time. It ends when another one replaces it, when it is stopped or
cancelled, or, if a caller waits for its result, when the motion settles, the time is up or the arm
has held for too long. All times are seconds of one steady clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from vla.core.shown import brief
from vla.core.text import TextError, check_text, one_line

MODES = ("act", "think", "ask")
LONGEST_INSTRUCTION = 1000
LONGEST_RESPONSE = 4000


class State(IntEnum):
    """State of the policy; the numbers are those of PolicyStatus."""

    IDLE = 0
    WAITING = 1
    EXECUTING = 2
    HOLDING = 3
    STOPPED = 4
    EMERGENCY_STOPPED = 5


class HoldReason(IntEnum):
    """Why the arm holds, or why an instruction ended; numbered as in PolicyStatus."""

    NONE = 0
    STALE_CHUNK = 1
    STALE_STATE = 2
    NON_FINITE = 3
    CONTRACT_MISMATCH = 4
    INACTIVE = 5
    LOADING = 6
    BACKEND = 7
    LIMIT = 8
    IMPLAUSIBLE_STATE = 9
    SECOND_PUBLISHER = 10
    CLOCK = 11
    REFUSED = 12


class Outcome(IntEnum):
    """How an instruction with a waiting caller ended; numbered as in ExecuteInstruction."""

    SETTLED = 0
    TIMEOUT = 1
    STOPPED = 2
    REPLACED = 3
    CANCELED = 4
    FAULT = 5
    REFUSED = 6


class InstructionError(ValueError):
    """A request that is refused; the text says why and what to do."""


@dataclass(frozen=True)
class Instruction:
    """An accepted instruction."""

    instruction_id: int
    text: str
    mode: str  # one of MODES; "" leaves it to the policy whether it answers first
    accepted_at: float  # [s]
    deadline: float  # when a waiting caller's time is up [s], infinite without one
    awaited: bool  # a caller waits for its result, which also means that it ends by itself


@dataclass(frozen=True)
class ArmReport:
    """What one cycle of the control loop saw."""

    executing: bool  # a chunk moved the arm
    settled: bool = False  # the motion of the last seconds was below the settle thresholds
    hold_reason: HoldReason = HoldReason.NONE  # why the arm holds, when it does not execute
    message: str = ""  # the same in words, and what to do


@dataclass(frozen=True)
class Ending:
    """The result for a caller who waited."""

    instruction_id: int
    outcome: Outcome
    message: str
    response: str
    duration: float  # from acceptance to the end [s]


def check_instruction(text: str, mode: str = "") -> tuple[str, str]:
    """The instruction without surrounding space, and its mode.

    The mode "" leaves it to the policy whether it answers first. Tabs and line breaks become
    spaces. Raises InstructionError when the text is empty, too long or holds an invisible character
    (see vla.core.text), or the mode is unknown.
    """
    try:
        text = check_text(text, "instruction", LONGEST_INSTRUCTION)
    except TextError as error:
        raise InstructionError(str(error)) from error
    if not text:
        raise InstructionError("the instruction is empty: say, for example, 'pick the red block'")
    if mode not in ("", *MODES):
        raise InstructionError(f"mode {brief(mode)} is unknown: use one of {', '.join(MODES)}")
    return text, mode


class InstructionSession:
    """The instruction in force and its state. Not thread safe: one thread calls all methods."""

    def __init__(self, fault_timeout: float = 15.0):
        """fault_timeout: how long the arm may hold before a waiting caller gets a fault [s].

        The attribute `loading` says between begin_loading() and end_loading() why the arm holds.
        """
        self.fault_timeout = fault_timeout
        self.instruction: Instruction | None = None
        self.state = State.IDLE
        self.hold_reason = HoldReason.NONE
        self.message = ""
        self.settled = False
        self.response = ""
        self.loading = ""
        self._last_id = 0
        self._has_executed = False
        self._still_since = 0.0
        self._endings: list[Ending] = []

    @property
    def wants_motion(self) -> bool:
        """True when chunks of the instruction in force may move the arm."""
        return (
            self.instruction is not None
            and self.instruction.mode != "ask"
            and self.state not in (State.STOPPED, State.EMERGENCY_STOPPED)
        )

    def start(
        self, text: str, mode: str, now: float, epoch_ns: int, timeout: float | None = None
    ) -> Instruction:
        """Puts an instruction in force; the one before it ends as REPLACED.

        epoch_ns: wall time, which makes ids increase across restarts [ns]. timeout: longest time
        for a caller who waits for the result [s]; None when no one waits. Raises InstructionError
        when it is refused: the one before then stays in force.
        """
        text, mode = check_instruction(text, mode)
        self._require_no_emergency()
        if timeout is not None and mode == "ask":
            raise InstructionError("mode 'ask' moves nothing: use the ask service for questions")
        if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
            raise InstructionError(f"timeout is {timeout}: use a positive number of seconds")
        self._end(Outcome.REPLACED, f"replaced by the instruction '{text}'", now)
        self._last_id = max(epoch_ns, self._last_id + 1)
        deadline = math.inf if timeout is None else now + timeout
        self.instruction = Instruction(
            self._last_id, text, mode, now, deadline, awaited=timeout is not None
        )
        self._begin()
        self.settled = False
        self.response = ""
        self._has_executed = False
        self._still_since = now
        return self.instruction

    def emergency_stop(self, why: str, now: float) -> str:
        """Drops the instruction; the arm holds until reset_emergency_stop(). Returns a message."""
        self._end(Outcome.STOPPED, f"emergency stop: {why}", now)
        self.instruction = None
        self.state = State.EMERGENCY_STOPPED
        self.hold_reason = HoldReason.NONE
        self.settled = False
        self.message = (
            f"emergency stop ({why}): see that all is safe, then call reset_emergency_stop"
        )
        return self.message

    def reset_emergency_stop(self) -> str:
        """Ends an emergency stop. Returns a message; raises InstructionError when there is none."""
        if self.state != State.EMERGENCY_STOPPED:
            raise InstructionError("there is no emergency stop to reset")
        self._clear()
        return "ready; the instruction was dropped, send one to move the arm"

    def _require_no_emergency(self) -> None:
        if self.state == State.EMERGENCY_STOPPED:
            raise InstructionError(self.message)

    def stop(self, now: float) -> str:
        """Makes the arm hold until resume() or a new instruction. Returns a message."""
        if self.state == State.EMERGENCY_STOPPED:
            return self.message
        if self.instruction is not None and self.instruction.awaited:
            self._end(Outcome.STOPPED, "stopped by the stop service", now)
        if self.instruction is not None and self.instruction.mode == "ask":
            self.instruction = None
        self.state = State.STOPPED
        self.hold_reason = HoldReason.NONE
        self.settled = False
        self.message = "stopped: call resume, or send a new instruction"
        if self.instruction is None:
            return "stopped; nothing is left to resume, send a new instruction to go on"
        return f"stopped; resume goes on with '{self.instruction.text}'"

    def resume(self, now: float) -> str:
        """Ends a stop. Returns a message; raises InstructionError when nothing was stopped."""
        self._require_no_emergency()
        if self.state != State.STOPPED:
            raise InstructionError("nothing is stopped: send an instruction to move the arm")
        self._has_executed = False
        self._still_since = now
        self._begin()
        if self.instruction is None:
            return "ready; no instruction is in force, send one to move the arm"
        if self.loading:
            return f"going on with '{self.instruction.text}' after this: {self.loading}"
        return f"going on with '{self.instruction.text}'"

    def begin_loading(self, message: str) -> None:
        """Makes the arm hold until end_loading(). message: why it does.

        The instruction stays, and so does a stop. Called again, it only changes the message.
        """
        self.loading = message
        if self._shows_loading:
            self._begin()
            self.settled = False

    def end_loading(self, now: float) -> None:
        """Lets the instruction in force go on, unless it was stopped."""
        self.loading = ""
        self._has_executed = False
        self._still_since = now
        if self._shows_loading:
            self._begin()

    @property
    def _shows_loading(self) -> bool:
        """False while the state shows something else: a stop, or an inactive node."""
        stopped = self.state in (State.STOPPED, State.EMERGENCY_STOPPED)
        return not stopped and self.hold_reason != HoldReason.INACTIVE

    def cancel(self, instruction_id: int, now: float) -> None:
        """The waiting caller gives up; has no effect once its instruction is over."""
        if self.instruction is not None and self.instruction.instruction_id == instruction_id:
            self._end(Outcome.CANCELED, "cancelled by the caller", now)
            self._clear()

    def abort(self, reason: HoldReason, message: str, now: float) -> None:
        """Drops the instruction for a fault of our own, such as a deactivated node."""
        self._end(Outcome.FAULT, message, now)
        self._clear()
        self.state, self.hold_reason, self.message = State.HOLDING, reason, message

    def clear(self) -> None:
        """Back to IDLE without an instruction, as on activation."""
        self._clear()

    def add_response(self, instruction_id: int, text: str) -> bool:
        """Keeps the model's answer if it belongs to the instruction in force; whether it does."""
        told = self.instruction
        if told is None or told.instruction_id != instruction_id:
            return False
        self.response = one_line(text, LONGEST_RESPONSE)
        return True

    def refuse(self, instruction_id: int, text: str, now: float) -> None:
        """The policy says that it can't do what it was told: the instruction is over.

        text: its answer. Ends nothing while the arm is stopped or an adapter is being loaded, since
        the policy answers again afterwards.
        """
        if not self.add_response(instruction_id, text) or self.loading or not self.wants_motion:
            return
        message = f"the policy refused: {self.response}"
        self._end(Outcome.REFUSED, message, now)
        self._clear()
        self.state, self.hold_reason, self.message = State.HOLDING, HoldReason.REFUSED, message

    def update(self, report: ArmReport, now: float) -> None:
        """Takes in one control cycle: new state, and the end of an awaited instruction."""
        if not self.wants_motion:
            return
        self.settled = report.executing and report.settled
        if self.loading:
            # Loading an adapter is no fault of the instruction.
            self._still_since = now
        if report.executing:
            self._has_executed = True
            self._still_since = now
            self.state, self.hold_reason, self.message = State.EXECUTING, HoldReason.NONE, ""
        else:
            self._hold(report)
        self._end_when_over(now)

    def take_endings(self) -> list[Ending]:
        """Results since the last call, for the callers who wait for them."""
        endings, self._endings = self._endings, []
        return endings

    def _hold(self, report: ArmReport) -> None:
        no_chunk_yet = report.hold_reason in (HoldReason.NONE, HoldReason.STALE_CHUNK)
        if no_chunk_yet and not self._has_executed:
            self.state, self.hold_reason = State.WAITING, HoldReason.NONE
        else:
            self.state = State.HOLDING
            self.hold_reason = report.hold_reason or HoldReason.STALE_CHUNK
        self.message = report.message

    def _end_when_over(self, now: float) -> None:
        instruction = self.instruction
        if instruction is None or not instruction.awaited:
            return
        if self.settled:
            outcome, message = Outcome.SETTLED, "the motion has settled"
        elif now >= instruction.deadline:
            limit = instruction.deadline - instruction.accepted_at
            outcome, message = Outcome.TIMEOUT, f"not settled within {limit:.1f} s"
            if self.message:
                message += f"; at the end: {self.message}"
        elif now - self._still_since > self.fault_timeout:
            outcome = Outcome.FAULT
            message = f"the arm held still for {self.fault_timeout:.1f} s: {self.message}"
        else:
            return
        self._end(outcome, message, now)
        settled = self.settled
        self._clear()
        self.settled = settled

    def _end(self, outcome: Outcome, message: str, now: float) -> None:
        """Records the result for a waiting caller, and takes its instruction out of force."""
        ended = self.instruction
        if ended is None or not ended.awaited:
            return
        self._endings.append(
            Ending(ended.instruction_id, outcome, message, self.response, now - ended.accepted_at)
        )
        self.instruction = None

    def _begin(self) -> None:
        """The state before the next control cycle."""
        loading = bool(self.loading)
        if self.instruction is None or self.instruction.mode == "ask":
            self.state = State.IDLE
        else:
            self.state = State.HOLDING if loading else State.WAITING
        self.hold_reason = HoldReason.LOADING if loading else HoldReason.NONE
        self.message = self.loading

    def _clear(self) -> None:
        self.instruction = None
        self._begin()
        self.settled = False
