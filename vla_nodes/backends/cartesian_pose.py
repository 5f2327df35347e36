"""A stream of tool poses for Cartesian impedance controllers, such as those of crisp_controllers.

Such a controller goes to the newest pose regardless of its age and holds it for ever; it gives no
answer and has no time-out. If our controller dies in motion, the target it leaves is at most one
cycle ahead of the arm, which the impedance turns into a soft stop. As with every backend, joint
states are watched, and the command backs off where the arm does not follow.

The tool pose of the robot's controller can be watched, too. That controller ignores the frame of a
target, so a wrong base or tool frame would show only in where the arm goes: with the pose known, a
first target that is elsewhere is not sent.
"""

from __future__ import annotations

import time

import numpy as np
from geometry_msgs.msg import PoseStamped

from vla.control.command import ArmCommand
from vla.core.rotations import difference
from vla.observations.messages import raw_pose
from vla_nodes.backends.base import Backend, BackendContext, Problem
from vla_nodes.core import qos
from vla_nodes.core.conversions import arrays_to_pose
from vla_nodes.core.liveliness import lease_of, with_liveliness
from vla_nodes.core.settings import Setting
from vla_nodes.core.sources import other_publishers

SETTINGS = (
    Setting(
        "cartesian_pose.topic",
        "target_pose",
        "Topic of the tool's target pose, geometry_msgs/PoseStamped.",
    ),
    Setting(
        "cartesian_pose.frame",
        "",
        "Frame that the targets name, empty for the contract's base frame; many controllers ignore "
        "it, and take targets in the root frame of their URDF.",
    ),
    Setting(
        "cartesian_pose.current_pose_topic",
        "",
        "Topic of the tool's pose as the robot's controller knows it, geometry_msgs/PoseStamped, "
        "such as current_pose; empty not to watch it.",
    ),
    Setting(
        "cartesian_pose.max_error",
        0.05,
        "Largest distance of that pose from the target before the arm holds [m].",
        bounds=(0.001, 1.0),
    ),
    Setting(
        "cartesian_pose.max_angle_error",
        0.3,
        "Largest angle between that pose and the target before the arm holds [rad].",
        bounds=(0.01, 3.2),
    ),
)

# Periods of checking the graph, and the watched pose [s].
LOOK_PERIOD = 0.1
COMPARE_PERIOD = 0.02
# The watched pose is missing after this [s].
POSE_TIMEOUT = 0.3
# An error below this share of its limit ends the hold that it led to.
FOLLOWS_AGAIN = 0.5
# A first target that was not sent is retried after this [s].
TRY_AGAIN = 1.0


class CartesianPoseBackend(Backend):
    """Publishes target poses, and compares them with the controller's own pose if it is watched."""

    def __init__(self, context: BackendContext):
        node, settings = context.node, context.settings
        self._node = node
        self._frame = settings["cartesian_pose.frame"] or context.contract.base_frame
        self._output = node.create_publisher(
            PoseStamped,
            settings["cartesian_pose.topic"],
            with_liveliness(qos.COMMAND, lease_of(node)),
        )
        self._topic = self._output.topic_name
        self._pose_topic = settings["cartesian_pose.current_pose_topic"]
        self._limits = np.array(
            [settings["cartesian_pose.max_error"], settings["cartesian_pose.max_angle_error"]]
        )
        if self._pose_topic:
            node.create_subscription(
                PoseStamped, self._pose_topic, self._on_pose, qos.NEWEST_SENSOR
            )
        self._looked_at = -np.inf
        self._seen: Problem | None = None
        self._pose: PoseStamped | None = None
        self._heard_at = -np.inf
        self._target: tuple[np.ndarray, np.ndarray] | None = None
        self._away: Problem | None = None
        self._compared_at = -np.inf
        self._refused: tuple[Problem, float] | None = None

    def problem(self) -> Problem | None:
        """Whether a controller listens, to us alone, and the tool is where we sent it."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_PERIOD:
            self._looked_at = now
            self._seen = self._look()
        return self._seen or (self._compare(now) if self._pose_topic else None)

    def _look(self) -> Problem | None:
        if self._output.get_subscription_count() == 0:
            return Problem(
                f"nobody takes target poses from {self._topic}: is the Cartesian controller active "
                "('ros2 control list_controllers')?"
            )
        if others := other_publishers(self._node, self._topic):
            return Problem(
                f"another program publishes on {self._topic}, too ({', '.join(others)}), and "
                "controllers such as crisp's then listen to neither: stop the other"
            )
        return None

    def _compare(self, now: float) -> Problem | None:
        """Whether the controller's pose is missing or far from the target."""
        if self._pose is None or now - self._heard_at > POSE_TIMEOUT:
            return Problem(
                f"no pose on {self._pose_topic} for {POSE_TIMEOUT:g} s: is the controller's pose "
                "broadcaster active?"
            )
        if self._target is not None:
            if now - self._compared_at > COMPARE_PERIOD:
                self._compared_at = now
                self._away = self._away_from(self._target, self._pose)
            return self._away
        if self._refused is not None and now - self._refused[1] < TRY_AGAIN:
            return self._refused[0]
        return None

    def _away_from(
        self, target: tuple[np.ndarray, np.ndarray], pose: PoseStamped
    ) -> Problem | None:
        """A problem while the controller's pose is not where it was sent."""
        position, quaternion = raw_pose(pose.pose)
        offset, angle = target[0] - position, difference(target[1], quaternion)
        error = np.sqrt([offset @ offset, angle @ angle])
        self._node.diagnostics.values["tool_error_mm"] = f"{1e3 * error[0]:.1f}"
        if (error / self._limits).max() <= (FOLLOWS_AGAIN if self._away else 1.0):
            return None
        return Problem(
            f"the tool on {self._pose_topic} is {1e3 * error[0]:.0f} mm, {error[1]:.2f} rad from "
            "the target: is the controller active, is the arm free, and are its root and tool "
            "frames the contract's?"
        )

    def _on_pose(self, message: PoseStamped) -> None:
        self._pose, self._heard_at = message, time.monotonic()

    def send(self, command: ArmCommand) -> None:
        """Sends one cycle's pose, but no first one that is away from the tool."""
        target = command.tool_position, command.tool_quaternion
        if self._target is None and self._pose is not None:
            self._away = None
            if problem := self._away_from(target, self._pose):
                self._refused = problem, time.monotonic()
                return
        self._refused, self._target = None, target
        message = PoseStamped(pose=arrays_to_pose(*target))
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.header.frame_id = self._frame
        self._output.publish(message)

    def release(self) -> None:
        """Nothing more is sent: the controller holds the last pose."""
        self._target = None


BACKEND = CartesianPoseBackend
