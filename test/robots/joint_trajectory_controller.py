"""Plays ros2_control's joint_trajectory_controller and an arm that follows it exactly.

Topic and action, as the real one has them: a new trajectory replaces the one before, whose goal
ends as aborted or canceled; unknown joints, partial ones, points that do not increase in time and
trajectories that lie in the past are refused; outside the path tolerance the goal is aborted.

Faults, as parameters that may change at any time: refuse (goals), abort (the goal in execution),
stuck (the arm stands still although the states go on), silent (no joint states).
"""

from __future__ import annotations

import threading
import time

import numpy as np
from control_msgs.action import FollowJointTrajectory
from plain_node import PlayedNode, run
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.time import Time
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

Result = FollowJointTrajectory.Result


class Controller(PlayedNode):
    def __init__(self):
        super().__init__(
            "joint_trajectory_controller",
            joints=["joint"],
            start=[0.0],
            rate=100.0,
            path_tolerance=0.3,
            refuse=False,
            abort=False,
            stuck=False,
            silent=False,
        )
        self.joints = list(self.fault("joints"))
        self.measured = np.array(self.fault("start"), dtype=float)
        self.wanted = self.measured.copy()
        self.speed = np.zeros_like(self.measured)
        self.path = None
        self.goal = None
        self.failure = None
        self.lock = threading.Lock()
        self.offset = self.get_clock().now().nanoseconds * 1e-9 - time.monotonic()
        self.states = self.create_publisher(JointState, "joint_states", 10)
        self.create_subscription(JointTrajectory, "~/joint_trajectory", self.on_topic, 1)
        group = ReentrantCallbackGroup()
        ActionServer(
            self,
            FollowJointTrajectory,
            "~/follow_joint_trajectory",
            self.execute,
            callback_group=group,
            goal_callback=self.on_goal,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )
        self.create_timer(1.0 / self.fault("rate"), self.step)

    def read(self, message):
        """Times and points; ValueError with the error code of the action's result."""
        if set(message.joint_names) != set(self.joints):
            raise ValueError(Result.INVALID_JOINTS, f"joints {list(message.joint_names)}")
        order = [list(message.joint_names).index(name) for name in self.joints]
        times, places, speeds = [], [], []
        for point in message.points:
            if len(point.positions) != len(self.joints):
                raise ValueError(Result.INVALID_GOAL, "positions are missing")
            times.append(point.time_from_start.sec + point.time_from_start.nanosec * 1e-9)
            places.append(np.array(point.positions)[order])
            given = point.velocities if len(point.velocities) else [np.nan] * len(order)
            speeds.append(np.array(given)[order])
        if not times or np.any(np.diff(times) <= 0):
            raise ValueError(Result.INVALID_GOAL, "times do not increase")
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        now = self.get_clock().now().nanoseconds * 1e-9
        late = now - stamp if stamp else 0.0
        if late > times[-1]:
            raise ValueError(Result.OLD_HEADER_TIMESTAMP, f"it ended {late - times[-1]:.3f} s ago")
        return time.monotonic() - late + np.array(times), np.array(places), np.array(speeds)

    def follow(self, times, places, speeds):
        with self.lock:
            now = time.monotonic()
            place, speed = self.wanted, np.zeros_like(self.wanted)
            if self.path is not None:
                # Where the motion is now, and not where the last cycle left it.
                place = self.at(now)
                speed = (place - self.at(now - 0.002)) / 0.002
            self.path = (
                np.concatenate([[now], times]),
                np.vstack([place, places]),
                np.vstack([speed, speeds]),
            )

    def on_topic(self, message):
        try:
            path = self.read(message)
        except ValueError as error:
            self.get_logger().error(f"refused a trajectory: {error.args[1]}")
            return
        self.goal = None
        self.follow(*path)

    def on_goal(self, request):
        if self.fault("refuse"):
            return GoalResponse.REJECT
        try:
            self.read(request.trajectory)
        except ValueError as error:
            self.get_logger().error(f"rejected a goal: {error.args[1]}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def execute(self, goal):
        times, places, speeds = self.read(goal.request.trajectory)
        self.goal = goal
        self.follow(times, places, speeds)
        while time.monotonic() < times[-1]:
            if self.goal is not goal:
                goal.abort()
                return Result(error_code=Result.INVALID_GOAL, error_string="replaced")
            if goal.is_cancel_requested:
                goal.canceled()
                return Result()
            away = np.abs(self.wanted - self.measured).max()
            if self.fault("abort") or away > self.fault("path_tolerance"):
                goal.abort()
                with self.lock:
                    self.path = None
                return Result(
                    error_code=Result.PATH_TOLERANCE_VIOLATED,
                    error_string="aborted due to state tolerance violation",
                )
            time.sleep(0.005)
        goal.succeed()
        return Result()

    def step(self):
        with self.lock:
            now = time.monotonic()
            if self.path is not None:
                before = self.wanted
                self.wanted = self.at(now)
                self.speed = (self.wanted - before) * self.fault("rate")
            if not self.fault("stuck"):
                self.measured = self.wanted.copy()
        if self.fault("silent"):
            return
        message = JointState(name=self.joints, position=self.measured.tolist())
        message.velocity = self.speed.tolist()
        # Of the very moment that the positions are of, however long this thread had to wait.
        message.header.stamp = Time(nanoseconds=int((now + self.offset) * 1e9)).to_msg()
        self.states.publish(message)

    def at(self, now):
        """Between two points a cubic where both have velocities, else a straight line."""
        times, places, speeds = self.path
        index = int(np.searchsorted(times, now, side="right")) - 1
        if index >= len(times) - 1:
            return places[-1]
        span = times[index + 1] - times[index]
        share = np.clip((now - times[index]) / span, 0.0, 1.0)
        first, second = places[index], places[index + 1]
        slopes = speeds[index] * span, speeds[index + 1] * span
        if not np.isfinite(slopes).all():
            return first + share * (second - first)
        way = second - first
        bend = share * (1 - share)
        return (
            first
            + way * (3 - 2 * share) * share**2
            + slopes[0] * bend * (1 - share)
            - slopes[1] * bend * share
        )


if __name__ == "__main__":
    run(Controller, threads=6)
