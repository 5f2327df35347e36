"""A fake joint_trajectory_controller of ros2_control, and an arm that follows it.

Topic and action, as the real one has them: a new trajectory replaces the one before, whose goal
ends as aborted; unknown joints, partial ones, points that do not increase in time, a last point
that moves and trajectories that lie in the past are refused; outside the path tolerance, or at the
end outside the goal tolerance for longer than goal_time, the goal is aborted, and the arm holds
where it is. `controller_state` tells what is commanded and what is measured.

A trajectory starts from what is commanded, or, with interpolate_from_desired_state false (the real
one's default), from what is measured. allow_nonzero_velocity_at_trajectory_end is the real one's,
too. A tolerance of 0 is not looked at.

The arm follows exactly, or with `lag` [s]. Faults, as parameters that may change at any time:
refuse (goals), abort (the goal in execution), stuck (the arm stands still although the states go
on), silent (no joint states). To vanish, kill the process.

All of it runs in one thread: rclpy's executor for several is busy for so long, at hundreds of
callbacks a second, that the arm would stand still for a tenth of a second now and then.
"""

from __future__ import annotations

import math
import time

import numpy as np
from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import JointTrajectoryControllerState
from plain_node import FakeNode, run
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.task import Future
from rclpy.time import Time
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

Result = FollowJointTrajectory.Result
# What the real controller takes for a standstill at the end.
STANDSTILL = np.finfo(np.float32).eps


class Path:
    """Points to be passed: times of the steady clock [s], places and speeds; NaN: no speeds."""

    def __init__(self, times, places, speeds):
        self.times, self.places, self.speeds = times, places, speeds

    def begun_at(self, now, place, speed):
        """This path with where the arm is before its first point, unless that is due already."""
        if self.times[0] <= now:
            return self
        return Path(
            np.concatenate([[now], self.times]),
            np.vstack([place, self.places]),
            np.vstack([speed, self.speeds]),
        )

    def at(self, now):
        """Between two points a cubic where both have velocities, else a straight line."""
        times, places, speeds = self.times, self.places, self.speeds
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


class Controller(FakeNode):
    def __init__(self):
        super().__init__(
            "joint_trajectory_controller",
            joints=["joint"],
            start=[0.0],
            rate=100.0,
            lag=0.0,
            interpolate_from_desired_state=True,
            allow_nonzero_velocity_at_trajectory_end=False,
            path_tolerance=0.3,
            goal_tolerance=0.0,
            goal_time=0.0,
            refuse=False,
            abort=False,
            stuck=False,
            silent=False,
        )
        self.joints = list(self.fault("joints"))
        self.measured = np.array(self.fault("start"), dtype=float)
        self.wanted = self.measured.copy()
        self.speed = np.zeros_like(self.measured)
        self.stepped_at = time.monotonic()
        self.path = None
        self.goal = None
        self.offset = self.get_clock().now().nanoseconds * 1e-9 - time.monotonic()
        self.states = self.create_publisher(JointState, "joint_states", 10)
        self.reports = self.create_publisher(
            JointTrajectoryControllerState, "~/controller_state", 10
        )
        self.create_subscription(JointTrajectory, "~/joint_trajectory", self.on_topic, 1)
        ActionServer(
            self,
            FollowJointTrajectory,
            "~/follow_joint_trajectory",
            self.execute,
            goal_callback=self.on_goal,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )
        self.create_timer(1.0 / self.fault("rate"), self.step)

    def read(self, message):
        """The path of a message; ValueError with what is wrong."""
        if set(message.joint_names) != set(self.joints):
            raise ValueError(f"joints {list(message.joint_names)}")
        order = [list(message.joint_names).index(name) for name in self.joints]
        times, places, speeds = [], [], []
        for point in message.points:
            if len(point.positions) != len(self.joints):
                raise ValueError("positions are missing")
            times.append(point.time_from_start.sec + point.time_from_start.nanosec * 1e-9)
            places.append(np.array(point.positions)[order])
            given = point.velocities if len(point.velocities) else [np.nan] * len(order)
            speeds.append(np.array(given)[order])
        if not times or np.any(np.diff(times) <= 0):
            raise ValueError("times do not increase")
        moves = (np.abs(speeds[-1]) > STANDSTILL).any()
        if moves and not self.fault("allow_nonzero_velocity_at_trajectory_end"):
            raise ValueError("velocity of the last point is not zero")
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        now = self.get_clock().now().nanoseconds * 1e-9
        late = now - stamp if stamp else 0.0
        if late > times[-1]:
            raise ValueError(f"it ended {late - times[-1]:.3f} s ago")
        return Path(time.monotonic() - late + np.array(times), np.array(places), np.array(speeds))

    def follow(self, path):
        now = time.monotonic()
        place, speed = self.wanted, np.zeros_like(self.wanted)
        if self.path is not None:
            # Where the motion is now, and not where the last cycle left it.
            place = self.path.at(now)
            speed = (place - self.path.at(now - 0.002)) / 0.002
        if not self.fault("interpolate_from_desired_state"):
            place, speed = self.measured_at(now, place), self.speed
        self.path = path.begun_at(now, place, speed)

    def hold(self):
        """As the real one after an abort: what is measured is commanded from now on."""
        self.path, self.wanted = None, self.measured.copy()

    def measured_at(self, now, wanted):
        """Where the arm is, having gone towards `wanted` since the last cycle."""
        if self.fault("stuck"):
            return self.measured
        lag = self.fault("lag")
        share = 1.0 - math.exp(-(now - self.stepped_at) / lag) if lag else 1.0
        return self.measured + share * (wanted - self.measured)

    def on_topic(self, message):
        try:
            path = self.read(message)
        except ValueError as error:
            self.get_logger().error(f"refused a trajectory: {error}")
            return
        self.preempt()
        self.follow(path)

    def on_goal(self, request):
        if self.fault("refuse"):
            return GoalResponse.REJECT
        try:
            self.read(request.trajectory)
        except ValueError as error:
            self.get_logger().error(f"rejected a goal: {error}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    async def execute(self, goal):
        path = self.read(goal.request.trajectory)
        self.preempt()
        self.goal = goal, path, Future(executor=self.executor)
        self.follow(path)
        return await self.goal[2]

    def preempt(self):
        if self.goal is not None:
            self.end(self.goal[0].abort, Result.INVALID_GOAL, "preempted")

    def end(self, finish, code=Result.SUCCESSFUL, text=""):
        (_, _, future), self.goal = self.goal, None
        finish()
        future.set_result(Result(error_code=code, error_string=text))

    def look_at_goal(self, now):
        """Ends the goal in execution when it is time."""
        goal, path, _ = self.goal
        failure = self.tolerance_violation(path, now)
        if goal.is_cancel_requested:
            self.end(goal.canceled)
            self.hold()
        elif failure is not None:
            self.end(goal.abort, failure, "outside of its tolerance")
            self.hold()
        elif now >= path.times[-1] and self.is_inside("goal_tolerance", path.places[-1]):
            self.end(goal.succeed)

    def tolerance_violation(self, path, now):
        """The error code of a goal that has to end; None while all is well."""
        if now < path.times[-1]:
            inside = self.is_inside("path_tolerance", self.wanted) and not self.fault("abort")
            return None if inside else Result.PATH_TOLERANCE_VIOLATED
        goal_time = self.fault("goal_time")
        late = goal_time and now > path.times[-1] + goal_time
        if late and not self.is_inside("goal_tolerance", path.places[-1]):
            return Result.GOAL_TOLERANCE_VIOLATED
        return None

    def is_inside(self, tolerance, place):
        most = self.fault(tolerance)
        return not most or np.abs(place - self.measured).max() <= most

    def step(self):
        now = time.monotonic()
        if self.path is not None:
            self.wanted = self.path.at(now)
        before, self.measured = self.measured, self.measured_at(now, self.wanted)
        self.speed = (self.measured - before) * self.fault("rate")
        self.stepped_at = now
        if self.goal is not None:
            self.look_at_goal(now)
        # Of the very moment that the positions are of, however long this thread had to wait.
        stamp = Time(nanoseconds=int((now + self.offset) * 1e9)).to_msg()
        if self.reports.get_subscription_count():
            self.report(stamp)
        if self.fault("silent"):
            return
        message = JointState(name=self.joints, position=self.measured.tolist())
        message.velocity = self.speed.tolist()
        message.header.stamp = stamp
        self.states.publish(message)

    def report(self, stamp):
        message = JointTrajectoryControllerState(joint_names=self.joints, speed_scaling_factor=1.0)
        message.header.stamp = stamp
        wanted, measured = self.wanted, self.measured
        message.reference = JointTrajectoryPoint(positions=wanted.tolist())
        message.feedback = JointTrajectoryPoint(positions=measured.tolist())
        message.error = JointTrajectoryPoint(positions=(wanted - measured).tolist())
        message.output = message.reference
        self.reports.publish(message)


if __name__ == "__main__":
    run(Controller)
