"""Plays a gripper behind GripperCommand or ParallelGripperCommand (parameter `parallel`).

Faults: stuck, object (position at which an object stops the fingers), refuse.
"""

from __future__ import annotations

import time

from control_msgs.action import GripperCommand, ParallelGripperCommand
from plain_node import PlayedNode, run
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from std_msgs.msg import Float64

PERIOD, SPEED, STALL_TIME = 0.01, 0.2, 0.3


class Controller(PlayedNode):
    def __init__(self):
        super().__init__(
            "gripper_controller",
            parallel=False,
            position=0.08,
            stuck=False,
            object=-1.0,
            refuse=False,
        )
        self.position = self.fault("position")
        self.parallel = self.fault("parallel")
        self.kind = ParallelGripperCommand if self.parallel else GripperCommand
        self.goals = self.create_publisher(Float64, "~/goals", 10)
        ActionServer(
            self,
            self.kind,
            "~/gripper_cmd",
            self.execute,
            callback_group=ReentrantCallbackGroup(),
            goal_callback=lambda goal: (
                GoalResponse.REJECT if self.fault("refuse") else GoalResponse.ACCEPT
            ),
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )

    def execute(self, goal):
        command = goal.request.command
        wanted = command.position[0] if self.parallel else command.position
        self.goals.publish(Float64(data=wanted))
        still = 0.0
        while abs(self.position - wanted) > 1e-4 and still < STALL_TIME:
            if goal.is_cancel_requested:
                goal.canceled()
                return self.result(stalled=False, reached=False)
            step = max(-SPEED * PERIOD, min(SPEED * PERIOD, wanted - self.position))
            blocked = self.fault("stuck") or self.position + step < self.fault("object")
            self.position += 0.0 if blocked else step
            still = still + PERIOD if blocked else 0.0
            time.sleep(PERIOD)
        reached = abs(self.position - wanted) <= 1e-4
        goal.succeed()
        return self.result(stalled=not reached, reached=reached)

    def result(self, stalled, reached):
        result = self.kind.Result(stalled=stalled, reached_goal=reached)
        if self.parallel:
            result.state.position = [self.position]
        else:
            result.position = self.position
        return result


if __name__ == "__main__":
    run(Controller, threads=6)
