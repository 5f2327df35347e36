"""Commands of an arm controller as the messages that ros2_control's controllers take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla.control.arm import ArmCommand
from vla_nodes import qos

# A gripper command is repeated although nothing changed, for a gripper that was started late [s].
GRIPPER_PERIOD = 0.2


class ArmOutput:
    """Publishes arm and gripper commands. Whoever uses one is to be the only one who commands."""

    def __init__(self, node: Node, joint_names: Sequence[str], control_rate: float):
        """control_rate: commands per second [Hz]; each is to be reached by the next."""
        self._joint_names = list(joint_names)
        self._period = 1.0 / control_rate
        self._gripper_sent = (math.nan, -math.inf)
        self._arm = node.create_publisher(
            JointTrajectory, "joint_trajectory_controller/joint_trajectory", qos.COMMAND
        )
        self._gripper = node.create_publisher(
            Float64MultiArray, "gripper_position_controller/commands", qos.COMMAND
        )

    def send(self, command: ArmCommand) -> None:
        """Sends the joint positions, and the gripper's opening when it changed or it is time."""
        # A zero stamp means "from now on" to a joint trajectory controller.
        point = JointTrajectoryPoint(positions=command.joint_positions.tolist())
        point.time_from_start.nanosec = round(1e9 * self._period)
        self._arm.publish(JointTrajectory(joint_names=self._joint_names, points=[point]))
        width, sent_at = self._gripper_sent
        now = time.monotonic()
        if command.gripper_width != width or now - sent_at > GRIPPER_PERIOD:
            self._gripper.publish(Float64MultiArray(data=[command.gripper_width]))
            self._gripper_sent = (command.gripper_width, now)
