"""What grippers with actions share: one goal at a time, and its outcome."""

from __future__ import annotations

import math
import time
import uuid
from abc import abstractmethod

from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from unique_identifier_msgs.msg import UUID

from vla.control.gripper import DOING, GripperConfig, GripperState, Order
from vla_nodes.backends.base import BackendContext, Gripper, Problem
from vla_nodes.core.settings import Setting

LOOK_PERIOD = 0.2


def action_settings(prefix: str) -> tuple[Setting, ...]:
    """The parameters that every such gripper has."""
    return (
        Setting(
            f"{prefix}.timeout",
            5.0,
            "Longest time for the gripper to open or close [s].",
            bounds=(0.1, 60.0),
        ),
        Setting(
            f"{prefix}.stuck_time",
            2.0,
            "Fingers that do not move for this long during an action are stuck [s]; longer than "
            "the driver needs to notice a stall itself.",
            bounds=(0.1, 60.0),
        ),
        Setting(
            f"{prefix}.retries",
            2,
            "Retries of a failed gripper action before the policy is stopped.",
            bounds=(0, 100),
        ),
    )


class ActionGripper(Gripper):
    """Opens and closes by actions; subclasses say which."""

    # The advice while the driver is missing.
    MISSING = "is its driver running?"

    def __init__(self, context: BackendContext, prefix: str, homing: bool = False):
        settings = context.settings
        self.node, self.settings = context.node, settings
        self.state = GripperState(
            GripperConfig(
                context.contract.gripper_open_width,
                timeout=settings[f"{prefix}.timeout"],
                stuck_time=settings[f"{prefix}.stuck_time"],
                retries=settings[f"{prefix}.retries"],
                homing=homing,
            )
        )
        self.clients: list[ActionClient] = []
        self._names: list[str] = []
        self._goal: ClientGoalHandle | None = None
        self._cancelling = False
        self._number = 0
        self._looked_at = -math.inf
        self._there = False

    def client(self, action, name: str) -> ActionClient:
        """A client that close() destroys."""
        self.clients.append(ActionClient(self.node, action, name))
        self._names.append(name)
        return self.clients[-1]

    @abstractmethod
    def goal(self, order: Order) -> tuple[ActionClient, object]:
        """The goal that opens, closes or homes, and the client to send it by."""

    @abstractmethod
    def judge(self, order: Order, status: int, result) -> str:
        """What is wrong with the outcome of a goal that was not cancelled; "" when nothing is."""

    @abstractmethod
    def place(self, feedback) -> float:
        """Where the fingers are, as a share of their stroke."""

    def problem(self) -> Problem | None:
        """Whether the driver is there, and its last action went well."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_PERIOD:
            self._looked_at = now
            self._look()
        self._carry_out(self.state.tick(now))
        if not self.state.problem:
            return None
        return Problem(self.state.problem, stops=self.state.exhausted)

    def send(self, width: float) -> None:
        """Follows the wanted opening."""
        self._carry_out(self.state.want(width, time.monotonic()))

    def _look(self) -> None:
        there = all(client.server_is_ready() for client in self.clients)
        if there and not self._there:
            self.state.found()
        elif not there:
            self.state.lost(f"no gripper behind {', '.join(self._names)}: {self.MISSING}")
        self._there = there

    def _carry_out(self, order: Order) -> None:
        if order is Order.STOP:
            self.stop()
        elif order is not Order.NOTHING:
            self._start(order)

    def _start(self, order: Order) -> None:
        self._number += 1
        number = self._number
        client, goal = self.goal(order)
        # With our own id, so that it can be cancelled even when its answer is lost.
        name = UUID(uuid=list(uuid.uuid4().bytes))
        answer = client._action_type.Impl.SendGoalService.Response()
        self._goal, self._cancelling = ClientGoalHandle(client, name, answer), False
        client.send_goal_async(
            goal, lambda message: self._on_feedback(number, message.feedback), name
        ).add_done_callback(lambda future: self._on_answer(number, order, future))
        self.tell(DOING[order])

    def stop(self) -> None:
        """Cancels the running action; its outcome then comes as usual."""
        number = self._number
        if self._goal is not None:
            self._goal.cancel_goal_async().add_done_callback(
                lambda future: self._on_cancel(number, future)
            )

    def tell(self, words: str) -> None:
        """Shows what the gripper does in the node's diagnostics, where it has them."""
        if hasattr(self.node, "diagnostics"):
            self.node.diagnostics.values["gripper"] = words

    def _on_feedback(self, number: int, feedback) -> None:
        if number == self._number:
            self.state.progress(self.place(feedback), time.monotonic())

    def _on_cancel(self, number: int, future) -> None:
        answer = future.result()
        if number != self._number or answer is None:
            return
        self._cancelling |= bool(answer.goals_canceling)
        # A restarted driver does not know the goal. A second cancel of a goal that is being
        # cancelled is answered with TERMINATED, although it goes on.
        unknown = answer.return_code == CancelGoal.Response.ERROR_UNKNOWN_GOAL_ID
        terminated = answer.return_code == CancelGoal.Response.ERROR_GOAL_TERMINATED
        if unknown or (terminated and not self._cancelling):
            self.state.stop_confirmed()

    def _on_answer(self, number: int, order: Order, future) -> None:
        handle = future.result()
        accepted = handle is not None and handle.accepted
        if number != self._number:
            if accepted:
                # Given up earlier, and now it begins.
                handle.cancel_goal_async()
            return
        if not accepted:
            self.state.ended(False, time.monotonic(), "the driver rejected it: see its log")
            return
        handle.get_result_async().add_done_callback(
            lambda done: self._on_result(number, order, done)
        )
        self._carry_out(self.state.accepted(time.monotonic()))

    def _on_result(self, number: int, order: Order, future) -> None:
        answer = future.result()
        if number != self._number or answer is None:
            return
        self._goal = None
        now = time.monotonic()
        if answer.status == GoalStatus.STATUS_CANCELED:
            self.state.ended(False, now, "somebody cancelled it, or sent the gripper elsewhere")
            self.tell("stopped on its way")
            return
        self.tell({Order.OPEN: "open", Order.CLOSE: "closed"}.get(order, "homed"))
        wrong = self.judge(order, answer.status, answer.result)
        if wrong:
            self.tell(wrong)
        self.state.ended(not wrong, now, wrong)

    def close(self) -> None:
        """Takes the action clients off the graph."""
        for client in self.clients:
            client.destroy()
        self.clients = []
