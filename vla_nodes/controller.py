"""The node `controller`: owns the instruction, follows action chunks, and makes the arm hold.

What to do in each cycle is decided in vla.control.loop, what is in force in vla.control.session;
here both meet topics and time. Everything runs in the executor's one thread.
"""

from __future__ import annotations

import math
import time

from sensor_msgs.msg import JointState
from vla_ros.msg import ActionChunk, LatentAction, Observation

from vla.contract import ContractError, load_contract
from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ChunkError
from vla.control.loop import (
    ACTION_CHUNKS,
    LATENT_ACTIONS,
    OBSERVATIONS,
    ControlLoop,
    LoopLimits,
)
from vla.control.session import HoldReason, InstructionSession
from vla.resources import contract_path
from vla_nodes import qos
from vla_nodes.adapter_server import AdapterServer
from vla_nodes.arm_output import ArmOutput
from vla_nodes.chunk_message import chunk_from_message
from vla_nodes.diagnostics import WARN
from vla_nodes.instruction_server import ChunkCounts, InstructionServer
from vla_nodes.liveliness import watch_writers
from vla_nodes.node import ManagedNode, run
from vla_nodes.settings import Setting

_ARM = ArmControllerConfig()
_LIMITS = LoopLimits()
_SETTINGS = (
    Setting(
        "contract",
        "sim_panda",
        "Embodiment contract: path of a YAML file, or name of one in config/contracts.",
    ),
    Setting(
        "control_rate", 50.0, "Commands to the arm per second [Hz].", minimum=10.0, maximum=500.0
    ),
    Setting(
        "max_state_age",
        _LIMITS.max_state_age,
        "Longest silence of the joint states before the arm holds [s].",
        minimum=0.01,
        maximum=10.0,
    ),
    Setting(
        "max_observation_gap",
        _LIMITS.max_observation_gap,
        "Longest silence of the observations before the arm holds [s].",
        minimum=0.01,
        maximum=10.0,
    ),
    Setting(
        "max_latent_gap",
        _LIMITS.max_latent_gap,
        "Longest silence of the latent actions before the arm holds [s]; a dead process is noticed "
        "at once.",
        minimum=0.05,
        maximum=60.0,
    ),
    Setting(
        "max_chunk_gap",
        _LIMITS.max_chunk_gap,
        "Longest silence of the action chunks before the arm holds [s]; a dead process is noticed "
        "at once.",
        minimum=0.05,
        maximum=60.0,
    ),
    Setting(
        "max_chunk_age",
        _ARM.max_chunk_age,
        "Oldest observation whose chunk may move the arm [s].",
        minimum=0.05,
        maximum=60.0,
    ),
    Setting(
        "lookahead",
        _ARM.lookahead,
        "How far ahead of now a chunk is read, to make up for the lag of the servos [s].",
        minimum=0.0,
        maximum=1.0,
    ),
    Setting(
        "default_timeout",
        60.0,
        "Longest time for ExecuteInstruction goals that name none [s].",
        minimum=0.1,
        maximum=86400.0,
        live=True,
    ),
    Setting(
        "fault_timeout",
        15.0,
        "How long the arm may hold before an ExecuteInstruction goal ends with FAULT [s].",
        minimum=0.1,
        maximum=86400.0,
    ),
    Setting(
        "load_timeout",
        60.0,
        "Longest time for each model node to put an adapter in or out [s].",
        minimum=0.1,
        maximum=3600.0,
        live=True,
    ),
    Setting(
        "workspace_min",
        list(_ARM.workspace_min),
        "Lower corner x, y, z of the box that the tool stays in, base frame [m].",
        minimum=-10.0,
        maximum=10.0,
    ),
    Setting(
        "workspace_max",
        list(_ARM.workspace_max),
        "Upper corner x, y, z of the box that the tool stays in, base frame [m].",
        minimum=-10.0,
        maximum=10.0,
    ),
    Setting(
        "max_linear_speed",
        _ARM.max_linear_speed,
        "Limit of the tool's speed [m/s].",
        minimum=0.001,
        maximum=10.0,
    ),
    Setting(
        "max_angular_speed",
        _ARM.max_angular_speed,
        "Limit of the tool's turning speed [rad/s].",
        minimum=0.001,
        maximum=10.0,
    ),
    Setting(
        "max_joint_velocity",
        list(_ARM.max_joint_velocity),
        "Limit of each joint's speed [rad/s].",
        minimum=0.001,
        maximum=10.0,
    ),
    Setting(
        "max_following_error",
        _ARM.max_following_error,
        "Largest distance of commanded from measured joints before the command gives way [rad].",
        minimum=0.001,
        maximum=3.0,
    ),
    Setting(
        "settle_time",
        _ARM.settle_time,
        "The motion has settled when it stayed within the two limits below for this long [s].",
        minimum=0.1,
        maximum=60.0,
    ),
    Setting(
        "settle_distance",
        _ARM.settle_distance,
        "Motion of the tool's target that still counts as settled [m].",
        minimum=0.0,
        maximum=1.0,
    ),
    Setting(
        "settle_angle",
        _ARM.settle_angle,
        "Turn of the tool's target that still counts as settled [rad].",
        minimum=0.0,
        maximum=3.2,
    ),
)


class Controller(ManagedNode):
    """Chunks and robot state in, joint commands and the policy's status out."""

    SETTINGS = _SETTINGS

    def __init__(self):
        super().__init__("controller")
        self._server: InstructionServer | None = None

    def configure(self) -> None:
        """Builds the arm controller and joins the graph; raises ValueError for bad parameters."""
        settings = self.settings
        self._contract = load_contract(contract_path(settings["contract"]))
        self._loop = ControlLoop(
            ArmController(_arm_config(settings), self._contract),
            LoopLimits(
                max_state_age=settings["max_state_age"],
                max_observation_gap=settings["max_observation_gap"],
                max_latent_gap=settings["max_latent_gap"],
                max_chunk_gap=settings["max_chunk_gap"],
            ),
        )
        self._counts = ChunkCounts()
        self._accepted_at: float | None = None
        self._session = InstructionSession(settings["fault_timeout"])
        self._output = ArmOutput(self, self._contract.joint_names, settings["control_rate"])
        self._server = InstructionServer(
            self, self._session, lambda: self.settings["default_timeout"], self._on_change
        )
        self._adapters = AdapterServer(
            self, self._server, self._robot_now, lambda: self.settings["load_timeout"]
        )
        self._subscribe()
        self.diagnostics.values["contract"] = self._contract.contract_id

    def _subscribe(self) -> None:
        self.create_subscription(
            JointState, self._contract.joint_states_topic, self._on_joint_state, qos.SENSOR
        )
        # Only that it comes is of interest here, so its images are not even unpacked.
        self.create_subscription(
            Observation, "vla/observation", self._on_observation, qos.LATEST, raw=True
        )
        self.create_subscription(LatentAction, "vla/latent_action", self._on_latent, qos.RESULT)
        self.create_subscription(ActionChunk, "vla/action_chunk", self._on_chunk, qos.RESULT)
        watchdog = self._loop.watchdog
        for message_type, topic, profile, name, model_node in (
            (Observation, "vla/observation", qos.LATEST, OBSERVATIONS, ""),
            (LatentAction, "vla/latent_action", qos.RESULT, LATENT_ACTIONS, "reasoning"),
            (ActionChunk, "vla/action_chunk", qos.RESULT, ACTION_CHUNKS, "action_expert"),
        ):

            def note(alive: bool, name: str = name, model_node: str = model_node) -> None:
                watchdog.set_alive(name, alive)
                if model_node:
                    self._adapters.note_alive(model_node, alive)

            watch_writers(self, message_type, topic, profile, note)

    def activate(self) -> None:
        """Takes instructions and starts the control loop; no instruction is in force yet."""
        self._counts = ChunkCounts()
        # A person, or another program, may have moved the arm meanwhile.
        self._loop.release()
        self._server.open()
        self._adapters.open()
        self._timer = self.create_steady_timer(
            1.0 / self.settings["control_rate"], lambda: self._cycle(on_time=True)
        )

    def deactivate(self) -> None:
        """Makes the arm hold, then refuses instructions."""
        self._adapters.close()
        self._server.close()
        self._cycle()

    def cleanup(self) -> None:
        """Leaves the graph."""
        if self._server is not None:
            self._adapters.destroy()
            self._server.destroy()
            self._server = None

    def _robot_now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _on_change(self) -> None:
        self._loop.flush()
        self._counts.chunk_age = math.nan

    def _on_joint_state(self, message: JointState) -> None:
        try:
            self._loop.take_joint_state(message.name, message.position, time.monotonic())
        except ValueError as error:
            self.diagnostics.report("joint_states", str(error))

    def _on_observation(self, message: bytes) -> None:
        self._loop.watchdog.heard(OBSERVATIONS, time.monotonic())

    def _on_latent(self, message: LatentAction) -> None:
        instruction = self._session.instruction
        if not instruction or message.instruction_id != instruction.instruction_id:
            return
        if self._adapters.why_not(message.checkpoint_id) is None:
            self._loop.watchdog.heard(LATENT_ACTIONS, time.monotonic())

    def _on_chunk(self, message: ActionChunk) -> None:
        if not self.is_active or not self._session.wants_motion:
            self.diagnostics.drop("no_instruction")
            return
        if message.instruction_id != self._session.instruction.instruction_id:
            self._counts.rejected += 1
            self.diagnostics.drop("other_instruction")
            return
        if self._session.loading:
            self.diagnostics.drop("loading")
            return
        if other := self._adapters.why_not(message.checkpoint_id):
            self._counts.rejected += 1
            if self._adapters.is_older(message.header.stamp):
                self.diagnostics.drop("other_checkpoint")
                return
            self._loop.fail(HoldReason.CONTRACT_MISMATCH, other)
            self.diagnostics.report("other_checkpoint", other)
            return
        now = time.monotonic()
        try:
            chunk = chunk_from_message(message, self._contract)
            self._loop.take_chunk(chunk, self._robot_now(), now)
        except ContractError as error:
            self._counts.rejected += 1
            self._loop.fail(HoldReason.CONTRACT_MISMATCH, str(error))
            self.diagnostics.report("contract", str(error))
        except ChunkError as error:
            self._counts.rejected += 1
            if error.reason == "stale":
                self.diagnostics.drop("stale")
                self.diagnostics.report("stale_chunk", f"refused a chunk: {error}", WARN)
            else:
                self.diagnostics.report(error.reason, str(error))
        else:
            self._counts.accepted += 1
            if self._accepted_at is not None:
                self.diagnostics.drop("replaced_before_use")
            self._accepted_at = now
            # Follow it at once, and go on in step with it: waiting for the timer would cost half a
            # period on average.
            self._timer.reset()
            self._cycle()

    def _cycle(self, on_time: bool = False) -> None:
        session = self._session
        cycle = self._loop.cycle(
            self._robot_now(),
            time.monotonic(),
            session.wants_motion and self.is_active,
            session.loading,
        )
        if cycle.command is not None:
            self._output.send(cycle.command)
        counts = self._counts
        counts.chunk_age = cycle.command.chunk_age if cycle.report.executing else math.nan
        if cycle.report.executing:
            # A cycle that came early may go only a part of the way, which is no limit at work.
            counts.limited_steps += cycle.command.limited and on_time
            self._note_delays(cycle.command.chunk_age)
        elif self._session.wants_motion and cycle.report.hold_reason == HoldReason.STALE_STATE:
            self.diagnostics.report("hold", cycle.report.message)
        if self.is_active:
            self._server.update(cycle.report, counts)
            self._adapters.tick()
        self.diagnostics.values["limited_steps"] = str(counts.limited_steps)

    def _note_delays(self, chunk_age: float) -> None:
        """Notes, for a chunk's first command, how old its observation is and how long it waited."""
        if self._accepted_at is None:
            self.diagnostics.output()
            return
        self.diagnostics.output(time.monotonic() - self._accepted_at)
        self.diagnostics.input_age("observation", chunk_age)
        self._accepted_at = None


def _arm_config(settings) -> ArmControllerConfig:
    """The arm's limits from parameters; raises ValueError when they contradict each other."""
    low, high = settings["workspace_min"], settings["workspace_max"]
    if len(low) != 3 or len(high) != 3 or any(a >= b for a, b in zip(low, high, strict=True)):
        raise ValueError(
            f"workspace_min {low} and workspace_max {high} must be x, y, z with min below max"
        )
    velocities = settings["max_joint_velocity"]
    if len(velocities) != len(_ARM.max_joint_velocity):
        raise ValueError(f"max_joint_velocity {velocities} must have one value for each arm joint")
    return ArmControllerConfig(
        control_rate=settings["control_rate"],
        max_chunk_age=settings["max_chunk_age"],
        lookahead=settings["lookahead"],
        workspace_min=tuple(low),
        workspace_max=tuple(high),
        max_linear_speed=settings["max_linear_speed"],
        max_angular_speed=settings["max_angular_speed"],
        max_joint_velocity=tuple(velocities),
        max_following_error=settings["max_following_error"],
        settle_time=settings["settle_time"],
        settle_distance=settings["settle_distance"],
        settle_angle=settings["settle_angle"],
    )


def main() -> int:
    """Runs the node."""
    return run(Controller)
