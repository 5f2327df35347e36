"""A fake CartesianController and PoseBroadcaster of crisp_controllers, with a Panda behind them.

Goes to the newest pose, stamp and frame not looked at, holds it for ever; a topic with more than
one publisher is ignored; a quaternion that is not of unit length is refused; what is left to the
target is cut for each axis, so that the arm comes after, slower than a position controller.

Parameters: rate [Hz], tool_offset: its tool lies this far along x of the base from the contract's
[m]. Faults: stuck, silent (no current_pose), active (an inactive controller takes no target, and
starts from where the arm is).
"""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import PoseStamped
from plain_node import FakeNode, run
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState

from vla.control.kinematics import DifferentialIK
from vla.control.robots import panda
from vla.core.rotations import difference, from_rotation_vector, multiply

ERROR_CLIP, TURN_CLIP = 0.1, 0.5
# How much of what is left to the target the arm makes up for in a second, as an impedance would.
STIFFNESS = 25.0


class CartesianController(FakeNode):
    def __init__(self):
        super().__init__(
            "cartesian_controller",
            rate=100.0,
            tool_offset=0.0,
            stuck=False,
            silent=False,
            active=True,
        )
        self.arm = DifferentialIK(
            panda.arm_model_xml(), panda.TOOL_SITE, panda.JOINT_MAX_VELOCITY, panda.HOME
        )
        self.period = 1.0 / self.fault("rate")
        self.joints = panda.HOME.copy()
        self.target = self.pose()
        self.create_subscription(PoseStamped, "target_pose", self.on_pose, 1)
        self.states = self.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
        self.poses = self.create_publisher(PoseStamped, "current_pose", 1)
        self.create_timer(self.period, self.step)

    def pose(self):
        place, turn = self.arm.tool_pose(self.joints)
        return place + np.array([self.fault("tool_offset"), 0.0, 0.0]), turn

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
        place, turn = self.pose()
        if not self.fault("active"):
            self.target = place, turn
        if not self.fault("stuck"):
            offset = np.clip(self.target[0] - place, -ERROR_CLIP, ERROR_CLIP)
            turned = np.clip(difference(self.target[1], turn), -TURN_CLIP, TURN_CLIP)
            share = min(STIFFNESS * self.period, 1.0)
            here, _ = self.arm.tool_pose(self.joints)
            self.joints = self.arm.step(
                self.joints,
                here + share * offset,
                multiply(from_rotation_vector(share * turned), turn),
                self.period,
            )
        self.publish()

    def publish(self):
        stamp = self.get_clock().now().to_msg()
        message = JointState(name=list(panda.ARM_JOINTS), position=self.joints.tolist())
        message.header.stamp = stamp
        self.states.publish(message)
        if self.fault("silent"):
            return
        place, turn = self.pose()
        pose = PoseStamped()
        pose.header.stamp, pose.header.frame_id = stamp, "panda_link0"
        pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = place.tolist()
        orientation = pose.pose.orientation
        orientation.x, orientation.y, orientation.z, orientation.w = turn.tolist()
        self.poses.publish(pose)


if __name__ == "__main__":
    run(CartesianController)
