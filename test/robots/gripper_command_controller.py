"""A fake ros2_control controller of GripperCommand, or ParallelGripperCommand (`parallel`).

A goal ends when the position is reached, or when the fingers have stalled: with allow_stalling it
succeeds then, without, as is the real one's default, it is aborted, with `stalled` set in both. A
goal ends the one before. A cancelled goal leaves the fingers where they are. `goals`
(std_msgs/Float64) tells what came, `running` (std_msgs/Int32) how many goals are under way.

Faults, settable at any time: stuck, object (position at which an object stops the fingers), refuse,
abort, deaf (a cancel is accepted and does nothing), hang (no goal ends).
"""

from __future__ import annotations

import threading
import time

from control_msgs.action import GripperCommand, ParallelGripperCommand
from plain_node import FakeNode, run
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from std_msgs.msg import Float64, Int32

PERIOD, FEEDBACK_EVERY, SPEED, STALL_TIME, TOLERANCE = 0.01, 5, 0.2, 0.3, 1e-4


class Controller(FakeNode):
    def __init__(self):
        super().__init__(
            "gripper_controller",
            parallel=False,
            position=0.08,
            allow_stalling=False,
            stuck=False,
            object=-1.0,
            refuse=False,
            abort=False,
            deaf=False,
            hang=False,
        )
        self.position = self.fault("position")
        self.add_post_set_parameters_callback(self.put)
        self.parallel = self.fault("parallel")
        self.kind = ParallelGripperCommand if self.parallel else GripperCommand
        self.current, self.running, self.lock = None, 0, threading.Lock()
        self.goals = self.create_publisher(Float64, "~/goals", 10)
        self.counts = self.create_publisher(Int32, "~/running", 10)
        ActionServer(
            self,
            self.kind,
            "~/gripper_cmd",
            self.execute,
            callback_group=ReentrantCallbackGroup(),
            goal_callback=self.on_goal,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )

    def put(self, parameters):
        """A new `position` puts the fingers there."""
        for parameter in parameters:
            self.position = parameter.value if parameter.name == "position" else self.position

    def on_goal(self, goal):
        wrong = self.parallel and len(goal.command.position) != 1
        return GoalResponse.REJECT if wrong or self.fault("refuse") else GoalResponse.ACCEPT

    def count(self, change):
        with self.lock:
            self.running += change
            self.counts.publish(Int32(data=self.running))

    def execute(self, goal):
        command = goal.request.command
        wanted = command.position[0] if self.parallel else command.position
        self.current = goal
        self.count(1)
        self.goals.publish(Float64(data=wanted))
        try:
            return self.follow(goal, wanted)
        finally:
            self.count(-1)

    def follow(self, goal, wanted):
        still = 0.0
        for cycle in range(10**9):
            if goal.is_cancel_requested and not self.fault("deaf"):
                goal.canceled()
                return self.message(self.kind.Result)
            if self.current is not goal or self.fault("abort"):
                goal.abort()
                return self.message(self.kind.Result)
            reached = abs(self.position - wanted) <= TOLERANCE
            if (reached or still >= STALL_TIME) and not self.fault("hang"):
                break
            if cycle % FEEDBACK_EVERY == 0:
                goal.publish_feedback(self.message(self.kind.Feedback))
            step = max(-SPEED * PERIOD, min(SPEED * PERIOD, wanted - self.position))
            met = step < 0.0 and self.position + step < self.fault("object")
            blocked = self.fault("stuck") or met
            self.position += 0.0 if blocked else step
            still = still + PERIOD if blocked else 0.0
            time.sleep(PERIOD)
        result = self.message(self.kind.Result)
        result.reached_goal, result.stalled = reached, not reached
        if goal.is_cancel_requested:
            goal.canceled()
        elif reached or self.fault("allow_stalling"):
            goal.succeed()
        else:
            goal.abort()
        return result

    def message(self, kind):
        message = kind()
        if self.parallel:
            message.state.position = [self.position]
        else:
            message.position = self.position
        return message


if __name__ == "__main__":
    run(Controller, threads=6)
