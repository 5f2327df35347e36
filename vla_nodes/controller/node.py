"""The node `controller`: owns the instruction, follows action chunks, and makes the arm hold.

vla.control.loop decides what to do in each cycle, vla.control.session what is in force; here both
meet topics and time. Cycles have their own thread, since for a timer rclpy would check everything
on the node each time; cycles and callbacks never run at the same time.
"""

from __future__ import annotations

import gc
import math
import os
import time

from sensor_msgs.msg import JointState
from vla_ros.msg import ActionChunk, LatentAction, Observation, Response

from vla.contract.embodiment import load_contract
from vla.control.arm import ArmController
from vla.control.loop import ACTION_CHUNKS, LATENT_ACTIONS, OBSERVATIONS, ControlLoop
from vla.control.session import HoldReason, InstructionSession
from vla.control.watchdog import HEARTBEAT
from vla.core.resources import contract_path
from vla_nodes.controller.adapter_server import AdapterServer
from vla_nodes.controller.chunk_intake import ChunkIntake
from vla_nodes.controller.hardware import HardwareInterface
from vla_nodes.controller.instruction_server import ChunkCounts, InstructionServer
from vla_nodes.controller.markers import MotionMarkers
from vla_nodes.controller.planning_scene import PlanningSceneCheck
from vla_nodes.controller.settings import (
    CONTROLLER_SETTINGS,
    arm_config,
    loop_limits,
    robot_model,
)
from vla_nodes.controller.sources import ControllerSources
from vla_nodes.core import qos
from vla_nodes.core.conversions import stamp_to_seconds
from vla_nodes.core.heartbeat import HeartbeatWatch
from vla_nodes.core.liveliness import WriterWatch
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.pacing import PacedLoop, PeriodMeter
from vla_nodes.core.polled import PolledSubscription
from vla_nodes.core.running import run
from vla_nodes.core.sources import SourceWatch

# Longest time that deactivation waits for the arm to come to rest [s].
STOPPING_PATIENCE = 1.0
# Holds that the operator should hear of at once.
TOLD_HOLDS = (
    HoldReason.STALE_STATE,
    HoldReason.BACKEND,
    HoldReason.LIMIT,
    HoldReason.IMPLAUSIBLE_STATE,
    HoldReason.CLOCK,
)
# The node behind each stream, whose death makes the arm hold.
STREAMS = {
    "perception": OBSERVATIONS,
    "reasoning": LATENT_ACTIONS,
    "action_expert": ACTION_CHUNKS,
}


class Controller(ManagedNode):
    """Chunks and robot state in, joint commands and the policy's status out."""

    SETTINGS = CONTROLLER_SETTINGS
    QOS_WARNINGS = False
    TASK = "motion"

    def __init__(self):
        super().__init__("controller")
        self._pace: PacedLoop | None = None
        self.diagnostics.checks.append(self._report_motion)

    def configure(self) -> None:
        """Builds the arm controller and joins the graph; raises ValueError for bad parameters."""
        settings = self.settings
        self._contract = load_contract(contract_path(settings["contract"]))
        model = robot_model(self, settings, self._contract)
        arm = ArmController(arm_config(settings), self._contract, model)
        self._loop = ControlLoop(arm, loop_limits(settings))
        self._robot = HardwareInterface(self, self._contract)
        self.cleanups.callback(self._robot.close)
        self._scene: PlanningSceneCheck | None = None
        if settings["planning_scene.check"]:
            self._scene = PlanningSceneCheck(self, self._contract.joint_names)
        self._session = InstructionSession(settings["fault_timeout"])
        self._server = InstructionServer(
            self,
            self._session,
            lambda: self.settings["default_timeout"],
            self._on_instruction_change,
            self._on_emergency,
            settings["execution"],
        )
        self.cleanups.callback(self._server.destroy)
        self._adapters = AdapterServer(
            self, self._server, self._robot_now, lambda: self.settings["load_timeout"]
        )
        self.cleanups.callback(self._adapters.destroy)
        self._subscribe()
        self._markers = MotionMarkers(self, self._contract.base_frame, arm)
        self.diagnostics.values["contract"] = self._contract.contract_id

    def _subscribe(self) -> None:
        self._joint_states = PolledSubscription(
            self, JointState, self._contract.joint_states_topic, qos.SENSOR
        )
        # Only its arrival matters here, so its images are not even unpacked.
        self._observations = PolledSubscription(
            self, Observation, "vla/observation", qos.LATEST, raw=True
        )
        self.create_subscription(LatentAction, "vla/latent_action", self._on_latent, qos.RESULT)
        self._sources = ControllerSources(self, self._contract.joint_states_topic)
        self.cleanups.callback(self._sources.close)
        self.create_subscription(Response, "vla/response", self._on_response, qos.RESPONSE)
        self._writers: list[WriterWatch] = []
        self._watches: dict[str, SourceWatch] = {}
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

            writer = WriterWatch(self, message_type, topic, profile, note)
            self.cleanups.callback(writer.destroy)
            self._writers.append(writer)
            self._watches[name] = self._sources.watch(topic, name, writer)
        self._heartbeats = HeartbeatWatch(
            self,
            tuple(STREAMS),
            self.settings["max_heartbeat_age"],
            lambda name, alive: watchdog.set_alive(STREAMS[name], alive, HEARTBEAT),
            self._on_new_life,
        )
        self._intake = ChunkIntake(
            self,
            self._contract,
            self._session,
            self._loop,
            self._adapters,
            self._sources,
            self._watches[ACTION_CHUNKS],
            self._heartbeats,
            self._scene,
            self._robot_now,
        )
        self.create_subscription(ActionChunk, "vla/action_chunk", self._intake.take, qos.RESULT)

    def _on_new_life(self, name: str) -> None:
        # Messages of the previous life no longer count.
        self._loop.watchdog.forget(STREAMS[name])
        self._adapters.note_restarted(name)

    def activate(self) -> None:
        """Takes instructions and starts the control loop; no instruction is in force yet."""
        interventions = self._loop.arm.safety.counts
        interventions.clear()
        self._intake.counts = ChunkCounts(interventions=interventions)
        self._periods = PeriodMeter()
        self._use_realtime_priority()
        # The garbage collector skips what exists now while the arm moves.
        gc.collect()
        gc.freeze()
        # The operator, or another program, may have moved the arm meanwhile.
        self._loop.release()
        self._server.open()
        self._adapters.open()
        pace = PacedLoop(
            "control",
            self._loop.arm.period,
            lambda: self._paced_cycle(pace),
            self.report_failure,
        )
        pace.start()
        self._pace = pace

    def deactivate(self) -> None:
        """Refuses instructions, and comes back when the arm is at rest."""
        # None after an activation that failed before the cycles had begun.
        if self._pace is not None:
            # Its thread may be waiting for the lock that is held here.
            self._pace.stop(wait=False)
        self._adapters.close()
        self._server.close()
        deadline = time.monotonic() + STOPPING_PATIENCE
        self._cycle()
        while self._loop.arm.moving and time.monotonic() < deadline:
            time.sleep(self._loop.arm.period)
            self._cycle()

    def _use_realtime_priority(self) -> None:
        priority = self.settings["realtime_priority"]
        if priority == 0:
            return
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        except PermissionError:
            raise ValueError(
                f"realtime_priority {priority} is not allowed to this user: add 'rtprio 99' for it "
                "in /etc/security/limits.conf and log in again, or set the parameter to 0"
            ) from None

    def _robot_now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _on_instruction_change(self) -> None:
        self._on_change()
        # Nodes that run now are followed, with a heartbeat or without one.
        for name in self._heartbeats.forget_stopped():
            self._loop.watchdog.set_alive(STREAMS[name], True, HEARTBEAT)

    def _on_change(self) -> None:
        self._loop.flush()
        if self._scene is not None:
            self._scene.drop()
        self._intake.counts.chunk_age = math.nan

    def _on_emergency(self, why: str) -> None:
        if why:
            self._loop.arm.safety.emergency_stop(why)
        else:
            self._loop.arm.safety.reset_emergency_stop()

    def _on_response(self, message: Response, info: dict) -> None:
        if not self._sources.responses.accepts(info):
            self.diagnostics.drop("second_publisher")
            return
        instruction = self._session.instruction
        if not instruction or message.instruction_id != instruction.instruction_id:
            return
        if math.isnan(message.inference_time):  # The model did not run: the text says why.
            self._loop.fail(HoldReason.STALE_CHUNK, message.text)
        if message.refused:
            self._server.refuse(message.instruction_id, message.text)
        else:
            self._session.add_response(message.instruction_id, message.text)

    def _take_inputs(self) -> None:
        """Takes joint states, observations and signs of life that came since the last cycle."""
        for writer in self._writers:
            writer.poll()
        self._heartbeats.poll()
        if self._sources.poll(self._server.announced_at):
            # Results may come from the second one.
            self._on_change()
        # Some robots publish arm and gripper separately on one topic.
        robot_now = self._robot_now()
        for _ in range(qos.SENSOR.depth):
            message = self._joint_states.take()
            if message is None:
                break
            is_arm = not set(self._contract.joint_names).isdisjoint(message.name)
            if is_arm and not self._sources.joint_states.accepts(self._joint_states.info):
                continue
            # Zero: no time has been received yet.
            ahead = stamp_to_seconds(message.header.stamp) - robot_now if robot_now else 0.0
            try:
                self._loop.take_joint_state(message.name, message.position, time.monotonic(), ahead)
            except ValueError as error:
                self.diagnostics.report("joint_states", str(error))
        if self._observations.take() is not None and self._watches[OBSERVATIONS].accepts(
            self._observations.info
        ):
            self._loop.watchdog.heard(OBSERVATIONS, time.monotonic())
            self._heartbeats.note_work("perception")

    def _on_latent(self, message: LatentAction, info: dict) -> None:
        instruction = self._session.instruction
        if not self._watches[LATENT_ACTIONS].accepts(info):
            return
        if not instruction or message.instruction_id != instruction.instruction_id:
            return
        if self._adapters.refusal_of(message.checkpoint_id) is None:
            self._loop.watchdog.heard(LATENT_ACTIONS, time.monotonic())
            self._heartbeats.note_work("reasoning")

    def _paced_cycle(self, pace: PacedLoop) -> None:
        with self.callback_lock:
            if pace.stopping:
                return
            try:
                self._cycle()
            except Exception as error:
                self.report_failure(error)

    def _cycle(self) -> None:
        session, loop, counts = self._session, self._loop, self._intake.counts
        self._take_inputs()
        now = time.monotonic()
        self._periods.note(now)
        if self._scene is not None:
            self._scene.tick()
        blocked = self._why_blocked()
        wants_motion = session.wants_motion and self.is_active
        cycle = loop.cycle(self._robot_now(), now, wants_motion, blocked)
        command = cycle.command
        self._robot.send(command)
        counts.chunk_age = math.nan
        if cycle.report.executing and command is not None:
            counts.chunk_age = command.chunk_age
            counts.limited_steps += command.limited
            self._intake.note_command(command.chunk_age)
        elif wants_motion and cycle.report.hold_reason in TOLD_HOLDS:
            self.diagnostics.report("hold", cycle.report.message)
        if self.is_active:
            self._server.update(cycle.report, counts, self._sources.problem or self._sources.notice)
            self._adapters.tick()
            self._markers.update(now, cycle.report)

    def _why_blocked(self) -> tuple[HoldReason, str] | None:
        """Why the arm must hold for reasons outside of the control loop."""
        problem = self._robot.problem()
        if problem and problem.stops and self._session.wants_motion:
            self._server.stop(problem.message)
        if problem and problem.dropped:
            self._loop.release()
        if problem:
            return HoldReason.BACKEND, problem.message
        if self._sources.problem:
            return HoldReason.SECOND_PUBLISHER, self._sources.problem
        if self._session.loading:
            return HoldReason.LOADING, self._session.loading
        return None

    def _report_motion(self) -> None:
        """Adds the safety stage's counts and the timing of the cycles to the diagnostics."""
        if not self.is_active:
            return
        safety, values = self._loop.arm.safety, self.diagnostics.values
        values["heartbeats"] = ", ".join(self._heartbeats.heard()) or "none"
        values["limited_steps"] = str(self._intake.counts.limited_steps)
        for reason, count in safety.counts.items():
            values[f"interventions.{reason}"] = str(count)
        values |= self._periods.summary(self._loop.arm.period)


def main() -> int:
    """Runs the node."""
    return run(Controller)
