"""What a running controller commands, and where the arm is, with the times at which it came."""

import time

import numpy as np
from fake_robot import CONTRACT
from fault_report import Motion
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from vla.control.robot_model import arm_limits, panda_model
from vla_nodes.core import qos
from vla_nodes.core.conversions import stamp_to_seconds

# Of the controllers that are watched [s].
PERIOD = 0.01
JOINTS = arm_limits(CONTRACT, panda_model())


class Watch:
    """Commands and measured joints with the times at which they came."""

    def __init__(self, graph):
        self.commands, self.states, self.stamps = [], [], []
        node = graph.node
        node.create_subscription(
            JointTrajectory,
            "joint_trajectory_controller/joint_trajectory",
            self.on_command,
            100,
        )
        node.create_subscription(JointState, "joint_states", self.on_state, qos.RESAMPLED)

    def on_command(self, message, info):
        number = info["publication_sequence_number"]
        self.commands.append((time.monotonic(), message.points[0], number))

    def on_state(self, message):
        whole = len(message.name) == len(message.position)
        if whole and set(CONTRACT.joint_names) <= set(message.name):
            by_name = dict(zip(message.name, message.position, strict=True))
            place = [by_name[name] for name in CONTRACT.joint_names]
            self.states.append((time.monotonic(), np.array(place)))
            self.stamps.append(stamp_to_seconds(message.header.stamp))

    def motion(self):
        times, points, numbers = zip(*self.commands, strict=True)
        return Motion(
            np.array(times),
            np.array([point.positions for point in points]),
            np.array([point.velocities for point in points]),
            PERIOD,
            np.array(numbers),
        )

    def measured_hold(self, since):
        """Until the measured joints stand still [s]."""
        times = np.array([at for at, _ in self.states])
        places = np.array([place for _, place in self.states])
        way = np.abs(np.diff(places, axis=0)).max(axis=1)
        last = np.flatnonzero((way > 2e-5) & (times[1:] > since))
        return float(times[last[-1] + 1] - since) if len(last) else 0.0
