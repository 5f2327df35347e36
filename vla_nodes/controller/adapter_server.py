"""The service `vla/load_adapter`: loads an adapter into both model nodes while the arm holds.

The controller offers it, since it makes the arm hold. Motion resumes only when both nodes have
reported the same checkpoint_id; where one fails, the other one rolls back. A model node that is
restarted later gets the adapter again. All of it runs, without blocking, in the controller's one
thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from vla_ros.srv import LoadAdapter

from vla.control.agreement import (
    Answer,
    common_checkpoint,
    disagreement,
    failures,
    to_take_back,
)
from vla_nodes.controller.instruction_server import INACTIVE_MESSAGE, InstructionServer
from vla_nodes.core.conversions import stamp_to_seconds

MODEL_NODES = ("reasoning", "action_expert")
POLL_PERIOD = 0.02
# A node without a sign of life for this long [s] is dead, and not just on a busy machine.
DEAD_AFTER = 1.0
# A server drops the answer to a client that it has not discovered yet; ours it has by then [s].
DISCOVERY_TIME = 0.5
ADVICE = "load the adapter again, or drop it with 'vla adapter drop'"


@dataclass(frozen=True)
class Agreed:
    """What both model nodes have loaded."""

    path: str | None  # folder of the adapter, "" for none, None for what they started with
    checkpoint_id: str
    since: float  # robot time at which they agreed [s]


class AdapterServer:
    """Loads adapters into the running policy, and knows whose results may move the arm."""

    def __init__(
        self,
        node,
        server: InstructionServer,
        robot_now: Callable[[], float],
        timeout: Callable[[], float],
    ):
        """Creates the interfaces on `node`; requests are refused until open() is called.

        robot_now: gives the time that chunks are stamped by [s]. timeout: gives the longest time
        for a model node to answer [s].
        """
        self._node = node
        self._server = server
        self._robot_now = robot_now
        self._timeout = timeout
        self._open = False
        self._busy = False
        self._holds = False
        self._agreed: Agreed | None = None
        self._lost_at: dict[str, float] = {}
        self._returned: dict[str, float] = {}
        self._timer = None
        group = ReentrantCallbackGroup()
        self._clients = {
            (name, action): node.create_client(
                LoadAdapter, f"{name}/{action}_adapter", callback_group=group
            )
            for name in MODEL_NODES
            for action in ("load", "revert")
        }
        node.create_service(LoadAdapter, "vla/load_adapter", self._on_request)

    def open(self) -> None:
        """Starts to take requests."""
        self._open = True

    def close(self) -> None:
        """Refuses requests from now on; a running one is completed."""
        self._open = False

    def destroy(self) -> None:
        """Stops waiting for answers; the node destroys the rest itself."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None

    def refusal_of(self, checkpoint_id: str) -> str | None:
        """Why results of that checkpoint must not be used, None when they may.

        Until a first adapter was loaded through this node, it accepts any.
        """
        agreed = self._agreed
        if agreed is None or checkpoint_id == agreed.checkpoint_id:
            return None
        return (
            f"results come from checkpoint {checkpoint_id}, but both model nodes had "
            f"{agreed.checkpoint_id}: {ADVICE}"
        )

    def is_older(self, stamp) -> bool:
        """Whether a stamp is from before what is loaded now."""
        return self._agreed is not None and stamp_to_seconds(stamp) < self._agreed.since

    def note_alive(self, name: str, alive: bool) -> None:
        """The middleware saw a model node come or go."""
        now = time.monotonic()
        if not alive:
            self._lost_at.setdefault(name, now)
            self._returned.pop(name, None)
        elif now - self._lost_at.pop(name, now) > DEAD_AFTER / 2:
            self._returned[name] = now

    def note_restarted(self, name: str) -> None:
        """The heartbeat shows a restarted node: what was loaded into it is gone."""
        if name in MODEL_NODES:
            self._lost_at.pop(name, None)
            self._returned[name] = time.monotonic()

    def tick(self) -> None:
        """Reloads the adapter into a restarted model node; called in each cycle."""
        if not self._returned or self._busy:
            return
        if self._agreed is None:
            self._returned.clear()
            return
        now = time.monotonic()
        for name in self._returned:
            if not self._clients[name, "load"].service_is_ready():
                self._returned[name] = now
        ready = [name for name, since in self._returned.items() if now - since > DISCOVERY_TIME]
        if ready:
            for name in ready:
                del self._returned[name]
            self._busy = True
            self._node.executor.create_task(self._restore, ready, self._agreed)

    async def _on_request(self, request, response):
        refusal = self._refusal()
        if refusal:
            self._node.get_logger().warning(f"loads no adapter: {refusal}")
            return LoadAdapter.Response(message=refusal)
        self._busy = True
        try:
            return await self._change(request.path)
        finally:
            self._busy = False

    def _refusal(self) -> str:
        if not self._open:
            return INACTIVE_MESSAGE
        if self._busy:
            return "an adapter is being loaded already: wait for the end of that"
        missing = [
            name
            for name in MODEL_NODES
            if self._is_dead(name) or not self._clients[name, "load"].service_is_ready()
        ]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            return (
                f"{' and '.join(missing)} {verb} not there: start the model nodes, then try again"
            )
        return ""

    async def _change(self, path: str) -> LoadAdapter.Response:
        self._hold(f"loading the adapter {path}" if path else "dropping the adapter")
        answers = await self._ask(MODEL_NODES, "load", path)
        why = failures(answers) or disagreement(answers)
        if not why:
            checkpoint_id = common_checkpoint(answers)
            self._go_on(Agreed(path, checkpoint_id, self._robot_now()))
            message = f"{answers[MODEL_NODES[0]].message}; the checkpoint is {checkpoint_id} now"
            self._node.get_logger().info(message)
            return LoadAdapter.Response(success=True, message=message, checkpoint_id=checkpoint_id)
        self._hold(f"the adapter could not be loaded ({why}): going back")
        answers |= await self._ask(to_take_back(answers), "revert", "")
        apart = disagreement(answers)
        if apart:
            message = f"{why}; then going back failed, too ({apart}), so the arm holds: {ADVICE}"
            self._hold(message)
        else:
            checkpoint_id = common_checkpoint(answers)
            message = f"{why}; what was loaded before stays ({checkpoint_id})"
            # A node that was only slow may still carry out the request; it is rolled back, too.
            first = Agreed(None, checkpoint_id, self._robot_now()) if checkpoint_id else None
            self._go_on(self._agreed or first)
        self._node.get_logger().error(message)
        return LoadAdapter.Response(message=message, checkpoint_id=common_checkpoint(answers))

    async def _restore(self, names: list[str], agreed: Agreed) -> None:
        """Gives restarted nodes what the others have."""
        try:
            who = " and ".join(names)
            # When it is unknown what each has, the nodes that stayed are loaded, too.
            asked = MODEL_NODES if self._holds else names
            self._hold(f"{who} is back: giving it {agreed.checkpoint_id}")
            action = "revert" if agreed.path is None else "load"
            answers = await self._ask(asked, action, agreed.path or "")
            why = failures(answers)
            if not why and common_checkpoint(answers) == agreed.checkpoint_id:
                self._node.get_logger().info(f"{who} is back, with {agreed.checkpoint_id}")
                self._go_on(agreed)
                return
            why = why or f"it has {common_checkpoint(answers)} instead"
            message = f"{who} is back without {agreed.checkpoint_id}, the arm holds ({why}): "
            self._hold(message + ADVICE)
            self._node.get_logger().error(message + ADVICE)
        finally:
            self._busy = False

    def _hold(self, message: str) -> None:
        self._holds = True
        self._server.begin_loading(message)

    def _go_on(self, agreed: Agreed | None) -> None:
        self._holds = False
        self._agreed = agreed
        self._server.end_loading()

    async def _ask(self, names: Iterable[str], action: str, path: str) -> dict[str, Answer]:
        """What these nodes answer, each within the timeout."""
        calls = {name: self._clients[name, action] for name in names}
        waiting = {
            name: client.call_async(LoadAdapter.Request(path=path))
            for name, client in calls.items()
        }
        answers: dict[str, Answer] = {}
        limit = self._timeout()
        deadline = time.monotonic() + limit
        over = Future(executor=self._node.executor)

        def poll() -> None:
            for name, future in waiting.items():
                if name not in answers and (answer := self._answer(name, future, deadline, limit)):
                    answers[name] = answer
            if len(answers) == len(waiting) and not over.done():
                over.set_result(None)

        self._timer = self._node.create_steady_timer(POLL_PERIOD, poll)
        await over
        self.destroy()
        for name, future in waiting.items():
            calls[name].remove_pending_request(future)
        return answers

    def _answer(self, name: str, future: Future, deadline: float, limit: float) -> Answer | None:
        if future.done():
            response = future.result()
            return Answer(response.success, response.message, response.checkpoint_id)
        if self._is_dead(name):
            return Answer(False, "it died before it answered", answered=False, gone=True)
        if time.monotonic() > deadline:
            return Answer(False, f"no answer within {limit:g} s", answered=False)
        return None

    def _is_dead(self, name: str) -> bool:
        now = time.monotonic()
        return now - self._lost_at.get(name, now) > DEAD_AFTER
