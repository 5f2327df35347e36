"""Which action chunks the controller follows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mink import MinkError
from vla_ros.msg import ActionChunk

from vla.contract.embodiment import ContractError, EmbodimentContract
from vla.control.chunk import ActionChunk as Chunk
from vla.control.chunk import ChunkError
from vla.control.loop import ControlLoop
from vla.control.session import HoldReason, InstructionSession
from vla_nodes.controller.adapter_server import AdapterServer
from vla_nodes.controller.instruction_server import ChunkCounts
from vla_nodes.controller.planning_scene import WAYPOINTS, PlanningSceneCheck
from vla_nodes.controller.sources import ControllerSources
from vla_nodes.core.chunk_message import chunk_from_message
from vla_nodes.core.diagnostics import WARN
from vla_nodes.core.heartbeat import HeartbeatWatch
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.sources import SourceWatch


@dataclass
class ChunkIntake:
    """Checks each chunk, optionally by MoveIt's planning scene, and has it followed."""

    node: ManagedNode
    contract: EmbodimentContract
    session: InstructionSession
    loop: ControlLoop
    adapters: AdapterServer
    sources: ControllerSources
    watch: SourceWatch  # of the chunks
    heartbeats: HeartbeatWatch
    scene: PlanningSceneCheck | None
    robot_now: Callable[[], float]  # [s]
    counts: ChunkCounts = field(default_factory=ChunkCounts)
    # When the newest chunk arrived, until its first command; steady clock [s].
    _accepted_at: float | None = None

    def take(self, message: ActionChunk, info: dict) -> None:
        """Takes a message with rclpy's information about it, or counts it and says why not."""
        accepted = self.watch.accepts(info)
        instruction = self.session.instruction
        if not self.node.is_active or instruction is None or not self.session.wants_motion:
            self.node.diagnostics.drop("no_instruction")
            return
        if not accepted or self.sources.problem:
            self.counts.rejected += 1
            self.node.diagnostics.drop("second_publisher")
            return
        if message.instruction_id != instruction.instruction_id:
            self.counts.rejected += 1
            self.node.diagnostics.drop("other_instruction")
            return
        if self.session.loading:
            self.node.diagnostics.drop("loading")
            return
        if other := self.adapters.refusal_of(message.checkpoint_id):
            self.counts.rejected += 1
            if self.adapters.is_older(message.header.stamp):
                self.node.diagnostics.drop("other_checkpoint")
                return
            self.loop.fail(HoldReason.CONTRACT_MISMATCH, other)
            self.node.diagnostics.report("other_checkpoint", other)
            return
        try:
            chunk = chunk_from_message(message, self.contract)
        except ContractError as error:
            self.counts.rejected += 1
            self.loop.fail(HoldReason.CONTRACT_MISMATCH, str(error))
            self.node.diagnostics.report("contract", str(error))
            return
        if self.scene is None:
            self._follow(chunk)
        else:
            self._ask_scene(self.scene, chunk)

    def _ask_scene(self, scene: PlanningSceneCheck, chunk: Chunk) -> None:
        """Takes a chunk when MoveIt has found its path free."""
        joints = self.loop.start_positions
        if joints is None:
            self._on_scene(chunk, "no joint states yet, so that its way cannot be checked")
            return
        try:
            way = self.loop.arm.preview(chunk, self.robot_now(), WAYPOINTS, joints)
        except (ChunkError, MinkError):
            # The control loop says what is wrong with it.
            self._follow(chunk)
            return
        scene.ask(way, lambda why: self._on_scene(chunk, why))

    def _on_scene(self, chunk: Chunk, why: str) -> None:
        """Takes a chunk whose path is free; refuses any other, and keeps the current one."""
        if not why:
            self._follow(chunk)
            return
        self.counts.rejected += 1
        self.loop.arm.safety.note("planning_scene")
        self.node.diagnostics.report("planning_scene", f"refused a chunk: {why}", WARN)

    def _follow(self, chunk: Chunk) -> None:
        now = time.monotonic()
        try:
            self.loop.take_chunk(chunk, self.robot_now(), now)
        except ChunkError as error:
            self.counts.rejected += 1
            if error.reason == "stale":
                self.node.diagnostics.drop("stale")
                self.node.diagnostics.report("stale_chunk", f"refused a chunk: {error}", WARN)
            else:
                self.node.diagnostics.report(error.reason, str(error))
        else:
            self.heartbeats.note_work("action_expert")
            self.counts.accepted += 1
            if self._accepted_at is not None:
                self.node.diagnostics.drop("replaced_before_use")
            self._accepted_at = now

    def note_command(self, chunk_age: float) -> None:
        """For a chunk's first command, records its observation's age and its own wait."""
        if self._accepted_at is None:
            self.node.diagnostics.output()
            return
        self.node.diagnostics.output(time.monotonic() - self._accepted_at)
        self.node.diagnostics.input_age("observation", chunk_age)
        self._accepted_at = None
