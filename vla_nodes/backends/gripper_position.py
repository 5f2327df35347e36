"""A gripper that takes its opening as a position: ros2_control's forward command controller."""

from __future__ import annotations

import math
import time

from std_msgs.msg import Float64MultiArray

from vla_nodes.backends.base import BackendContext, Gripper, Problem
from vla_nodes.core import qos
from vla_nodes.core.settings import Setting

# Period of repeating an unchanged command, for a gripper that starts late [s].
PERIOD = 0.2

SETTINGS = (
    Setting(
        "gripper_position.topic",
        "gripper_position_controller/commands",
        "Topic of the gripper's opening [m], std_msgs/Float64MultiArray.",
    ),
)


class PositionGripper(Gripper):
    """Publishes the opening between the fingers in metres."""

    def __init__(self, context: BackendContext):
        self._topic = context.settings["gripper_position.topic"]
        self._output = context.node.create_publisher(Float64MultiArray, self._topic, qos.COMMAND)
        self._sent = (math.nan, -math.inf)

    def problem(self) -> Problem | None:
        """Whether a controller listens."""
        if self._output.get_subscription_count() == 0:
            return Problem(
                f"nobody takes gripper commands from {self._topic}: is the gripper's controller "
                "loaded and active?"
            )
        return None

    def send(self, width: float) -> None:
        """Publishes a changed opening at once, and repeats an unchanged one."""
        sent, at = self._sent
        now = time.monotonic()
        if width != sent or now - at > PERIOD:
            self._output.publish(Float64MultiArray(data=[width]))
            self._sent = (width, now)


GRIPPER = PositionGripper
