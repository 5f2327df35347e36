"""Talks to a running graph from an ordinary program: the command line, the demonstration, tests.

One RobotClient is used from one thread. Every call has a time limit and raises UnreachableError,
whose text says what to do, when there is no answer.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import rclpy
from rclpy.action import ActionClient
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger
from vla_ros.action import ExecuteInstruction
from vla_ros.msg import Observation, PolicyStatus
from vla_ros.srv import Ask, LoadAdapter, SetInstruction

from vla.core.interrupts import deferred_interrupts
from vla_nodes.core import qos
from vla_nodes.core.clock_watch import CLOCK_TOPIC
from vla_nodes.core.shared_memory import join_graph

if TYPE_CHECKING:
    from typing_extensions import Self

SILENCE_LIMIT = 5.0
# A server drops the answer to a client that it has not discovered yet, although the client has
# discovered the server. So a new client waits this long [s], unless its request may come twice.
DISCOVERY_TIME = 0.2
STATE_NAMES = {
    getattr(PolicyStatus, name): name.lower()
    for name in ("IDLE", "WAITING", "EXECUTING", "HOLDING", "STOPPED", "EMERGENCY_STOPPED")
}
OUTCOME_NAMES = {
    getattr(ExecuteInstruction.Result, name): name.lower()
    for name in ("SETTLED", "TIMEOUT", "STOPPED", "REPLACED", "CANCELED", "FAULT", "REFUSED")
}


class UnreachableError(RuntimeError):
    """There was no answer, or it was a refusal; the text says what to do."""


class RobotClient:
    """Calls the instruction interface; a context manager that leaves nothing behind."""

    def __init__(self, namespace: str = "", wait: float = 5.0, clock_topic: str = CLOCK_TOPIC):
        """namespace: of the graph's nodes. wait: longest time for them to be found [s].

        clock_topic: where its node gets the time with `use_sim_time`.
        """
        self.wait = wait
        self._context = Context()
        join_graph(context=self._context)
        self.node = rclpy.create_node(
            f"vla_client_{os.getpid()}",
            namespace=namespace,
            context=self._context,
            cli_args=["--ros-args", "-r", f"{CLOCK_TOPIC}:={clock_topic}"],
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._service_clients: dict[str, Client] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def set_instruction(self, text: str, mode: str = "") -> SetInstruction.Response:
        """Puts an instruction in force and returns at once; `success` tells whether."""
        request = SetInstruction.Request(instruction=text, mode=mode)
        return self.call(SetInstruction, "vla/set_instruction", request)

    def stop(self) -> Trigger.Response:
        """Makes the arm hold until resume() or a new instruction."""
        return self.call(Trigger, "vla/stop", Trigger.Request(), repeat_after=1.0)

    def resume(self) -> Trigger.Response:
        """Goes on with the instruction that was stopped."""
        return self.call(Trigger, "vla/resume", Trigger.Request())

    def ask(self, question: str, timeout: float = 60.0) -> Ask.Response:
        """Asks about what the robot sees; `success` and `message` say whether it could answer."""
        request = Ask.Request(question=question)
        return self.call(Ask, "vla/ask", request, timeout, repeat_after=timeout / 4)

    def load_adapter(self, path: str, timeout: float = 180.0) -> LoadAdapter.Response:
        """Loads an adapter into the running policy, "" drops it; the arm holds while it loads.

        path: of its folder, on the machine of the model nodes. `success` and `message` say whether.
        """
        request = LoadAdapter.Request(path=path)
        return self.call(LoadAdapter, "vla/load_adapter", request, timeout)

    def call(
        self,
        service_type,
        name: str,
        request,
        timeout: float = 20.0,
        repeat_after: float = math.inf,
    ):
        """Calls any service of the graph. Raises UnreachableError when there is no answer in time.

        repeat_after: time without an answer after which a request that may come twice is sent again
        [s]; see DISCOVERY_TIME.
        """
        is_new = name not in self._service_clients
        client = self._client(service_type, name)
        self._wait_for(client.service_is_ready, f"the service {client.srv_name}")
        if is_new and math.isinf(repeat_after):
            self.spin(DISCOVERY_TIME)
        deadline = time.monotonic() + timeout
        futures = []
        try:
            while (left := deadline - time.monotonic()) > 0.0:
                futures.append(client.call_async(request))
                self._spin_until(lambda: any(f.done() for f in futures), min(left, repeat_after))
                for future in futures:
                    if future.done():
                        return future.result()
        finally:
            for future in futures:
                client.remove_pending_request(future)
        raise UnreachableError(
            f"{client.srv_name} did not answer within {timeout:.0f} s: see the node's log"
        )

    def _client(self, service_type, name: str) -> Client:
        """Reused from call to call, since discovery of a new one takes a while."""
        if name not in self._service_clients:
            self._service_clients[name] = self.node.create_client(
                service_type, name, qos_profile=qos.SERVICE
            )
        return self._service_clients[name]

    def execute(
        self,
        text: str,
        mode: str = "",
        timeout: float = 0.0,
        on_feedback: Callable[[ExecuteInstruction.Feedback], None] | None = None,
    ) -> ExecuteInstruction.Result:
        """Follows an instruction to its end; a keyboard interrupt cancels it.

        timeout: longest time to try [s], 0 for the controller's default. Raises UnreachableError
        when the goal is refused, or the controller falls silent.
        """
        client = ActionClient(
            self.node, ExecuteInstruction, "vla/execute_instruction", **qos.ACTION
        )
        try:
            self._wait_for(client.server_is_ready, "the action vla/execute_instruction")
            goal = ExecuteInstruction.Goal(instruction=text, mode=mode, timeout=timeout)
            # An interrupt during the executor's work would lose the answer it holds.
            with deferred_interrupts() as interrupts:
                return self._follow(client, goal, on_feedback, interrupts)
        finally:
            client.destroy()

    def _follow(self, client: ActionClient, goal, on_feedback, interrupts: list[int]):
        """The result of a goal, which is cancelled on an interrupt."""
        heard_at = time.monotonic()

        def note_feedback(message) -> None:
            nonlocal heard_at
            heard_at = time.monotonic()
            if on_feedback is not None:
                on_feedback(message.feedback)

        def is_over() -> bool:
            silence = time.monotonic() - heard_at
            return result.done() or silence > SILENCE_LIMIT or bool(interrupts)

        sent = client.send_goal_async(goal, feedback_callback=note_feedback)
        # A goal must be accepted before it can be cancelled.
        if not self._spin_until(sent.done, 10.0):
            raise UnreachableError("the controller did not answer: see its output")
        handle = sent.result()
        if not handle.accepted:
            raise UnreachableError(
                "the controller refused the instruction: its output says why (is it active?)"
            )
        heard_at = time.monotonic()
        result = handle.get_result_async()
        self._spin_until(is_over, math.inf)
        if interrupts:
            handle.cancel_goal_async()
            self._spin_until(result.done, SILENCE_LIMIT)
        if not result.done():
            raise UnreachableError(
                f"the controller has been silent for {SILENCE_LIMIT:.0f} s: is it running?"
            )
        return result.result().result

    def status(self) -> PolicyStatus:
        """The newest status. Raises UnreachableError without a controller."""
        statuses: list[PolicyStatus] = []
        self.watch_status(statuses.append, until=lambda: bool(statuses), timeout=self.wait)
        if not statuses:
            raise UnreachableError(self._nobody("vla/status"))
        return statuses[-1]

    def observation(self) -> Observation:
        """The next observation of the policy. Raises UnreachableError where none comes."""
        found: list[Observation] = []
        subscription = self.node.create_subscription(
            Observation, "vla/observation", found.append, qos.LATEST
        )
        try:
            if not self._spin_until(lambda: bool(found), self.wait):
                raise UnreachableError(self._nobody("vla/observation"))
        finally:
            self.node.destroy_subscription(subscription)
        return found[-1]

    def watch_status(
        self,
        on_status: Callable[[PolicyStatus], None],
        until: Callable[[], bool] = lambda: False,
        timeout: float = math.inf,
    ) -> None:
        """Calls `on_status` with every status until `until()` is true or `timeout` [s] is over."""
        subscription = self.node.create_subscription(
            PolicyStatus, "vla/status", on_status, qos.LATCHED
        )
        try:
            self._spin_until(until, timeout)
        finally:
            self.node.destroy_subscription(subscription)

    def spin(self, duration: float) -> None:
        """Serves the node's own subscriptions for `duration` seconds."""
        self._spin_until(lambda: False, duration)

    def _spin_until(self, done: Callable[[], bool], timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left, 0.1))
        return True

    def _wait_for(self, is_ready: Callable[[], bool], what: str) -> None:
        if not self._spin_until(is_ready, self.wait):
            raise UnreachableError(self._nobody(what))

    def _nobody(self, what: str) -> str:
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        return (
            f"{what} is not there within {self.wait:.0f} s: start the robot, for example with "
            f"'vla launch sim.launch.xml', in the same ROS_DOMAIN_ID (here {domain}) and namespace"
            f" (here '{self.node.get_namespace()}')"
        )
