"""Fake robots, each in a namespace, sound but for what a JSON file says is wrong with it.

The last argument is that file: faults by namespace, a mapping for each. wrist: topic of that
camera. compressed: the front camera sends compressed images only. publishers: how many send the
joint states. button: a stop button that is best effort. inactive: the arm's controller does not
tell its state. commander: somebody else commands. reader: that controller wants transient local
commands. size: of the images [px]. frozen: one image again and again. without: a joint that is
missing. late: age of the joint states' stamps [s]. away: how far the pose is from the joints' [m].
frame: of the pose.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla.control.kinematics import DifferentialIK
from vla.control.robot_model import panda_model
from vla.control.robots import panda
from vla_nodes.core import qos
from vla_nodes.core.conversions import array_to_image, arrays_to_pose, nanoseconds_to_stamp

JOINTS = dict(zip(panda.ARM_JOINTS, panda.HOME.tolist(), strict=True))
JOINTS |= dict.fromkeys(panda.FINGER_JOINTS, 0.04)
COMMANDS = "joint_trajectory_controller/joint_trajectory"
LATCHED_READER = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Robot:
    """A fake robot in a namespace, sound but for the faults that are named."""

    def __init__(self, node, namespace, home, faults):
        self.node, self.home, self.faults = node, home, faults
        self.noise = np.random.default_rng(0)
        self.ticks = 0

        def publisher(kind, topic, profile=qos.SENSOR):
            return self.node.create_publisher(kind, f"/{namespace}/{topic}", profile)

        self.cameras = [
            publisher(Image, "camera/front/image_raw"),
            publisher(Image, faults.get("wrist", "camera/wrist/image_raw")),
        ]
        if "compressed" in faults:
            self.node.destroy_publisher(self.cameras.pop(0))
            publisher(CompressedImage, "camera/front/image_raw/compressed")
        self.states = [
            publisher(JointState, "joint_states") for _ in range(faults.get("publishers", 1))
        ]
        self.poses = publisher(PoseStamped, "end_effector_pose")
        if "button" in faults:
            publisher(Bool, "vla/emergency_stop_button", qos.SENSOR)
        if "inactive" in faults:
            publisher(Bool, "joint_trajectory_controller/controller_state")
        if "commander" in faults:
            publisher(JointTrajectory, COMMANDS, qos.COMMAND)
        for kind, topic, profile in (
            (JointTrajectory, COMMANDS, LATCHED_READER if "reader" in faults else qos.COMMAND),
            (Float64MultiArray, "gripper_position_controller/commands", qos.COMMAND),
        ):
            self.node.create_subscription(
                kind, f"/{namespace}/{topic}", lambda message: None, profile
            )
        self.same = self.pixels()

    def pixels(self):
        size = self.faults.get("size", 96)
        return self.noise.integers(0, 256, (size, size, 3), np.uint8)

    def publish(self):
        now = self.node.get_clock().now().nanoseconds
        stamp = nanoseconds_to_stamp(now)
        self.ticks += 1
        for camera in self.cameras if self.ticks % 2 else ():
            pixels = self.same if "frozen" in self.faults else self.pixels()
            camera.publish(array_to_image(pixels, stamp, "camera"))
        joints = {k: v for k, v in JOINTS.items() if k != self.faults.get("without")}
        message = JointState(name=list(joints), position=list(joints.values()))
        late = int(self.faults.get("late", 0.0) * 1e9)
        for index, states in enumerate(self.states):
            message.header.stamp = nanoseconds_to_stamp(now - late - index * 1_000_000)
            states.publish(message)
        place = self.home[0] + self.faults.get("away", 0.0) * np.array([0.0, 0.0, 1.0])
        pose = PoseStamped(pose=arrays_to_pose(place, self.home[1]))
        pose.header.stamp = stamp
        pose.header.frame_id = self.faults.get("frame", "panda_link0")
        self.poses.publish(pose)


def main():
    faults = json.loads(Path(sys.argv[-1]).read_text())
    model = panda_model()
    solver = DifferentialIK(model.model_xml, model.tool_site, model.limits.velocity, model.posture)
    home = solver.tool_pose(np.array(panda.HOME))
    rclpy.init()
    node = rclpy.create_node("robots")
    robots = [Robot(node, name, home, wrong) for name, wrong in faults.items()]
    node.create_timer(0.03, lambda: [robot.publish() for robot in robots])
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    main()
