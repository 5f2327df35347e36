"""The node `mover`: planned motions, such as going home, while the policy is stopped.

A motion first calls `vla/stop` and waits until the controller has released the arm, so that two
never command it. A new instruction, or a resume, ends the motion. Afterwards the policy stays
stopped: the operator, or a program, sends the next instruction. While two nodes publish on
`vla/status`, nobody knows whether the policy rests: no motion begins, and one under way ends.

It is a separate process because MoveIt keeps Python's lock while it plans, which blocks everything
else in the process; missed messages are handled before the arm moves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from std_srvs.srv import Trigger
from vla_ros.action import MoveTo
from vla_ros.msg import PolicyStatus

from vla.control.loop import RELEASE_TIME
from vla_nodes.backends.moveit_py import MoveError, MoveItPlanner, MoveSettings, read_targets
from vla_nodes.core import qos
from vla_nodes.core.clock_watch import CLOCK_TOPIC
from vla_nodes.core.diagnostics import NO_HARDWARE
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.requests import Paced
from vla_nodes.core.running import run
from vla_nodes.core.settings import Setting
from vla_nodes.core.sources import LOOK_PERIOD, OneSource

# A second node within this process, named so in parameter files.
MOVEIT_NODE = "vla_moveit"
TARGETS = "targets."
# The controller repeats its last command for RELEASE_TIME before it releases the arm [s].
RELEASE_WAIT = RELEASE_TIME + 0.2
STOP_TIMEOUT = 3.0
# The controller tells its status five times a second [s].
STATUS_TIMEOUT = 1.0
# Longest wait of deactivate for the end of a motion [s].
END_TIMEOUT = 3.0
POLL_PERIOD = 0.02


class Mover(ManagedNode):
    """Serves vla/move_to."""

    SETTINGS = (
        Setting("group", "fr3_arm", "MoveIt's planning group of the arm."),
        Setting("tool_link", "fr3_hand_tcp", "Link that target poses are for."),
        Setting("planning_time", 5.0, "Longest time to plan [s].", bounds=(0.1, 120.0)),
        Setting(
            "speed_scale",
            0.2,
            "Share of the robot's top speed and acceleration, where a goal gives none.",
            bounds=(0.01, 1.0),
        ),
    )
    # One to wait in, one for stop's answer and the status, one for cancellations, one for timers.
    THREADS = 4
    TASK = "planned motions"

    def hardware_id(self) -> str:
        """The arm, as MoveIt calls it."""
        return self.settings["group"] or NO_HARDWARE

    def __init__(self) -> None:
        super().__init__("mover")
        self._declare_targets()
        self._status: PolicyStatus | None = None
        self._statuses = 0
        self._source: OneSource | None = None
        self._source_lock = threading.Lock()
        self._moving = threading.Lock()
        self._ended = ""
        # True from the stop of the policy for a motion until the motion is over.
        self._stopped = False
        self._action: ActionServer | None = None
        self.diagnostics.checks.append(self._report_source)

    def _declare_targets(self) -> None:
        """Declares each `targets.NAME` that a parameter file gives."""
        descriptor = ParameterDescriptor(
            dynamic_typing=True,
            description="Target of vla/move_to: name of a group state of the SRDF, or joint "
            "positions of the group [rad]. Takes effect at the next configure.",
        )
        for name, given in sorted(self._parameter_overrides.items()):
            if name.startswith(TARGETS):
                self.declare_parameter(name, given.value, descriptor)

    def configure(self) -> None:
        """Starts MoveIt; raises ValueError with what to install where it is missing."""
        settings = self.settings
        given = self.get_parameters_by_prefix(TARGETS.rstrip("."))
        self._planner = MoveItPlanner(
            MOVEIT_NODE,
            self.get_namespace(),
            MoveSettings(
                settings["group"],
                settings["tool_link"],
                settings["planning_time"],
                settings["speed_scale"],
                read_targets({name: self.get_parameter(TARGETS + name).value for name in given}),
            ),
            self.get_parameter("use_sim_time").value,
            self.resolve_topic_name(CLOCK_TOPIC),
        )

        self.cleanups.callback(self._planner.close)

    def activate(self) -> None:
        """Takes goals."""
        group = ReentrantCallbackGroup()
        self._stop_service = self.create_client(Trigger, "vla/stop", callback_group=group)
        self._source = OneSource(self, "vla/status", PolicyStatus, "statuses", qos.LATCHED)
        self.create_subscription(
            PolicyStatus, "vla/status", self._on_status, qos.LATCHED, callback_group=group
        )
        self.create_steady_timer(LOOK_PERIOD, self._look)
        self._action = ActionServer(
            self,
            MoveTo,
            "vla/move_to",
            self._execute,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
            callback_group=Paced(self.pacer),
            **qos.ACTION,
        )

    def deactivate(self) -> None:
        """Ends a motion, and takes no more goals."""
        self._end("the node was deactivated")
        if self._moving.acquire(timeout=END_TIMEOUT):
            self._moving.release()
        if self._action is not None:
            self._action.destroy()
            self._action = None
        with self._source_lock:
            source, self._source = self._source, None
        if source is not None:
            source.destroy()

    def _look(self) -> str:
        """Reads who publishes on vla/status; ends the motion, and says why, where there are two."""
        with self._source_lock:
            if self._source is None:
                return ""
            self._source.poll()
            problem = self._source.problem
        if problem:
            self._end(problem)
        return problem

    def _report_source(self) -> None:
        if problem := self._look():
            self.diagnostics.report("second_publisher", problem)

    def _on_status(self, message: PolicyStatus, info: dict) -> None:
        with self._source_lock:
            believed = self._source is not None and self._source.accepts(info)
        if not believed:
            self._look()
            return
        self._status = message
        self._statuses += 1
        if self._stopped and not _rests(message):
            self._end("an instruction, or an emergency stop, took over")

    def _on_goal(self, goal) -> GoalResponse:
        scale = goal.speed_scale
        if self._moving.locked() or not 0.0 <= scale <= 1.0:
            why = "a motion is under way" if self._moving.locked() else f"speed_scale is {scale}"
            self.get_logger().warning(f"rejected a goal: {why}")
            return GoalResponse.REJECT
        if not goal.target and not goal.pose.header.frame_id:
            self.get_logger().warning("rejected a goal: it has neither a target nor a pose's frame")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_cancel(self, goal) -> CancelResponse:
        self._end("cancelled by the caller")
        return CancelResponse.ACCEPT

    def _end(self, why: str) -> None:
        if self._moving.locked() and not self._ended:
            self._ended = why
            threading.Thread(target=self._stop_motion, name="stop motion", daemon=True).start()

    def _stop_motion(self) -> None:
        # Repeatedly, since the motion may begin only now.
        while self._moving.locked() and self._ended:
            self._planner.stop()
            time.sleep(POLL_PERIOD)

    def _execute(self, goal):
        if not self._moving.acquire(blocking=False):
            goal.abort()
            return MoveTo.Result(success=False, message="a motion is under way")
        request = goal.request
        target = request.target or "the pose"
        try:
            self._ended = ""
            self._move(goal, request)
            goal.succeed()
        except MoveError as error:
            message = self._ended or str(error)
            self.diagnostics.report("move", f"did not move to {target}: {message}")
            if goal.is_cancel_requested:
                goal.canceled()
            else:
                goal.abort()
            return MoveTo.Result(success=False, message=message)
        finally:
            self._stopped = False
            self._moving.release()
        return MoveTo.Result(success=True, message=f"moved to {target}")

    def _move(self, goal, request) -> None:
        """Stops the policy, plans and moves; raises MoveError when that does not succeed."""
        if problem := self._look():
            raise MoveError(problem)
        self._tell(goal, "stopping")
        self._stop_policy()
        self._tell(goal, "planning")
        pose = None if request.target else request.pose
        trajectory = self._planner.plan_to(request.target, pose, request.speed_scale)
        self._catch_up()
        self._tell(goal, "moving")
        self._planner.execute(trajectory)
        self._require_not_ended()

    def _require_not_ended(self) -> None:
        if self._ended:
            raise MoveError(self._ended)

    def _tell(self, goal, phase: str) -> None:
        goal.publish_feedback(MoveTo.Feedback(phase=phase))

    def _stop_policy(self) -> None:
        """Stops the policy and waits until the arm is released; raises MoveError when it is not."""
        if not self._stop_service.wait_for_service(STOP_TIMEOUT):
            raise MoveError(
                "no service vla/stop: is the controller running? It must release the arm first"
            )
        answer = self._stop_service.call_async(Trigger.Request())
        late = time.monotonic() + STOP_TIMEOUT
        self._wait(answer.done, late, "the controller did not answer vla/stop: see its log")
        late = time.monotonic() + STOP_TIMEOUT
        self._wait(self._policy_rests, late, "the controller did not stop the policy: see its log")
        # From now on, a resumed policy ends the motion.
        self._stopped = True
        released = time.monotonic() + RELEASE_WAIT
        self._wait(lambda: time.monotonic() > released, released + 1.0, "")

    def _policy_rests(self) -> bool:
        if self._status is not None and self._status.state == PolicyStatus.EMERGENCY_STOPPED:
            raise MoveError(
                "an emergency stop is in force: reset it first (vla/reset_emergency_stop)"
            )
        return self._status is not None and _rests(self._status)

    def _catch_up(self) -> None:
        """Handles messages that arrived while MoveIt planned, before the arm moves."""
        self._look()
        if self._status is None or self._status.hold_reason != PolicyStatus.HOLD_INACTIVE:
            heard = self._statuses
            self._wait(
                lambda: self._statuses > heard + 1,
                time.monotonic() + STATUS_TIMEOUT,
                "the controller fell silent: is it running?",
            )
        self._require_not_ended()

    def _wait(self, condition: Callable[[], bool], deadline: float, otherwise: str) -> None:
        while not condition():
            self._require_not_ended()
            if time.monotonic() > deadline:
                raise MoveError(otherwise)
            time.sleep(POLL_PERIOD)


def _rests(status: PolicyStatus) -> bool:
    """Whether the policy moves nothing, and will not start by itself."""
    inactive = status.hold_reason == PolicyStatus.HOLD_INACTIVE
    return status.state in (PolicyStatus.IDLE, PolicyStatus.STOPPED) or inactive


def main() -> int:
    """Runs the node."""
    return run(Mover)
