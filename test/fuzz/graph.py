"""The running graph against a foreign node that publishes mutated messages, at rest and moving.

The simulator, perception, both halves of the shipped policy and the controller run as processes;
the foreigner is one more. No command may leave a limit, none may move the arm for what the
foreigner said, no node may die or print a traceback, and the arm must move again when it is gone.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from fake_robot import CONTRACT, KINEMATICS, LIMITS
from fault_report import LATE, excess_of
from geometry_msgs.msg import PoseStamped
from motion_watch import JOINTS, PERIOD, Watch
from node_harness import ROOT, Graph, use_test_interfaces
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from vla_ros.msg import (
    ActionChunk,
    Instruction,
    LatentAction,
    Observation,
    PolicyStatus,
    SceneState,
)
from vla_ros.srv import ResetScene, SetInstruction

from fuzz.holds import Told, fault_of, holds_of, longest
from fuzz.report import Report, Target
from vla.control.safety import WALL_TOLERANCE
from vla.control.session import State
from vla_nodes.core import qos

CHECKPOINT = ROOT / "checkpoints" / "nano"
FOREIGNER = Path(__file__).with_name("foreign_publisher.py")
RATE = 200.0
# What the arm may still do when it begins to hold: it comes to rest within this [s].
STOPPING = 0.5
# Joints closer than that are where they were: servos tremble [rad].
SAME_PLACE = 1e-3
TOPICS: dict[str, type] = {
    **{camera.topic: Image for camera in CONTRACT.cameras},
    CONTRACT.joint_states_topic: JointState,
    CONTRACT.end_effector_pose_topic: PoseStamped,
    "vla/observation": Observation,
    "vla/latent_action": LatentAction,
    "vla/action_chunk": ActionChunk,
    "vla/instruction": Instruction,
}


def reading(topic: str) -> QoSProfile:
    """How a topic is read."""
    return qos.LATCHED if topic == "vla/instruction" else qos.SENSOR


class FuzzedGraph:
    """The graph of the demo, and what is seen of it."""

    def __init__(self, report: Report, graph: Graph):
        self.report, self.graph = report, graph
        self.nodes = graph.start_with_policy(CHECKPOINT, control_rate=1.0 / PERIOD)
        self.watch = Watch(graph)
        self.statuses = graph.collect(PolicyStatus, "vla/status", qos.LATCHED)
        self.told: list[Told] = []
        # Where the arm truly is, on a topic that nobody forges.
        self.truth: list[tuple[float, np.ndarray]] = []
        node = graph.node
        node.create_subscription(PolicyStatus, "vla/status", self._on_status, qos.LATCHED)
        node.create_subscription(SceneState, "sim/state", self._on_truth, qos.SENSOR)
        self._recorded = self._record()

    def _on_status(self, message: PolicyStatus) -> None:
        at = time.monotonic()
        self.told.append(Told(at, message.state, message.hold_reason, message.message))

    def _on_truth(self, message: SceneState) -> None:
        self.truth.append((time.monotonic(), np.array(message.qpos[:7])))

    def _record(self) -> dict[str, Path]:
        """One message of each topic, as the graph itself sends it while the arm moves."""
        self._prepare(0, moving=True)
        node, heard = self.graph.node, {}
        subscriptions = [
            node.create_subscription(kind, topic, partial(heard.__setitem__, topic), reading(topic))
            for topic, kind in TOPICS.items()
        ]
        self.graph.wait(lambda: len(heard) == len(TOPICS), "a message of each topic")
        for subscription in subscriptions:
            node.destroy_subscription(subscription)
        paths = {}
        for number, (topic, message) in enumerate(heard.items()):
            paths[topic] = self.report.folder / f"message_{number}"
            paths[topic].write_bytes(serialize_message(message))
        return paths

    def fuzz(self, topic: str, count: int, seed: int, moving: bool) -> None:
        """One foreigner on one topic."""
        figures = self.report.target("foreign messages, " + ("moving" if moving else "at rest"))
        case = f"{topic}, {'moving' if moving else 'at rest'}"
        began = time.monotonic()
        self._prepare(seed, moving)
        place = self._measured()
        self.watch.commands.clear()
        self.statuses.clear()
        self.told.clear()
        foreigner = self._start_foreigner(topic, count, seed)
        self.graph.wait(lambda: not foreigner.running, "the foreigner's end", 60.0, alive=False)
        left_at = time.monotonic()
        if foreigner.process.returncode != 0:
            raise AssertionError(f"the foreigner failed on {topic}: {foreigner.output}")
        self.graph.processes.remove(foreigner)
        self._pause(STOPPING)
        figures.cases += count
        # Before the statuses of the time after it take their place.
        figures.figures[topic] = self._named()
        self._judge_commands(figures, case, place, moving)
        self._judge_nodes(case)
        if moving:
            if not self._moves_again():
                self.report.add(figures.name, case, "not_recovered", self.statuses[-1].message)
            self._judge_holds(figures, topic, case, left_at)
        figures.seconds += time.monotonic() - began

    def _prepare(self, seed: int, moving: bool) -> None:
        """A new scene with an arm on its way, or one that stands still and was told nothing."""
        request = ResetScene.Request(seed=seed, family="pick")
        scene = self.graph.call(ResetScene, "sim/reset_scene", request)
        if moving:
            self.watch.commands.clear()
            ask = SetInstruction.Request(instruction=scene.instruction)
            answer = self.graph.call(SetInstruction, "vla/set_instruction", ask)
            assert answer.success, answer.message
            begun = partial(self._is_moving, answer.instruction_id)
            self.graph.wait(begun, "motion", 60.0)
        else:
            self.graph.call(Trigger, "vla/stop", Trigger.Request())
            self._pause(1.0)

    def _start_foreigner(self, topic: str, count: int, seed: int):
        kind = TOPICS[topic]
        package = kind.__module__.rpartition("._")[0]
        names = (topic, f"{package}.{kind.__name__}", str(self._recorded[topic]))
        arguments = (*names, str(count), str(seed), str(RATE))
        return self.graph.run_script(FOREIGNER, arguments)

    def _is_moving(self, instruction_id: int) -> bool:
        """Whether it does what it was told last; it may still come to rest from what was before."""
        status = self.statuses[-1] if self.statuses else PolicyStatus()
        if status.state != State.EXECUTING or status.instruction_id != instruction_id:
            return False
        recent = self.watch.commands[-10:]
        return len(recent) == 10 and all(
            np.abs(point.velocities).max() > 0.02 for _, point, _ in recent
        )

    def _moves_again(self) -> bool:
        """Whether chunks are executed again within half a minute of the foreigner's end."""
        self.statuses.clear()
        deadline = time.monotonic() + 30.0
        while time.monotonic() < deadline:
            self.graph.spin()
            if self.statuses and self.statuses[-1].state == State.EXECUTING:
                return True
        return False

    def _measured(self) -> np.ndarray:
        return self.watch.states[-1][1]

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.graph.wait(lambda: time.monotonic() > end, "time", alive=False)

    def _judge_commands(self, target: Target, case: str, place: np.ndarray, moving: bool) -> None:
        commands = self.watch.commands
        if len(commands) > 3:
            over = excess_of(self.watch.motion(), JOINTS, LIMITS.safety, KINEMATICS)
            passed = {name: value for name, value in over.items() if value > 0.0}
            if self._arm_was_there(passed.get("workspace", 0.0)):
                # Put there, it may only come back; that it was there is told, too.
                figures = target.figures
                figures["arm_outside"] = round(passed.pop("workspace"), 4)
            if passed:
                kept = self._keep_motion(case)
                self.report.add(target.name, case, "limit_passed", f"{passed}; see {kept}")
        if not moving:
            self._pause(0.2)
            way = float(np.abs(self._measured() - place).max())
            figures = target.figures
            figures["joints_moved"] = max(figures.get("joints_moved", 0.0), round(way, 5))
            if way > SAME_PLACE:
                self.report.add(target.name, case, "moved_by_foreign_input", f"{way:.4f} rad")

    def _arm_was_there(self, beyond: float) -> bool:
        """Whether the true arm was as far outside of the workspace [m] as a command was."""
        limits = LIMITS.safety
        first = self.watch.commands[0][0] - LATE
        for at, joints in self.truth:
            place, _ = KINEMATICS.tool_pose(joints)
            out = np.maximum(place - limits.workspace_max, limits.workspace_min - place).max()
            if beyond > 0.0 and at >= first and out >= beyond - WALL_TOLERANCE:
                return True
        return False

    def _judge_holds(self, target: Target, topic: str, case: str, left_at: float) -> None:
        """Whether the foreigner stopped the arm for longer than it may."""
        holds = holds_of(self.told)
        target.figures[f"longest hold, {topic}"] = longest(holds)
        if fault := fault_of(topic, holds, left_at, [at for at, _ in self.truth]):
            self.report.add(target.name, case, "held_too_long", fault)

    def _keep_motion(self, case: str) -> Path:
        """Writes what was commanded, measured and said, by one clock, to be looked at later."""
        motion, (at, places) = self.watch.motion(), zip(*self.watch.states, strict=True)
        path = ROOT / "output" / f"fuzz_{re.sub(r'[^a-z]+', '_', case)}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(
            path,
            times=motion.times,
            positions=motion.positions,
            velocities=motion.velocities,
            measured_times=at,
            measured=places,
            true_times=[at for at, _ in self.truth],
            true=[joints for _, joints in self.truth],
            statuses=[f"{status.state} {status.message}" for status in self.statuses],
        )
        return path

    def _judge_nodes(self, case: str) -> None:
        for name, process in self.nodes.items():
            if not process.running:
                self.report.add(name, case, "node_died", process.output[-500:])
            for line in process.output.splitlines():
                if "Traceback" in line or "a callback failed" in line:
                    self.report.add(name, case, "foreign_exception", line)
                if len(line) > 2000:
                    self.report.add(name, case, "bad_text", f"a log line of {len(line)} characters")
            process.forget_output()
        if all(process.running for process in self.nodes.values()):
            for name in self.nodes:
                state = self.graph.state(name)
                if state != "active":
                    self.report.add(name, case, "node_died", f"it is {state}")

    def _named(self) -> str:
        """What the status said first of the foreigner, "" where it said nothing."""
        for status in self.statuses:
            if "foreigner" in status.message:
                return status.message[:200]
        return ""


def fuzz_graph(
    report: Report, count: int, seed: int, while_moving: Sequence[str] = tuple(TOPICS)
) -> None:
    """`count` mutated messages on each of the eight topics at rest, then on some while it moves."""
    use_test_interfaces()
    with Graph() as graph:
        fuzzed = FuzzedGraph(report, graph)
        for moving, topics in ((False, TOPICS), (True, while_moving)):
            for number, topic in enumerate(topics):
                print(f"  {topic}, {'moving' if moving else 'at rest'}", file=sys.stderr)
                fuzzed.fuzz(topic, count, seed + number, moving)
