"""Plays MoveIt Servo 2.12 in front of a Panda: types, staleness, pausing, status and halts.

Parameters: units ("speed_units" or "unitless"), halt_x: the tool halts before a wall there, code 5;
singular_z: it halts above, code 2. Faults: refuse_switch, silent (no status).
"""

from __future__ import annotations

import time

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped
from moveit_msgs.msg import ServoStatus
from moveit_msgs.srv import ServoCommandType
from plain_node import PlayedNode, run
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool

from vla.control.kinematics import DifferentialIK
from vla.rotations import difference, from_rotation_vector, multiply
from vla.sim import panda

PERIOD = 0.01
TIMEOUT = 0.1
SCALE = np.array([0.4] * 3 + [0.8] * 3)


class Servo(PlayedNode):
    def __init__(self):
        super().__init__(
            "servo_node",
            units="speed_units",
            halt_x=10.0,
            singular_z=10.0,
            refuse_switch=False,
            silent=False,
        )
        self.arm = DifferentialIK(
            panda.arm_model_xml(), panda.TOOL_SITE, panda.JOINT_MAX_VELOCITY, panda.HOME
        )
        self.joints = panda.HOME.copy()
        self.pose = self.arm.tool_pose(self.joints)
        self.type, self.paused, self.command = None, False, None
        self.create_subscription(TwistStamped, "~/delta_twist_cmds", self.on_twist, 1)
        self.create_subscription(PoseStamped, "~/pose_target_cmds", self.on_pose, 1)
        self.create_service(ServoCommandType, "~/switch_command_type", self.on_switch)
        self.create_service(SetBool, "~/pause_servo", self.on_pause)
        self.status = self.create_publisher(ServoStatus, "~/status", 10)
        self.states = self.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
        self.poses = self.create_publisher(
            PoseStamped, "end_effector_pose", qos_profile_sensor_data
        )
        self.create_timer(PERIOD, self.step)

    def on_switch(self, request, response):
        response.success = not self.fault("refuse_switch")
        if response.success:
            self.type, self.command = request.command_type, None
        return response

    def on_pause(self, request, response):
        self.paused, response.success = request.data, True
        return response

    def on_twist(self, message):
        if self.type == ServoCommandType.Request.TWIST:
            self.command = message

    def on_pose(self, message):
        if self.type == ServoCommandType.Request.POSE:
            self.command = message

    def fresh(self):
        """A command counts by its stamp; a zero stamp and an empty frame never do."""
        header = self.command.header
        stamp = header.stamp.sec + header.stamp.nanosec * 1e-9
        now = self.get_clock().now().nanoseconds * 1e-9
        return bool(header.frame_id) and stamp > 0 and now - stamp < TIMEOUT

    def twist(self):
        """Wanted tool velocity [6]."""
        message = self.command
        if isinstance(message, TwistStamped):
            linear, angular = message.twist.linear, message.twist.angular
            twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
            if self.fault("units") == "unitless":
                twist = np.clip(twist, -1.0, 1.0) * SCALE
            return twist
        place, turn = message.pose.position, message.pose.orientation
        offset = np.array([place.x, place.y, place.z]) - self.pose[0]
        turned = difference(np.array([turn.x, turn.y, turn.z, turn.w]), self.pose[1])
        twist = np.concatenate([offset, turned]) * 20.0
        return np.clip(twist, -SCALE, SCALE)

    def step(self):
        code = ServoStatus.NO_WARNING
        if self.command is not None and not self.paused and self.fresh():
            twist = self.twist()
            place = self.pose[0] + twist[:3] * PERIOD
            if place[0] > self.fault("halt_x") and twist[0] > -1e-4:
                code = ServoStatus.HALT_FOR_COLLISION
            elif place[2] > self.fault("singular_z") and twist[2] > -1e-4:
                code = ServoStatus.HALT_FOR_SINGULARITY
            else:
                turn = multiply(from_rotation_vector(twist[3:] * PERIOD), self.pose[1])
                self.joints = self.arm.step(self.joints, place, turn, PERIOD)
                self.pose = self.arm.tool_pose(self.joints)
        self.publish(code)

    def publish(self, code):
        stamp = self.get_clock().now().to_msg()
        message = JointState(name=list(panda.ARM_JOINTS), position=self.joints.tolist())
        message.header.stamp = stamp
        self.states.publish(message)
        pose = PoseStamped()
        pose.header.stamp, pose.header.frame_id = stamp, "panda_link0"
        place, turn = self.pose
        pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = place.tolist()
        orientation = pose.pose.orientation
        orientation.x, orientation.y, orientation.z, orientation.w = turn.tolist()
        self.poses.publish(pose)
        if not self.fault("silent"):
            self.status.publish(ServoStatus(code=code, message=f"at {time.monotonic():.0f}"))


if __name__ == "__main__":
    run(Servo)
