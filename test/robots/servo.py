"""A fake MoveIt Servo 2.12, with a Panda behind it: types, staleness, pausing, status and halts.

As in the real one, the status is that of the last command: it is found anew only when a command is
carried out, so a halt is repeated for as long as nothing comes after it. A paused Servo gives no
status. In contact with a wall nothing moves, whichever way it leads. Above `singular_z`, code 2,
only ways down are open. INVALID ends with the next command.

Commands are for the tip of its planning group, which is `tip` (position and quaternion) in the
tool's frame; joint states, end_effector_pose and walls are the tool's.

Parameters: units ("speed_units" or "unitless"), slow_x: half the speed beyond, code 4; halt_x: a
wall there, code 5; singular_z; bound_x: a joint's bound there, code 6. `type` and `paused`
(std_msgs/Int8, Bool, latched) tell what was switched. Faults: refuse_switch, silent (no status),
start_paused.
"""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped
from moveit_msgs.msg import ServoStatus
from moveit_msgs.srv import ServoCommandType
from plain_node import FakeNode, run
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Int8
from std_srvs.srv import SetBool

from vla.control.kinematics import DifferentialIK
from vla.control.robots import panda
from vla.core.rotations import difference, from_rotation_vector, multiply, quaternion_to_matrix

PERIOD = 0.01
TIMEOUT = 0.1
SCALE = np.array([0.4] * 3 + [0.8] * 3)
FRAMES = ("panda_link0", "world")
WORDS = {
    -1: "Invalid",
    0: "No warnings",
    1: "Moving closer to a singularity, decelerating",
    2: "Very close to a singularity, emergency stop",
    3: "Moving away from a singularity, decelerating",
    4: "Close to a collision, decelerating",
    5: "Collision detected, emergency stop",
    6: "Close to a joint bound (position or velocity), halting",
}
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Servo(FakeNode):
    def __init__(self):
        super().__init__(
            "servo_node",
            units="speed_units",
            tip=[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            slow_x=10.0,
            halt_x=10.0,
            bound_x=10.0,
            singular_z=10.0,
            refuse_switch=False,
            silent=False,
            start_paused=False,
        )
        self.arm = DifferentialIK(
            panda.arm_model_xml(), panda.TOOL_SITE, panda.JOINT_MAX_VELOCITY, panda.HOME
        )
        self.joints = panda.HOME.copy()
        self.pose = self.arm.tool_pose(self.joints)
        self.type, self.command, self.code = None, None, ServoStatus.NO_WARNING
        self.paused = self.fault("start_paused")
        self.types = self.create_publisher(Int8, "~/type", LATCHED)
        self.pauses = self.create_publisher(Bool, "~/paused", LATCHED)
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
        known = 0 <= request.command_type <= 2
        if known and not self.fault("refuse_switch"):
            self.type, self.command = request.command_type, None
            self.types.publish(Int8(data=self.type))
        response.success = self.type == request.command_type
        return response

    def on_pause(self, request, response):
        self.paused, response.success = request.data, True
        self.pauses.publish(Bool(data=self.paused))
        return response

    def on_twist(self, message):
        if self.type == ServoCommandType.Request.TWIST:
            self.command = message

    def on_pose(self, message):
        if self.type == ServoCommandType.Request.POSE:
            self.command = message

    def fresh(self):
        """A command counts by its stamp, so one with a zero stamp never does."""
        stamp = self.command.header.stamp
        now = self.get_clock().now().nanoseconds * 1e-9
        return now - (stamp.sec + stamp.nanosec * 1e-9) < TIMEOUT

    def tip(self):
        numbers = np.array(self.fault("tip"))
        return numbers[:3], numbers[3:]

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
        here = compose(self.pose, self.tip())
        offset = np.array([place.x, place.y, place.z]) - here[0]
        turned = difference(np.array([turn.x, turn.y, turn.z, turn.w]), here[1])
        twist = np.concatenate([offset, turned]) * 20.0
        return np.clip(twist, -SCALE, SCALE)

    def step(self):
        if self.command is not None and not self.paused and self.fresh():
            self.code = self.carry_out()
            if self.code == ServoStatus.INVALID:
                self.command = None
        self.publish()

    def carry_out(self):
        """Moves by one cycle of the command; the status that comes of it."""
        if self.command.header.frame_id not in FRAMES:
            return ServoStatus.INVALID
        x, _, z = self.pose[0]
        twist, code = self.twist(), ServoStatus.NO_WARNING
        if x > self.fault("halt_x"):
            return ServoStatus.HALT_FOR_COLLISION
        if not twist.any():
            return code
        if z > self.fault("singular_z"):
            if twist[2] > -1e-4:
                return ServoStatus.HALT_FOR_SINGULARITY
            code = ServoStatus.DECELERATE_FOR_LEAVING_SINGULARITY
        if x > self.fault("slow_x"):
            twist, code = 0.5 * twist, ServoStatus.DECELERATE_FOR_COLLISION
        if x > self.fault("bound_x") and twist[0] > 0.0:
            return ServoStatus.JOINT_BOUND
        tip = self.tip()
        here = compose(self.pose, tip)
        turn = multiply(from_rotation_vector(twist[3:] * PERIOD), here[1])
        place, turn = compose((here[0] + twist[:3] * PERIOD, turn), inverse(tip))
        self.joints = self.arm.step(self.joints, place, turn, PERIOD)
        self.pose = self.arm.tool_pose(self.joints)
        return code

    def publish(self):
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
        if not self.fault("silent") and not self.paused:
            self.status.publish(ServoStatus(code=self.code, message=WORDS[self.code]))


def compose(pose, within):
    """The pose in the base frame of one that is given within another."""
    return pose[0] + quaternion_to_matrix(pose[1]) @ within[0], multiply(pose[1], within[1])


def inverse(pose):
    turn = pose[1] * np.array([-1.0, -1.0, -1.0, 1.0])
    return -quaternion_to_matrix(turn) @ pose[0], turn


if __name__ == "__main__":
    run(Servo)
