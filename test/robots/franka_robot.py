"""A fake of a Franka's state broadcaster and of its error recovery.

Parameters, settable at any time: mode (FrankaRobotState.robot_mode), errors (names of the flags
set in current_errors and last_motion_errors), silent, frozen (the same state again and again),
recovery_refuses, recovery_fails, recovery_hangs. At start: rate [Hz], best_effort.
"""

from __future__ import annotations

import struct
import time

from franka_msgs.action import ErrorRecovery
from franka_msgs.msg import FrankaRobotState
from plain_node import FakeNode, run
from rclpy.action import ActionServer, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message

REFLEX, MOVE, RECOVERY = 4, 2, 6
JOINTS = [f"fr3_joint{number}" for number in range(1, 8)]
# Where a serialized message, after its four bytes of encoding, has the header's stamp.
STAMP = struct.Struct("<iI")


class FrankaRobot(FakeNode):
    def __init__(self):
        super().__init__(
            "franka_robot",
            mode=MOVE,
            errors=[""],
            rate=200.0,
            silent=False,
            frozen=False,
            best_effort=False,
            recovery_refuses=False,
            recovery_fails=False,
            recovery_hangs=False,
        )
        kind = ReliabilityPolicy.BEST_EFFORT if self.fault("best_effort") else None
        self.states = self.create_publisher(
            FrankaRobotState,
            "franka_robot_state_broadcaster/robot_state",
            QoSProfile(depth=1, reliability=kind or ReliabilityPolicy.RELIABLE),
        )
        group = ReentrantCallbackGroup()
        ActionServer(
            self,
            ErrorRecovery,
            "action_server/error_recovery",
            self.recover,
            callback_group=group,
            goal_callback=lambda goal: (
                GoalResponse.REJECT if self.fault("recovery_refuses") else GoalResponse.ACCEPT
            ),
        )
        self.packed = b""
        self.pack()
        self.add_post_set_parameters_callback(lambda parameters: self.pack())
        self.create_timer(1.0 / self.fault("rate"), self.publish, callback_group=group)

    def pack(self):
        """Packs the state once for many messages, for packing it costs more than sending it."""
        message = FrankaRobotState(robot_mode=self.fault("mode"))
        message.header.frame_id = "fr3_link0"
        for state in (message.measured_joint_state, message.desired_joint_state):
            state.name, state.position = JOINTS, [0.0] * 7
            state.velocity, state.effort = [0.0] * 7, [0.0] * 7
        for name in filter(None, self.fault("errors")):
            setattr(message.current_errors, name, True)
            setattr(message.last_motion_errors, name, True)
        self.silent, self.frozen = self.fault("silent"), self.fault("frozen")
        packed = bytearray(serialize_message(message))
        if self.packed:
            packed[4 : 4 + STAMP.size] = self.packed[4 : 4 + STAMP.size]
        self.packed = packed

    def publish(self):
        if self.silent:
            return
        if not self.frozen:
            seconds, nanoseconds = divmod(self.get_clock().now().nanoseconds, 10**9)
            STAMP.pack_into(self.packed, 4, seconds, nanoseconds)
        self.states.publish(bytes(self.packed))

    def recover(self, goal):
        self.set_parameters([Parameter("mode", value=RECOVERY)])
        time.sleep(0.1)
        while self.fault("recovery_hangs"):
            time.sleep(0.05)
        failed = self.fault("recovery_fails")
        # Unless the test that began this is over, and the mode another's.
        if self.fault("mode") == RECOVERY:
            after = [Parameter("mode", value=REFLEX if failed else MOVE)]
            if not failed:
                after.append(Parameter("errors", value=[""]))
            self.set_parameters(after)
        if failed:
            goal.abort()
        else:
            goal.succeed()
        return ErrorRecovery.Result()


if __name__ == "__main__":
    run(FrankaRobot, threads=6)
