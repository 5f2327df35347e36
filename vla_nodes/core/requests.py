"""Services and actions that answer every request, however many come at once.

rclpy takes one request of a service each time it has checked everything on the node, which can be
slower than requests arrive; beyond the usual ten places they would be dropped without an answer.
Ours have a thousand (qos.SERVICE), and of vla/set_instruction several are taken at a time. A usual
caller has ten places for answers, too, and would lose those that come faster than it reads. So the
answers of each service are paced: BURST at a time, RATE a second in the long run.

A stop overtakes waiting requests, which are then older and must not start the arm again: they are
refused.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from rclpy.action import ActionServer
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import InvalidHandle
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy

from vla_nodes.core import qos
from vla_nodes.core.log import error_text

# Answers of one service that go out at a time, and that go out in a second.
BURST = 4
RATE = 200.0


class ServiceType(Protocol):
    """What rosidl generates from a .srv file."""

    Request: Any
    Response: Any


class Pacer:
    """Wakes a node's executor when something paced may continue."""

    def __init__(self, node):
        """Adds a timer to `node`, which costs nothing while nothing waits for it."""
        self._armed = False
        self._timer = node.create_timer(
            1.0 / RATE, self._pause, _WhileArmed(self), Clock(clock_type=ClockType.STEADY_TIME)
        )

    @property
    def armed(self) -> bool:
        """Whether something waits."""
        return self._armed

    def arm(self) -> None:
        """Wakes the executor soon."""
        if not self._armed:
            self._armed = True
            self._timer.reset()

    def _pause(self) -> None:
        self._armed = False


class _WhileArmed(CallbackGroup):
    def __init__(self, pacer: Pacer):
        super().__init__()
        self._pacer = pacer

    def can_execute(self, entity) -> bool:
        return self._pacer.armed

    def beginning_execution(self, entity) -> bool:
        return True

    def ending_execution(self, entity) -> None:
        pass


class Paced(CallbackGroup):
    """Lets a service, or an action, take its requests no faster than callers read answers.

    Coroutines in it may wait for each other, as in a ReentrantCallbackGroup.
    """

    def __init__(self, pacer: Pacer, burst: int = BURST, rate: float = RATE):
        """burst: most that go out at a time. rate: in the long run, a second."""
        super().__init__()
        self._pacer, self._burst, self._rate = pacer, burst, rate
        self._left, self._at = float(burst), time.monotonic()

    def allowed(self) -> int:
        """How many requests may be answered now."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return int(self._left)

    def use(self) -> None:
        """One is answered."""
        self._left -= 1.0

    def can_execute(self, entity) -> bool:
        """Whether a request may be answered now; if not, the executor checks again soon."""
        if self.allowed() > 0:
            return True
        self._pacer.arm()
        return False

    def beginning_execution(self, entity) -> bool:
        """Counts the one that is answered."""
        self.use()
        return True

    def ending_execution(self, entity) -> None:
        """Nothing is locked."""


def answering(node, kind: ServiceType, callback: Callable) -> Callable:
    """The callback of a service, which answers with the reason for a failure.

    For kinds whose responses have `success` and `message`; of another it is the callback itself.
    """
    if not {"success", "message"} <= kind.Response.get_fields_and_field_types().keys():
        return callback

    def failure(error: Exception):
        node.report_failure(error)
        return kind.Response(success=False, message=f"it failed: {error_text(error)}")

    if inspect.iscoroutinefunction(callback):

        async def answer_later(request, response):
            try:
                return await callback(request, response)
            except Exception as error:
                return failure(error)

        return answer_later

    def answer(request, response):
        try:
            return callback(request, response)
        except Exception as error:
            return failure(error)

    return answer


def trigger(act: Callable[[], str]) -> Callable:
    """The callback of a Trigger service.

    act: returns what it did; raises ValueError with the reason where it did nothing.
    """

    def callback(request, response):
        try:
            response.message, response.success = act(), True
        except ValueError as error:
            response.message = str(error)
        return response

    return callback


class QuickService:
    """A service with a quick callback, which answers several requests at a time."""

    def __init__(self, node, kind: ServiceType, name: str, callback: Callable):
        """callback: as rclpy's, but no coroutine. The node destroys the service with its others."""
        self._node, self._kind = node, kind
        self._callback = answering(node, kind, callback)
        self._pace = Paced(node.pacer)
        self._refusals = _Refusals(node, self._refuse)
        self._refusal = None
        self._service = node.create_service(kind, name, self._on_request, callback_group=self._pace)

    def refuse_waiting(self, refusal) -> int:
        """Answers all waiting requests with `refusal`; returns their number."""
        self._refusal = refusal
        waiting: list[Any] = []
        while (taken := self._take()) is not None:
            waiting.append(taken[1])
        self._refusals.add(waiting)
        return len(waiting)

    def _on_request(self, request, response):
        response = self._callback(request, response)
        for _ in range(self._pace.allowed()):
            taken = self._take()
            if taken is None:
                break
            self._pace.use()
            request, header = taken
            self._send(self._callback(request, self._kind.Response()), header)
        return response

    def _take(self):
        """The oldest waiting request with its header; None without one."""
        with self._service.handle:
            request, header = self._service.handle.service_take_request(self._kind.Request)
        return None if header is None else (request, header)

    def _refuse(self, header) -> None:
        self._send(self._refusal, header)

    def _send(self, response, header) -> None:
        try:
            self._service.send_response(response, header)
        except (_rclpy.RCLError, InvalidHandle) as error:
            # A caller that is gone must not cost the others their answers.
            self._node.get_logger().warning(f"an answer was not delivered: {error}")


class GoalServer(ActionServer):
    """An action server with a long queue, which can refuse waiting goals."""

    def __init__(self, node, kind: type, name: str, execute: Callable, **options):
        """As rclpy's; the callback group and the profiles of its services are set here."""
        self._refusals = _Refusals(node, self._refuse)
        super().__init__(
            node, kind, name, execute, callback_group=Paced(node.pacer), **qos.ACTION, **options
        )

    def refuse_waiting(self) -> int:
        """Rejects all waiting goals; returns their number."""
        waiting: list[Any] = []
        while True:
            with self._lock:
                header, request = self._handle.take_goal_request(
                    self._action_type.Impl.SendGoalService.Request
                )
            if header is None or request is None:
                self._refusals.add(waiting)
                return len(waiting)
            waiting.append(header)

    def _refuse(self, header) -> None:
        response = self._action_type.Impl.SendGoalService.Response(accepted=False)
        try:
            self._handle.send_goal_response(header, response)
        except (_rclpy.RCLError, InvalidHandle) as error:
            self._node.get_logger().warning(f"a rejection was not delivered: {error}")


class _Refusals:
    """Sends refusals one by one, as fast as answers may go out."""

    def __init__(self, node, send: Callable):
        """send: called with the header of each request."""
        self._node, self._send = node, send
        self._headers: deque = deque()
        self._timer = None

    def add(self, headers: list) -> None:
        """Queues refusals for these headers."""
        self._headers.extend(headers)
        if self._headers and self._timer is None:
            self._timer = self._node.create_steady_timer(1.0 / RATE, self._send_next)

    def _send_next(self) -> None:
        if self._headers:
            self._send(self._headers.popleft())
        if not self._headers and self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
