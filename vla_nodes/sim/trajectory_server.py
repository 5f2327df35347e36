"""FollowJointTrajectory, as ros2_control's joint_trajectory_controller serves it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_nodes.backends.base import import_interfaces
from vla_nodes.core import qos
from vla_nodes.sim.trajectory import Trajectory

# How often a goal is checked [s]; the real controller's action_monitor_rate is 20 Hz.
MONITOR_PERIOD = 0.05


class TrajectoryServer:
    """Takes one goal at a time; a new one replaces the one before, which ends as aborted.

    The goal succeeds when its time is over and the joints are within its goal tolerance, if it has
    one. Tolerances are those in the goal; without any, none are checked. Everything runs in the
    node's executor.
    """

    def __init__(
        self,
        node,
        name: str,
        joint_names: tuple[str, ...],
        read: Callable[[JointTrajectory], Trajectory],
        follow: Callable[[Trajectory], None],
        hold: Callable[[], None],
        state: Callable[[], tuple[float, np.ndarray, np.ndarray]],
    ):
        """Joins the graph; the owner calls tick() every MONITOR_PERIOD.

        read: checks a trajectory, ValueError says what is wrong with it. follow: begins it. hold:
        stays where the arm is. state: time on the trajectories' clock [s], commanded and measured
        joints [n, rad]. Raises ValueError where control_msgs is not installed.
        """
        (action,) = import_interfaces("control_msgs", ("action",), "install ros-jazzy-control-msgs")
        self._action = action.FollowJointTrajectory
        self._node, self._joint_names = node, list(joint_names)
        self._read, self._follow, self._hold, self._state = read, follow, hold, state
        self._running: tuple[ServerGoalHandle, Trajectory] | None = None
        self._server = ActionServer(
            node,
            self._action,
            name,
            execute_callback=self._execute,
            goal_callback=self._on_goal,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
            **qos.ACTION,
        )

    def destroy(self) -> None:
        """Takes the action off the graph."""
        self._server.destroy()

    def tick(self) -> None:
        """Checks the running goal: tolerances, its end, a request to cancel it."""
        if self._running is None:
            return
        goal, trajectory = self._running
        codes = self._action.Result
        now, wanted, measured = self._state()
        request = goal.request
        if goal.is_cancel_requested:
            self._hold()
            self._end(codes.SUCCESSFUL, "canceled", goal.canceled)
        elif now < trajectory.end:
            self._publish_feedback(goal, wanted, measured)
            if joint := self._outside(request.path_tolerance, wanted - measured):
                self._hold()
                self._end(codes.PATH_TOLERANCE_VIOLATED, f"{joint} does not follow", goal.abort)
        elif not (joint := self._outside(request.goal_tolerance, wanted - measured)):
            self._end(codes.SUCCESSFUL, "", goal.succeed)
        else:
            limit = request.goal_time_tolerance
            seconds = limit.sec + limit.nanosec * 1e-9
            # Without a limit the real controller waits, too.
            if seconds > 0 and now > trajectory.end + seconds:
                self._hold()
                self._end(codes.GOAL_TOLERANCE_VIOLATED, f"{joint} is not there", goal.abort)

    def preempt(self, why: str) -> None:
        """Ends the running goal, if any: something else moves the arm from now on."""
        if self._running is not None:
            self._end(self._action.Result.INVALID_GOAL, why, self._running[0].abort)

    def _on_goal(self, request) -> GoalResponse:
        try:
            self._read(request.trajectory)
        except ValueError as error:
            self._node.get_logger().warning(f"rejected a trajectory: {error}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    async def _execute(self, goal):
        """Follows a goal's trajectory and waits, without blocking, until tick() ends it."""
        try:
            trajectory = self._read(goal.request.trajectory)
        except ValueError as error:
            goal.abort()
            return self._action.Result(
                error_code=self._action.Result.INVALID_GOAL, error_string=str(error)
            )
        self.preempt("replaced by a new goal")
        self._future = Future(executor=self._node.executor)
        self._running = (goal, trajectory)
        self._follow(trajectory)
        return await self._future

    def _end(self, code: int, why: str, finish: Callable[[], None]) -> None:
        self._running = None
        finish()
        self._future.set_result(self._action.Result(error_code=code, error_string=why))

    def _outside(self, tolerances, error: np.ndarray) -> str:
        """The first joint outside of its tolerance; "" for none. Zero and below are no limit."""
        errors = dict(zip(self._joint_names, np.abs(error), strict=True))
        for tolerance in tolerances:
            if 0 < tolerance.position < errors.get(tolerance.name, 0.0):
                return tolerance.name
        return ""

    def _publish_feedback(self, goal, wanted: np.ndarray, measured: np.ndarray) -> None:
        feedback = self._action.Feedback(joint_names=self._joint_names)
        feedback.header.stamp = self._node.get_clock().now().to_msg()
        feedback.desired = JointTrajectoryPoint(positions=wanted.tolist())
        feedback.actual = JointTrajectoryPoint(positions=measured.tolist())
        feedback.error = JointTrajectoryPoint(positions=(wanted - measured).tolist())
        goal.publish_feedback(feedback)
