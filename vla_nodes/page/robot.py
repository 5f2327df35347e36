"""The running graph as the page's server sees it."""

from __future__ import annotations

import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from vla_ros.msg import Episode, Instruction, PolicyStatus, Response

from vla.contract.embodiment import EmbodimentContract
from vla.page.commands import CommandAnswer, PageCommand
from vla.page.shown import (
    DiagnosticsWatch,
    LimitWatch,
    RecentAnswers,
    RecordingWatch,
    policy_values,
)
from vla.page.viewers import CameraPicture
from vla_nodes.core import qos
from vla_nodes.page.calls import GraphCalls
from vla_nodes.page.pictures import Pictures

# The controller tells its status five times a second; after this silence it is gone [s].
STATUS_SILENCE = 0.7
# States in which the arm moves, or will by itself.
FOLLOWING = (PolicyStatus.WAITING, PolicyStatus.EXECUTING, PolicyStatus.HOLDING)


class GraphRobot:
    """Listens to the graph; the server asks from a thread of its own."""

    def __init__(self, node, contract: EmbodimentContract, pictures: Pictures):
        """Subscribes, and makes the clients of all services."""
        self._node, self._contract, self._pictures = node, contract, pictures
        self._lock = threading.Lock()
        self._status: PolicyStatus | None = None
        self._status_at = 0.0
        self._instruction = Instruction()
        self._answers = RecentAnswers()
        self._limits = LimitWatch()
        self._diagnostics = DiagnosticsWatch(node.get_namespace().strip("/"))
        self._recording = RecordingWatch()
        self._calls = GraphCalls(node)
        for kind, topic, callback, profile in (
            (PolicyStatus, "vla/status", self._on_status, qos.LATCHED),
            (Instruction, "vla/instruction", self._on_instruction, qos.LATCHED),
            (Response, "vla/response", self._on_response, qos.RESPONSE),
            (Episode, "vla/episode", self._on_episode, qos.EVENT),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.DIAGNOSTICS),
        ):
            node.create_subscription(kind, topic, callback, profile)

    def _on_status(self, message: PolicyStatus) -> None:
        with self._lock:
            self._status, self._status_at = message, time.monotonic()
            self._limits.update(
                message.intervention_reasons, message.intervention_counts, self._status_at
            )

    def _on_instruction(self, message: Instruction) -> None:
        with self._lock:
            self._instruction = message

    def _on_response(self, message: Response) -> None:
        with self._lock:
            self._answers.add(message)

    def _on_episode(self, message: Episode) -> None:
        with self._lock:
            self._recording.update(message, time.monotonic())

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self._lock:
            self._diagnostics.update(message.status, time.monotonic())

    def about(self) -> dict[str, Any]:
        """What does not change while the node is active."""
        return {
            "cameras": [camera.name for camera in self._contract.cameras],
            "robot": self._contract.name,
            "namespace": self._node.get_namespace(),
        }

    def state(self) -> dict[str, Any]:
        """What the page shows now."""
        now = time.monotonic()
        with self._lock:
            status, silence = self._status, now - self._status_at
            return {
                "alive": status is not None and silence < STATUS_SILENCE,
                "silence": None if status is None else round(silence, 1),
                "policy": None if status is None else policy_values(status, self._mode(status)),
                "checkpoint": self._diagnostics.value("reasoning", "checkpoint"),
                "answers": self._answers.values(),
                "limits": self._limits.values(now),
                "stages": self._diagnostics.stages(self._contract.reference_camera),
                "diagnostics": self._diagnostics.values(now),
                "recording": self._recording.values(self._diagnostics, now),
            }

    def _mode(self, status: PolicyStatus) -> str:
        same = status.instruction_id == self._instruction.instruction_id
        return self._instruction.mode if same else ""

    def picture(self, camera: str) -> CameraPicture | None:
        """The newest image of a camera; None where there is no new one."""
        status = self._status
        if status is None or status.state not in FOLLOWING:
            return self._pictures.take(camera, 0)
        return self._pictures.take(camera, status.instruction_id)

    async def carry_out(self, command: PageCommand) -> CommandAnswer:
        """Has the graph do what a viewer asked for."""
        return await self._calls.carry_out(command)
