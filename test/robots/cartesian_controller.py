"""Plays crisp_controllers' CartesianController in front of a Panda.

Goes to the newest pose, stamp and frame not looked at, holds it for ever; a topic with more than
one publisher is ignored; a quaternion that is not of unit length is refused; the distance to the
target is clipped, so that the arm comes after.
"""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import PoseStamped
from plain_node import PlayedNode, run
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState

from vla.control.kinematics import DifferentialIK
from vla.sim import panda

PERIOD = 0.01
LARGEST_ERROR = 0.1


class CartesianController(PlayedNode):
    def __init__(self):
        super().__init__("cartesian_controller", stuck=False)
        self.arm = DifferentialIK(
            panda.arm_model_xml(), panda.TOOL_SITE, panda.JOINT_MAX_VELOCITY, panda.HOME
        )
        self.joints = panda.HOME.copy()
        self.target = self.arm.tool_pose(self.joints)
        self.create_subscription(PoseStamped, "target_pose", self.on_pose, 1)
        self.states = self.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
        self.create_timer(PERIOD, self.step)

    def on_pose(self, message):
        if self.count_publishers("target_pose") > 1:
            return
        place, turn = message.pose.position, message.pose.orientation
        quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
        if abs(np.linalg.norm(quaternion) - 1.0) > 1e-3:
            self.get_logger().error("the quaternion is not of unit length")
            return
        self.target = np.array([place.x, place.y, place.z]), quaternion

    def step(self):
        if not self.fault("stuck"):
            here, _ = self.arm.tool_pose(self.joints)
            offset = np.clip(self.target[0] - here, -LARGEST_ERROR, LARGEST_ERROR)
            self.joints = self.arm.step(self.joints, here + offset, self.target[1], PERIOD)
        message = JointState(name=list(panda.ARM_JOINTS), position=self.joints.tolist())
        message.header.stamp = self.get_clock().now().to_msg()
        self.states.publish(message)


if __name__ == "__main__":
    run(CartesianController)
