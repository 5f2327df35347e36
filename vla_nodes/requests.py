"""Services and actions that leave no request without an answer, however many come at once.

rclpy takes one request of a service each time it has looked at everything on the node, which can
take longer than requests need to come; with the ten places of a usual service the others were
dropped and never answered. Ours have QUEUE places (qos.SERVICE), and several are taken at a time.
How fast they are answered is limited, since a caller has ten places for answers, too.

A stop overtakes what waits, so what waits then is older and must not start the arm again: it is
refused.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable

from rclpy.action import ActionServer
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy

from vla.text import LONGEST_LINE, one_line
from vla_nodes import qos

# Most requests of one service that are answered at a time, and per second.
BATCH = 6
RATE = 500.0


def answering(node, kind: type, callback: Callable) -> Callable:
    """The callback of a service, which answers what failed, and why, instead of raising it.

    For kinds whose responses have `success` and `message`; of another it is the callback itself.
    """
    if not {"success", "message"} <= kind.Response.get_fields_and_field_types().keys():
        return callback

    def failure(error: Exception):
        node.report_failure(error)
        why = one_line(error, LONGEST_LINE) or type(error).__name__
        return kind.Response(success=False, message=f"it failed: {why}")

    if inspect.iscoroutinefunction(callback):

        async def answer(request, response):
            try:
                return await callback(request, response)
            except Exception as error:
                return failure(error)
    else:

        def answer(request, response):
            try:
                return callback(request, response)
            except Exception as error:
                return failure(error)

    return answer


class QuickService:
    """A service with a quick callback, of whose requests several are answered at a time."""

    def __init__(self, node, kind: type, name: str, callback: Callable):
        """callback: as rclpy's, but no coroutine. The node destroys the service with its others."""
        self._node, self._kind = node, kind
        self._callback = answering(node, kind, callback)
        self._allowance = _Allowance()
        self._refused: deque = deque()
        self._refusal = None
        self._service = node.create_service(kind, name, self._on_request)

    def refuse_waiting(self, refusal) -> int:
        """Answers all that wait now with `refusal`; returns how many these are."""
        self._refusal = refusal
        waiting = []
        while (taken := self._take()) is not None:
            waiting.append(taken[1])
        return _refuse(self._node, self._refused, waiting, self._send_refusal)

    def _on_request(self, request, response):
        response = self._callback(request, response)
        for _ in range(self._allowance.take()):
            taken = self._take()
            if taken is None:
                break
            request, header = taken
            self._send(self._callback(request, self._kind.Response()), header)
        return response

    def _send(self, response, header) -> None:
        try:
            self._service.send_response(response, header)
        except _rclpy.RCLError as error:
            # One caller that is gone must not keep the others from their answers.
            self._node.get_logger().warning(f"an answer was not delivered: {error}")

    def _take(self):
        """The oldest request that waits, with its header; None when none does."""
        with self._service.handle:
            request, header = self._service.handle.service_take_request(self._kind.Request)
        return None if header is None else (request, header)

    def _send_refusal(self, header) -> None:
        self._send(self._refusal, header)


class GoalServer(ActionServer):
    """An action server that can refuse the goals that wait."""

    def __init__(self, node, kind: type, name: str, execute: Callable, **options):
        """As rclpy's, with the queues of qos.ACTION."""
        self._refused: deque = deque()
        super().__init__(node, kind, name, execute, **qos.ACTION, **options)

    def refuse_waiting(self) -> int:
        """Rejects all goals that wait now; returns how many these are."""
        waiting = []
        while True:
            with self._lock:
                header, request = self._handle.take_goal_request(
                    self._action_type.Impl.SendGoalService.Request
                )
            if header is None or request is None:
                return _refuse(self._node, self._refused, waiting, self._send_refusal)
            waiting.append(header)

    def _send_refusal(self, header) -> None:
        response = self._action_type.Impl.SendGoalService.Response(accepted=False)
        try:
            self._handle.send_goal_response(header, response)
        except _rclpy.RCLError as error:
            self._node.get_logger().warning(f"a rejection was not delivered: {error}")


def _refuse(node, refused: deque, waiting: list, send: Callable) -> int:
    """Sends one refusal each time the executor has looked at everything; returns how many."""

    def send_next() -> None:
        if not refused:
            return
        send(refused.popleft())
        if refused:
            node.executor.create_task(send_next)

    idle = not refused
    refused.extend(waiting)
    if waiting and idle:
        node.executor.create_task(send_next)
    return len(waiting)


class _Allowance:
    """How many more answers may go out now."""

    def __init__(self) -> None:
        self._at = 0.0

    def take(self) -> int:
        """Gives all that have come together since the last call, at most a batch."""
        now = time.monotonic()
        allowed = min(BATCH - 1, int((now - self._at) * RATE))
        self._at = now
        return allowed
