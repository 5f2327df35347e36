"""A stream of tool poses for Cartesian impedance controllers, such as those of crisp_controllers.

Such a controller goes to the newest pose whatever its age and holds it for ever; it gives no answer
and knows no time-out. A controller process that dies in mid-motion therefore leaves a target at
most one cycle ahead of the arm, which the impedance turns into a soft stop. The arm is watched by
its own joint states, as with every backend: where it does not follow, the command gives way.
"""

from __future__ import annotations

import time

import numpy as np
from geometry_msgs.msg import PoseStamped

from vla.control.command import ArmCommand
from vla_nodes import qos
from vla_nodes.backends.base import Backend, BackendContext, Problem
from vla_nodes.conversions import arrays_to_pose
from vla_nodes.settings import Setting

SETTINGS = (
    Setting(
        "cartesian_pose.topic",
        "target_pose",
        "Topic of the tool's target pose, geometry_msgs/PoseStamped, in the contract's base frame.",
    ),
)

LOOK_PERIOD = 0.1


class CartesianPoseBackend(Backend):
    """Publishes target poses."""

    def __init__(self, context: BackendContext):
        self._node, self._frame = context.node, context.contract.base_frame
        self._topic = context.settings["cartesian_pose.topic"]
        self._output = context.node.create_publisher(PoseStamped, self._topic, qos.COMMAND)
        self._looked_at = -np.inf
        self._seen: Problem | None = None

    def problem(self) -> Problem | None:
        """Whether a controller listens, and to us alone."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_PERIOD:
            self._looked_at = now
            self._seen = self._look()
        return self._seen

    def _look(self) -> Problem | None:
        if self._output.get_subscription_count() == 0:
            return Problem(
                f"nobody takes target poses from {self._topic}: is the Cartesian controller active "
                "('ros2 control list_controllers')?"
            )
        if self._node.count_publishers(self._topic) > 1:
            return Problem(
                f"another program publishes on {self._topic}, too, and controllers such as crisp's "
                "then listen to neither: stop the other"
            )
        return None

    def send(self, command: ArmCommand) -> None:
        """Sends one cycle's pose."""
        message = PoseStamped(pose=arrays_to_pose(command.tool_position, command.tool_quaternion))
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.header.frame_id = self._frame
        self._output.publish(message)

    def release(self) -> None:
        """Nothing to do: the controller holds the last pose."""


BACKEND = CartesianPoseBackend
