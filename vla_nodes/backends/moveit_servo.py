"""MoveIt Servo: tool poses or tool velocities in, collision checking and joint motion its own.

Servo takes commands of one type at a time and starts with none, so the type is set through its
service before the first command, and again whenever Servo comes back. A command is stale after
0.1 s by its stamp, which makes every command carry the present time; Servo then stops by itself
when the controller dies.
"""

from __future__ import annotations

import time

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped
from std_srvs.srv import SetBool

from vla.control.command import ArmCommand
from vla.rotations import difference
from vla_nodes import qos
from vla_nodes.backends.base import Backend, BackendContext, Problem, import_interfaces
from vla_nodes.conversions import arrays_to_pose
from vla_nodes.settings import Setting

SETTINGS = (
    Setting("moveit_servo.node", "servo_node", "Name of the MoveIt Servo node."),
    Setting(
        "moveit_servo.command",
        "pose",
        "What Servo gets: 'pose' for target poses, 'twist' for velocities of the tool.",
        choices=("pose", "twist"),
    ),
    Setting(
        "moveit_servo.pose_gain",
        2.0,
        "How strongly a twist draws the tool back to its path [1/s]; 0 lets it drift.",
        minimum=0.0,
        maximum=20.0,
    ),
    Setting(
        "moveit_servo.linear_scale",
        1.0,
        "Tool speed that a twist of 1 stands for [m/s]: Servo's scale.linear where its "
        "command_in_type is 'unitless', else 1.",
        minimum=0.001,
        maximum=10.0,
    ),
    Setting(
        "moveit_servo.angular_scale",
        1.0,
        "Turning speed that a twist of 1 stands for [rad/s]: Servo's scale.rotational where its "
        "command_in_type is 'unitless', else 1.",
        minimum=0.001,
        maximum=10.0,
    ),
)

# Servo publishes its status in every cycle of its own, 100 Hz by default [s].
STATUS_TIMEOUT = 0.3
# A question to Servo that got no answer is asked again after this [s].
ASK_PERIOD = 1.0

# moveit_msgs/ServoStatus: what a status means, and whether a person has to judge it.
STATUSES = {
    -1: ("Servo reports an invalid state: see its log", False),
    2: ("Servo halted near a singularity: move the arm away from it, for example by vla/move_to "
        "'home'", True),
    5: ("Servo halted before a collision: clear the way, or move the arm away from it", True),
}  # fmt: skip
WARNINGS = {
    1: "slowed down near a singularity",
    3: "slowed down while leaving a singularity",
    4: "slowed down near a collision",
    6: "a joint is at its bound",
}


class MoveItServoBackend(Backend):
    """Streams tool poses or twists to MoveIt Servo and follows its status."""

    def __init__(self, context: BackendContext):
        messages, services = import_interfaces(
            "moveit_msgs", ("msg", "srv"), "ros-jazzy-moveit-servo"
        )
        node, settings = context.node, context.settings
        self._node, self._frame = node, context.contract.base_frame
        self._name = settings["moveit_servo.node"]
        self._twist = settings["moveit_servo.command"] == "twist"
        self._gain = settings["moveit_servo.pose_gain"]
        linear, angular = (settings[f"moveit_servo.{kind}_scale"] for kind in ("linear", "angular"))
        self._scale = np.array([linear] * 3 + [angular] * 3)
        self._request = services.ServoCommandType.Request(
            command_type=services.ServoCommandType.Request.TWIST
            if self._twist
            else services.ServoCommandType.Request.POSE
        )
        kind, topic = (
            (TwistStamped, "delta_twist_cmds") if self._twist else (PoseStamped, "pose_target_cmds")
        )
        self._output = node.create_publisher(kind, f"{self._name}/{topic}", qos.COMMAND)
        self._switch = node.create_client(
            services.ServoCommandType, f"{self._name}/switch_command_type"
        )
        self._pause = node.create_client(SetBool, f"{self._name}/pause_servo")
        node.create_subscription(
            messages.ServoStatus, f"{self._name}/status", self._on_status, qos.SENSOR
        )
        node.create_subscription(
            PoseStamped, context.contract.end_effector_pose_topic, self._on_pose, qos.SENSOR
        )
        self._status: tuple[int, str] = (0, "")
        self._heard_at = -np.inf
        self._ready = False
        self._asked_at = -np.inf
        self._refused = ""
        self._measured: tuple[np.ndarray, np.ndarray] | None = None

    def problem(self) -> Problem | None:
        """Whether Servo runs, takes our kind of command, and has not halted."""
        now = time.monotonic()
        if now - self._heard_at > STATUS_TIMEOUT:
            # A Servo that starts again has forgotten the command type.
            self._ready = False
            return Problem(
                f"no status from {self._name} for {STATUS_TIMEOUT:g} s: is MoveIt Servo running?"
            )
        if not self._ready:
            self._ask(now)
            return Problem(
                self._refused or f"waiting for {self._name} to switch to the command type"
            )
        code, text = self._status
        if code in STATUSES:
            words, stops = STATUSES[code]
            return Problem(f"{words} ({text})" if text else words, stops)
        return None

    def _ask(self, now: float) -> None:
        if now - self._asked_at < ASK_PERIOD:
            return
        if not self._switch.service_is_ready():
            self._refused = (
                f"{self._name}/switch_command_type is not there: is it MoveIt Servo 2.8+?"
            )
            return
        self._asked_at, self._refused = now, ""
        self._switch.call_async(self._request).add_done_callback(self._on_switched)
        if self._pause.service_is_ready():
            self._pause.call_async(SetBool.Request(data=False))

    def _on_switched(self, future) -> None:
        answer = future.result()
        self._ready = bool(answer is not None and answer.success)
        if not self._ready:
            self._refused = f"{self._name} refused the command type: see its log"

    def _on_status(self, message) -> None:
        self._heard_at = time.monotonic()
        code = int(message.code)
        self._status = code, message.message
        values = self._node.diagnostics.values if hasattr(self._node, "diagnostics") else {}
        values["servo"] = WARNINGS.get(code, "ok" if code == 0 else f"status {code}")

    def _on_pose(self, message: PoseStamped) -> None:
        place, turn = message.pose.position, message.pose.orientation
        self._measured = (
            np.array([place.x, place.y, place.z]),
            np.array([turn.x, turn.y, turn.z, turn.w]),
        )

    def send(self, command: ArmCommand) -> None:
        """Sends one cycle's pose or twist, stamped now."""
        if self._twist:
            message = TwistStamped()
            twist = self._twist_of(command) / self._scale
            linear, angular = message.twist.linear, message.twist.angular
            linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = twist.tolist()
        else:
            message = PoseStamped(
                pose=arrays_to_pose(command.tool_position, command.tool_quaternion)
            )
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.header.frame_id = self._frame
        self._output.publish(message)

    def _twist_of(self, command: ArmCommand) -> np.ndarray:
        """The tool's velocity [6], and what draws it back to its path while it moves.

        The correction is cut to a tenth of a metre and of a radian of error, and left out at rest:
        an arm that holds must hold still.
        """
        twist = command.tool_velocity.copy()
        if self._measured is None or not twist.any():
            return twist
        error = np.concatenate([
            command.tool_position - self._measured[0],
            difference(command.tool_quaternion, self._measured[1]),
        ])  # fmt: skip
        return twist + self._gain * np.clip(error, -0.1, 0.1)

    def release(self) -> None:
        """Nothing more is sent: Servo comes to rest by itself."""


BACKEND = MoveItServoBackend
