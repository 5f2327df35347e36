"""The node `mover`: planned motions, such as going home, while the policy is stopped.

A motion first calls `vla/stop` and waits until the controller has let go of the arm, so that two
never command it. A new instruction, or a resume, during the motion ends it. The policy is not
resumed by itself afterwards: a person, or a program, sends the next instruction.
"""

from __future__ import annotations

import threading
import time

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from std_srvs.srv import Trigger
from vla_ros.action import MoveTo
from vla_ros.msg import PolicyStatus

from vla_nodes import qos
from vla_nodes.backends.moveit_py import MoveError, MoveItPlanner, MoveSettings
from vla_nodes.node import ManagedNode, run
from vla_nodes.settings import Setting

STOPPED = (PolicyStatus.IDLE, PolicyStatus.STOPPED)
# The controller repeats its last command for half a second before it lets go of the arm [s].
LETTING_GO = 0.7
STOP_TIMEOUT = 3.0
POLL_PERIOD = 0.02


class Mover(ManagedNode):
    """Serves vla/move_to."""

    SETTINGS = (
        Setting("group", "fr3_arm", "MoveIt's planning group of the arm."),
        Setting("tool_link", "fr3_hand_tcp", "Link that target poses are for."),
        Setting("planning_time", 5.0, "Longest time to plan [s].", minimum=0.1, maximum=120.0),
        Setting(
            "speed_scale",
            0.2,
            "Share of the robot's top speed and acceleration, where a goal gives none.",
            minimum=0.01,
            maximum=1.0,
        ),
    )
    # One to wait in, one for stop's answer and the status, one for cancellations.
    THREADS = 4

    def __init__(self) -> None:
        super().__init__("mover")
        self._planner: MoveItPlanner | None = None
        self._status: PolicyStatus | None = None
        self._moving = threading.Lock()
        self._ended = ""
        # True from when the policy has stopped for a motion until that is over.
        self._stopped = False
        self._action: ActionServer | None = None

    def configure(self) -> None:
        """Starts MoveIt; raises ValueError with what to install where it is missing."""
        settings = self.settings
        self._planner = MoveItPlanner(
            "vla_moveit",
            MoveSettings(
                settings["group"],
                settings["tool_link"],
                settings["planning_time"],
                settings["speed_scale"],
            ),
        )

    def activate(self) -> None:
        """Takes goals."""
        group = ReentrantCallbackGroup()
        self._stop = self.create_client(Trigger, "vla/stop", callback_group=group)
        self.create_subscription(
            PolicyStatus, "vla/status", self._on_status, qos.LATCHED, callback_group=group
        )
        self._action = ActionServer(
            self,
            MoveTo,
            "vla/move_to",
            self._execute,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
            callback_group=group,
        )

    def deactivate(self) -> None:
        """Ends a motion, and takes no more goals."""
        self._end("the node was deactivated")
        if self._action is not None:
            self._action.destroy()
            self._action = None

    def cleanup(self) -> None:
        """Ends MoveIt."""
        if self._planner is not None:
            self._planner.close()
            self._planner = None

    def _on_status(self, message: PolicyStatus) -> None:
        self._status = message
        if self._stopped and message.state in (
            PolicyStatus.WAITING,
            PolicyStatus.EXECUTING,
            PolicyStatus.EMERGENCY_STOPPED,
        ):
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
            self._planner.stop()

    def _execute(self, goal):
        request = goal.request
        target = request.target or "the pose"
        with self._moving:
            self._ended = ""
            try:
                self._tell(goal, "stopping")
                self._stop_policy()
                self._stopped = True
                self._tell(goal, "planning")
                pose = None if request.target else request.pose
                trajectory = self._planner.plan_to(request.target, pose, request.speed_scale)
                self._require_not_ended()
                self._tell(goal, "moving")
                self._planner.execute(trajectory)
                self._require_not_ended()
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
        goal.succeed()
        return MoveTo.Result(success=True, message=f"moved to {target}")

    def _require_not_ended(self) -> None:
        if self._ended:
            raise MoveError(self._ended)

    def _tell(self, goal, phase: str) -> None:
        goal.publish_feedback(MoveTo.Feedback(phase=phase))

    def _stop_policy(self) -> None:
        """Stops the policy and waits until the arm is let go; raises MoveError when it is not."""
        if not self._stop.wait_for_service(STOP_TIMEOUT):
            raise MoveError("no service vla/stop: is the controller running? It must let go first")
        answer = self._stop.call_async(Trigger.Request())
        deadline = time.monotonic() + STOP_TIMEOUT
        stopped_at = None
        while stopped_at is None or time.monotonic() - stopped_at < LETTING_GO:
            if time.monotonic() > deadline:
                raise MoveError("the controller did not stop the policy in time: see its log")
            self._require_not_ended()
            stopped = self._status is not None and self._status.state in STOPPED
            if answer.done() and stopped and stopped_at is None:
                stopped_at = time.monotonic()
            time.sleep(POLL_PERIOD)


def main() -> int:
    """Runs the node."""
    return run(Mover)
