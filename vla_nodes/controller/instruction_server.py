"""The instruction's owner on the ROS side: services, action, latched instruction and status.

The controller holds it, since a node without a model outlives the nodes that have one.
vla.control.session decides what is in force and how it ends; here it meets callers and topics. All
callbacks and update() must run in one thread.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rclpy.action import CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from vla_ros.action import ExecuteInstruction
from vla_ros.msg import Instruction, PolicyStatus
from vla_ros.srv import SetInstruction

from vla.control.session import (
    ArmReport,
    Ending,
    HoldReason,
    InstructionError,
    InstructionSession,
    Outcome,
    State,
    check_instruction,
)
from vla.control.session import Instruction as AcceptedInstruction
from vla.core.text import LONGEST_LINE, one_line
from vla_nodes.core import qos
from vla_nodes.core.liveliness import lease_of, with_liveliness
from vla_nodes.core.requests import GoalServer, QuickService, trigger

STATUS_PERIOD = 0.2
# Period of repeating the instruction in force, for model nodes that heard another [s].
REPEAT_PERIOD = 0.5
STOPPED_MESSAGE = "a stop came before its turn: send it again"
INACTIVE_MESSAGE = "the controller is inactive and the arm holds: activate the node first"


@dataclass
class ChunkCounts:
    """Counts since activation, for the status."""

    accepted: int = 0
    rejected: int = 0
    limited_steps: int = 0
    interventions: dict[str, int] = field(default_factory=dict)  # of the safety stage, by reason
    chunk_age: float = float("nan")  # of the observation behind the chunk in execution [s]


class InstructionServer:
    """Takes instructions for a node and publishes what is in force and its progress."""

    def __init__(
        self,
        node,
        session: InstructionSession,
        default_timeout: Callable[[], float],
        on_change: Callable[[], None],
        on_emergency: Callable[[str], None],
        execution_mode: str,
    ):
        """Creates the interfaces on `node`; requests are refused until open() is called.

        default_timeout: returns the longest time for goals that name none [s]. on_change: called at
        once when another instruction, or none, is in force, or the arm is to stop. on_emergency:
        called at once with the reason of an emergency stop, and with "" when it is reset.
        execution_mode: for the status.
        """
        self._node = node
        self._session = session
        self._default_timeout = default_timeout
        self._on_change = on_change
        self._on_emergency = on_emergency
        self._execution_mode = execution_mode
        self._open = False
        self._goals: dict[int, tuple[ServerGoalHandle, Future]] = {}
        self._announced_id: int | None = None
        self._announcement: Instruction | None = None
        # Steady clock [s].
        self.announced_at = 0.0
        self._notice = ""
        self._status_key: tuple[State, HoldReason, bool, int | None] | None = None
        self._status_at = 0.0
        self._counts = ChunkCounts()
        self._stops = 0
        self._instructions = node.create_publisher(
            Instruction, "vla/instruction", with_liveliness(qos.LATCHED, lease_of(node))
        )
        self._statuses = node.create_publisher(
            PolicyStatus, "vla/status", with_liveliness(qos.LATCHED, lease_of(node))
        )
        # rclpy calls them in this order: what stops the arm comes first.
        node.create_service(Trigger, "vla/emergency_stop", trigger(self._emergency_stop))
        node.create_service(Trigger, "vla/stop", trigger(self._stop))
        self._resumes = QuickService(node, Trigger, "vla/resume", trigger(self._resume))
        self._requests = QuickService(
            node, SetInstruction, "vla/set_instruction", self._set_instruction
        )
        node.create_service(
            Trigger, "vla/reset_emergency_stop", trigger(self._reset_emergency_stop)
        )
        node.create_subscription(Bool, "vla/emergency_stop_button", self._on_button, qos.COMMAND)
        self._action = GoalServer(
            node,
            ExecuteInstruction,
            "vla/execute_instruction",
            self._execute,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )

    def open(self) -> None:
        """Starts to take requests, with no instruction in force."""
        self._open = True
        self._counts = ChunkCounts()
        if self._session.state != State.EMERGENCY_STOPPED:
            self._session.clear()
        self._announced_id = None
        self._tell()

    def close(self) -> None:
        """Drops the instruction, answers its caller, and refuses requests from now on."""
        self._open, self._notice = False, ""
        if self._session.state != State.EMERGENCY_STOPPED:
            self._session.abort(HoldReason.INACTIVE, INACTIVE_MESSAGE, time.monotonic())
        self._tell()

    def destroy(self) -> None:
        """Takes the action off the graph; the node destroys the rest itself."""
        self._action.destroy()

    def begin_loading(self, message: str) -> None:
        """Makes the arm hold at once, and the models pause, until end_loading()."""
        self._session.begin_loading(message)
        self._on_change()
        self._tell()

    def end_loading(self) -> None:
        """Lets the instruction in force go on."""
        self._session.end_loading(time.monotonic())
        self._tell()

    def refuse(self, instruction_id: int, text: str) -> None:
        """The policy says that it can't do what it was told: the arm holds, its caller is told."""
        self._session.refuse(instruction_id, text, time.monotonic())
        self._tell()

    def update(self, report: ArmReport, counts: ChunkCounts, notice: str = "") -> None:
        """Takes in one control cycle and publishes what has changed.

        notice: what the status says besides the state's own message.
        """
        self._notice = notice
        self._session.update(report, time.monotonic())
        self._counts = counts
        self._tell()

    def _tell(self) -> None:
        """Announces a changed instruction, ends goals, publishes the status when due."""
        self._announce()
        for ending in self._session.take_endings():
            _, future = self._goals.pop(ending.instruction_id, (None, None))
            if future is not None:
                outcome = ending.outcome.name.lower()
                text = f"{outcome} after {ending.duration:.1f} s: {ending.message}"
                self._node.get_logger().info(text)
                future.set_result(ending)
        session = self._session
        key = (session.state, session.hold_reason, session.settled, self._announced_id)
        if key != self._status_key or time.monotonic() - self._status_at >= STATUS_PERIOD:
            self._status_key, self._status_at = key, time.monotonic()
            self._publish_status()

    def _announce(self) -> None:
        instruction = self._session.instruction
        stopped = self._session.state in (State.STOPPED, State.EMERGENCY_STOPPED)
        if stopped or self._session.loading:
            # Nothing is to be computed now; the instruction is announced again afterwards.
            instruction = None
        instruction_id = instruction.instruction_id if instruction else 0
        if instruction_id == self._announced_id:
            if time.monotonic() - self.announced_at > REPEAT_PERIOD:
                self._publish_announcement()
            return
        self._announced_id = instruction_id
        message = Instruction(instruction_id=instruction_id)
        message.header.stamp = self._node.get_clock().now().to_msg()
        if instruction:
            message.instruction, message.mode = instruction.text, instruction.mode
            self._node.get_logger().info(_in_words(instruction))
        self._announcement = message
        self._publish_announcement()
        self._on_change()

    def _publish_announcement(self) -> None:
        self.announced_at = time.monotonic()
        self._instructions.publish(self._announcement)

    def _publish_status(self) -> None:
        session, counts = self._session, self._counts
        # While the arm holds for what the notice says, both are the same text.
        told = dict.fromkeys(filter(None, (session.message, self._notice)))
        message = PolicyStatus(
            state=int(session.state),
            hold_reason=int(session.hold_reason),
            message=one_line("; ".join(told), LONGEST_LINE),
            settled=session.settled,
            chunks_accepted=counts.accepted,
            chunks_rejected=counts.rejected,
            limited_steps=counts.limited_steps,
            intervention_reasons=list(counts.interventions),
            intervention_counts=list(counts.interventions.values()),
            execution_mode=self._execution_mode,
            chunk_age=counts.chunk_age,
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        if session.instruction:
            message.instruction_id = session.instruction.instruction_id
            message.instruction = session.instruction.text
        self._statuses.publish(message)
        for goal, _ in self._goals.values():
            if goal.is_active and session.instruction:
                goal.publish_feedback(
                    ExecuteInstruction.Feedback(
                        state=int(session.state),
                        message=one_line(session.message, LONGEST_LINE),
                        response=session.response,
                        elapsed=time.monotonic() - session.instruction.accepted_at,
                    )
                )

    def _set_instruction(self, request, response):
        try:
            if not self._open:
                raise InstructionError(INACTIVE_MESSAGE)
            accepted = self._session.start(
                request.instruction, request.mode, time.monotonic(), time.time_ns()
            )
        except InstructionError as error:
            self._node.get_logger().warning(f"refused an instruction: {error}")
            response.success, response.message = False, str(error)
            return response
        self._tell()
        response.success, response.instruction_id = True, accepted.instruction_id
        response.message = _in_words(accepted)
        return response

    def _stop(self) -> str:
        if not self._open:
            return INACTIVE_MESSAGE
        self._refuse_waiting()
        message = self._session.stop(time.monotonic())
        self._node.get_logger().info(message)
        self._on_change()
        self._tell()
        return message

    def _refuse_waiting(self) -> None:
        """Refuses requests from before a stop that are still waiting."""
        self._stops += 1
        count = self._action.refuse_waiting()
        for service, kind in ((self._requests, SetInstruction), (self._resumes, Trigger)):
            count += service.refuse_waiting(kind.Response(success=False, message=STOPPED_MESSAGE))
        if count:
            self._node.get_logger().warning(f"refused {count} requests: {STOPPED_MESSAGE}")

    def stop(self, why: str) -> None:
        """Stops the policy as the service does, for a reason that the operator must judge."""
        if self._session.state in (State.STOPPED, State.EMERGENCY_STOPPED):
            return
        self._refuse_waiting()
        self._session.stop(time.monotonic())
        self._session.message = f"stopped: {why}; then call resume, or send a new instruction"
        self._node.get_logger().error(self._session.message)
        self._on_change()
        self._tell()

    def _emergency_stop(self) -> str:
        return self._enter_emergency("the service was called")

    def _on_button(self, message: Bool) -> None:
        if message.data and self._session.state != State.EMERGENCY_STOPPED:
            self._enter_emergency("the button was pressed")

    def _enter_emergency(self, why: str) -> str:
        # Also while inactive: an emergency stop is never refused.
        self._refuse_waiting()
        message = self._session.emergency_stop(why, time.monotonic())
        self._on_emergency(why)
        self._node.get_logger().error(message)
        self._on_change()
        self._tell()
        return message

    def _reset_emergency_stop(self) -> str:
        message = self._session.reset_emergency_stop()
        self._on_emergency("")
        if not self._open:
            self._session.abort(HoldReason.INACTIVE, INACTIVE_MESSAGE, time.monotonic())
        self._node.get_logger().warning(message)
        self._tell()
        return message

    def _resume(self) -> str:
        if not self._open:
            raise InstructionError(INACTIVE_MESSAGE)
        message = self._session.resume(time.monotonic())
        self._node.get_logger().info(message)
        self._tell()
        return message

    def _on_goal(self, goal) -> GoalResponse:
        try:
            if not self._open:
                raise InstructionError(INACTIVE_MESSAGE)
            _, mode = check_instruction(goal.instruction, goal.mode)
            if mode == "ask":
                raise InstructionError("mode 'ask' moves nothing: use the service vla/ask")
            if not 0.0 <= goal.timeout < float("inf"):
                raise InstructionError(f"timeout is {goal.timeout}: use seconds, 0 for the default")
        except InstructionError as error:
            self._node.get_logger().warning(f"rejected a goal: {error}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_cancel(self, goal) -> CancelResponse:
        for instruction_id, (known, _) in list(self._goals.items()):
            if known is goal or known.goal_id == goal.goal_id:
                self._session.cancel(instruction_id, time.monotonic())
        self._tell()
        return CancelResponse.ACCEPT

    def _on_accepted(self, goal) -> None:
        """Executes the goal soon, unless a stop comes first."""
        goal.execute(functools.partial(self._execute, stops=self._stops))

    async def _execute(self, goal, stops: int):
        """Puts the goal's instruction in force and waits, without blocking, until it is over.

        stops: number of stops when the goal was accepted.
        """
        request = goal.request
        timeout = request.timeout or self._default_timeout()
        try:
            if not self._open:
                raise InstructionError(INACTIVE_MESSAGE)
            if goal.is_cancel_requested:
                goal.canceled()
                return ExecuteInstruction.Result(
                    error_code=int(Outcome.CANCELED), message="cancelled before it began"
                )
            if stops != self._stops:
                goal.abort()
                return ExecuteInstruction.Result(
                    error_code=int(Outcome.STOPPED), message=STOPPED_MESSAGE
                )
            accepted = self._session.start(
                request.instruction, request.mode, time.monotonic(), time.time_ns(), timeout
            )
        except InstructionError as error:
            goal.abort()
            return ExecuteInstruction.Result(error_code=int(Outcome.FAULT), message=str(error))
        future = Future(executor=self._node.executor)
        self._goals[accepted.instruction_id] = (goal, future)
        self._tell()
        ending: Ending = await future
        if ending.outcome == Outcome.SETTLED:
            goal.succeed()
        elif ending.outcome == Outcome.CANCELED and goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return ExecuteInstruction.Result(
            error_code=int(ending.outcome),
            message=ending.message,
            instruction_id=ending.instruction_id,
            response=ending.response,
            duration=ending.duration,
        )


def _in_words(instruction: AcceptedInstruction) -> str:
    return f"{instruction.mode or 'accepted'}: '{instruction.text}'"
