"""What the grippers that are driven by actions have in common: one goal at a time, its outcome."""

from __future__ import annotations

import time
from abc import abstractmethod

import numpy as np
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient

from vla.control.gripper import GripperConfig, GripperState, Order
from vla_nodes.backends.base import BackendContext, Gripper, Problem
from vla_nodes.settings import Setting

LOOK_PERIOD = 0.2
STATUS_WORDS = {
    GoalStatus.STATUS_ABORTED: "the driver aborted it",
    GoalStatus.STATUS_CANCELED: "somebody cancelled it",
}


def action_settings(prefix: str) -> tuple[Setting, ...]:
    """The parameters that every such gripper has."""
    return (
        Setting(
            f"{prefix}.timeout",
            5.0,
            "Longest time for the gripper to open or close [s].",
            minimum=0.1,
            maximum=60.0,
        ),
        Setting(
            f"{prefix}.retries",
            2,
            "Times that a failed gripper action is tried again before the arm holds for good.",
            minimum=0,
            maximum=100,
        ),
    )


class ActionGripper(Gripper):
    """Opens and closes by actions; subclasses say which."""

    def __init__(self, context: BackendContext, prefix: str):
        settings = context.settings
        self.node, self.settings = context.node, settings
        self.state = GripperState(
            GripperConfig(
                context.contract.gripper_open_width,
                timeout=settings[f"{prefix}.timeout"],
                retries=settings[f"{prefix}.retries"],
            )
        )
        self.clients: list[ActionClient] = []
        self._goal = None
        self._number = 0
        self._looked_at = -np.inf
        self._there = False

    def client(self, action, name: str) -> ActionClient:
        """A client that close() destroys."""
        self.clients.append(ActionClient(self.node, action, name))
        return self.clients[-1]

    @abstractmethod
    def goal(self, order: Order) -> tuple[ActionClient, object]:
        """The goal that opens or closes, and the client to send it by."""

    @abstractmethod
    def judge(self, order: Order, result) -> str:
        """What is wrong with the result of a goal that ended well; "" when nothing is."""

    def problem(self) -> Problem | None:
        """Whether the driver is there, and its last action went well."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_PERIOD:
            self._looked_at = now
            self._look()
        return Problem(self.state.problem) if self.state.problem else None

    def _look(self) -> None:
        there = all(client.server_is_ready() for client in self.clients)
        if there and not self._there:
            self.state.found()
        elif not there:
            names = ", ".join(client._action_name for client in self.clients)
            self.state.lost(
                f"no gripper behind {names}: is its driver running? (with fake hardware, Franka's "
                "has no actions: use gripper 'position')"
            )
        self._there = there

    def send(self, width: float) -> None:
        """Follows the wanted opening."""
        order = self.state.want(width, time.monotonic())
        if order is Order.STOP:
            self.stop()
        elif order is not Order.NOTHING:
            self._number += 1
            number = self._number
            self._goal = None
            client, goal = self.goal(order)
            client.send_goal_async(goal).add_done_callback(
                lambda future: self._on_answer(number, order, future)
            )

    def stop(self) -> None:
        """Ends the action under way; its outcome then comes as of any other."""
        if self._goal is not None:
            self._goal.cancel_goal_async()

    def _on_answer(self, number: int, order: Order, future) -> None:
        handle = future.result()
        if number != self._number:
            return
        if handle is None or not handle.accepted:
            self.state.ended(False, "the driver rejected it: see its log")
            return
        self._goal = handle
        if self.state.running is not order:
            handle.cancel_goal_async()
        handle.get_result_async().add_done_callback(
            lambda done: self._on_result(number, order, done)
        )

    def _on_result(self, number: int, order: Order, future) -> None:
        if number != self._number or future.result() is None:
            return
        answer = future.result()
        self._goal = None
        if answer.status in STATUS_WORDS:
            error = getattr(answer.result, "error", "")
            words = STATUS_WORDS[answer.status]
            self.state.ended(False, f"{words} ({error})" if error else words)
            return
        wrong = self.judge(order, answer.result)
        self.state.ended(not wrong, wrong)

    def close(self) -> None:
        """Takes the action clients off the graph."""
        for client in self.clients:
            client.destroy()
        self.clients = []
