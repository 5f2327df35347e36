"""Plays a Franka's state broadcaster and its error recovery.

Parameters: mode (FrankaRobotState.robot_mode), rate, silent, recovery_fails.
"""

from __future__ import annotations

import time

from franka_msgs.action import ErrorRecovery
from franka_msgs.msg import FrankaRobotState
from plain_node import PlayedNode, run
from rclpy.action import ActionServer
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.parameter import Parameter


class FrankaRobot(PlayedNode):
    def __init__(self):
        super().__init__("franka_robot", mode=2, rate=200.0, silent=False, recovery_fails=False)
        self.message = FrankaRobotState()
        self.states = self.create_publisher(
            FrankaRobotState, "franka_robot_state_broadcaster/robot_state", 10
        )
        group = ReentrantCallbackGroup()
        ActionServer(
            self,
            ErrorRecovery,
            "action_server/error_recovery",
            self.recover,
            callback_group=group,
        )
        self.create_timer(1.0 / self.fault("rate"), self.publish, callback_group=group)

    def publish(self):
        if not self.fault("silent"):
            self.message.robot_mode = self.fault("mode")
            self.message.header.stamp = self.get_clock().now().to_msg()
            self.states.publish(self.message)

    def recover(self, goal):
        self.set_parameters([Parameter("mode", value=6)])
        time.sleep(0.1)
        if self.fault("recovery_fails"):
            self.set_parameters([Parameter("mode", value=4)])
            goal.abort()
        else:
            self.set_parameters([Parameter("mode", value=2)])
            goal.succeed()
        return ErrorRecovery.Result()


if __name__ == "__main__":
    run(FrankaRobot, threads=6)
