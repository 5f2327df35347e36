"""The page's commands as calls of the graph's services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.task import Future
from std_srvs.srv import Trigger
from vla_ros import srv

from vla.page.commands import CommandAnswer, PageCommand
from vla_nodes.core import qos


@dataclass(frozen=True)
class _Call:
    """What a command is for the graph."""

    kind: Any  # of the service
    service: str
    timeout: float  # longest wait for the answer [s]
    # The request that the fields of a command make, and what to tell of a good answer.
    request: Callable[[dict[str, Any]], Any] = lambda _: Trigger.Request()
    told: Callable[[Any], str] = lambda answer: answer.message
    repeat_after: float | None = None  # of a request that may come twice [s]


# Closing a long bag takes as long as the disk takes [s].
DISK_TIMEOUT = 120.0
QUICK = 5.0


def _fields(kind: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda fields: kind.Request(**fields)


def _bag(answer: Any) -> str:
    if not answer.uri:
        return "discarded"
    said = f"{answer.message_count} messages in {answer.duration:.1f} s"
    return f"{said}; {answer.message}" if answer.message else said


CALLS = {
    "emergency_stop": _Call(Trigger, "vla/emergency_stop", QUICK, repeat_after=0.5),
    "stop": _Call(Trigger, "vla/stop", QUICK, repeat_after=0.5),
    "resume": _Call(Trigger, "vla/resume", QUICK),
    "reset_emergency_stop": _Call(Trigger, "vla/reset_emergency_stop", QUICK),
    "recover": _Call(Trigger, "vla/recover", 30.0),
    "instruct": _Call(
        srv.SetInstruction,
        "vla/set_instruction",
        QUICK,
        lambda fields: srv.SetInstruction.Request(instruction=fields["text"], mode=fields["mode"]),
    ),
    "ask": _Call(
        srv.Ask,
        "vla/ask",
        60.0,
        lambda fields: srv.Ask.Request(question=fields["text"]),
        lambda answer: answer.answer,
    ),
    "record_start": _Call(
        srv.StartEpisode,
        "vla/start_episode",
        20.0,
        _fields(srv.StartEpisode),
        lambda answer: f"recording {answer.episode_id}",
    ),
    "record_stop": _Call(
        srv.StopEpisode, "vla/stop_episode", DISK_TIMEOUT, _fields(srv.StopEpisode), _bag
    ),
    "record_label": _Call(
        srv.LabelEpisode,
        "vla/label_episode",
        20.0,
        lambda fields: srv.LabelEpisode.Request(
            episode_id=fields["episode"], outcome=fields["outcome"], note=fields["note"]
        ),
        lambda answer: f"labelled {answer.episode_id}",
    ),
    "record_mark": _Call(
        srv.MarkSubtask,
        "vla/mark_subtask",
        QUICK,
        _fields(srv.MarkSubtask),
        lambda answer: f"marked at {answer.elapsed:.1f} s",
    ),
    "record_recent": _Call(
        srv.SaveRecent,
        "vla/save_recent",
        DISK_TIMEOUT,
        lambda fields: srv.SaveRecent.Request(
            duration=fields["seconds"], outcome=fields["outcome"], note=fields["note"]
        ),
        _bag,
    ),
    "load_adapter": _Call(srv.LoadAdapter, "vla/load_adapter", 180.0, _fields(srv.LoadAdapter)),
    "drop_adapter": _Call(
        srv.LoadAdapter, "vla/load_adapter", 180.0, lambda _: srv.LoadAdapter.Request()
    ),
}


class GraphCalls:
    """Clients of all services that commands need; calls may overlap."""

    def __init__(self, node):
        """Makes the clients at once, so that they are known to their servers when needed."""
        self._clients = {
            call.service: node.create_client(call.kind, call.service, qos_profile=qos.SERVICE)
            for call in CALLS.values()
        }

    async def carry_out(self, command: PageCommand) -> CommandAnswer:
        """Calls the service of a command, from the server's event loop."""
        name = command.name
        # A question moves nothing, and leaves the instruction in force.
        if name == "instruct" and command.fields["mode"] == "ask":
            name = "ask"
        call = CALLS[name]
        client = self._clients[call.service]
        if not client.service_is_ready():
            return CommandAnswer(False, f"{client.srv_name} is not there: its node does not run")
        response = await self._answer(client, call, call.request(command.fields))
        if response is None:
            late = f"{client.srv_name} did not answer within {call.timeout:g} s"
            return CommandAnswer(False, late)
        said = call.told(response) if response.success else response.message
        return CommandAnswer(response.success, said)

    async def _answer(self, client, call: _Call, request: Any) -> Any:
        """The response; None where there is none in time."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future = loop.create_future()
        deadline = loop.time() + call.timeout
        sent: list[Future] = []
        try:
            while (left := deadline - loop.time()) > 0.0:
                sent.append(client.call_async(request))
                sent[-1].add_done_callback(lambda done: _hand_over(done, loop, answered))
                wait = left if call.repeat_after is None else min(left, call.repeat_after)
                await asyncio.wait([answered], timeout=wait)
                if answered.done():
                    return answered.result()
            return None
        finally:
            for future in sent:
                client.remove_pending_request(future)


def _hand_over(done: Future, loop: asyncio.AbstractEventLoop, answered: asyncio.Future) -> None:
    """Passes a response from the node's thread to the event loop."""

    def settle() -> None:
        if not answered.done():
            answered.set_result(done.result())

    if not done.cancelled():
        loop.call_soon_threadsafe(settle)
