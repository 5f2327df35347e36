"""MoveIt Servo: takes tool poses or velocities; checks collisions and moves the joints itself.

Servo takes commands of one type at a time and starts with none, so the type is set by its service
before the first command, and again whenever Servo returns. A command is stale after 0.1 s by its
stamp, so every command carries the current time; if our controller dies, Servo stops by itself. It
updates its status with each command and repeats the last one in between, so a halt counts only
while our commands go in: otherwise a policy that was stopped by a halt could never be resumed.
"""

from __future__ import annotations

import time

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped
from std_srvs.srv import SetBool

from vla.control.command import ArmCommand
from vla.core.rotations import difference, multiply, quaternion_to_matrix
from vla.observations.messages import raw_pose
from vla_nodes.backends.base import Backend, BackendContext, Problem, import_interfaces
from vla_nodes.core import qos
from vla_nodes.core.conversions import arrays_to_pose
from vla_nodes.core.diagnostics import WARN
from vla_nodes.core.settings import Setting

SETTINGS = (
    Setting("moveit_servo.node", "servo_node", "Name of the MoveIt Servo node."),
    Setting(
        "moveit_servo.command",
        "pose",
        "What Servo gets: 'pose' for target poses, 'twist' for velocities of the tool.",
        choices=("pose", "twist"),
    ),
    Setting(
        "moveit_servo.frame",
        "",
        "Frame that the commands name, which Servo must know; empty for the contract's base frame.",
    ),
    Setting(
        "moveit_servo.tool_to_tip",
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        "Where the tip of Servo's planning group is, which Servo moves, in the contract's tool "
        "frame: x, y, z [m] and the quaternion x, y, z, w.",
        bounds=(-2.0, 2.0),
    ),
    Setting(
        "moveit_servo.unpause",
        False,
        "Un-pause Servo once, when the controller is configured; a later pause is the operator's.",
    ),
    Setting(
        "moveit_servo.pose_gain",
        2.0,
        "How strongly a twist pulls the tool back to its path [1/s], for at most 0.1 m and 0.1 rad "
        "of distance; 0 lets it drift.",
        bounds=(0.0, 20.0),
    ),
    Setting(
        "moveit_servo.linear_scale",
        1.0,
        "Tool speed of a twist of 1 [m/s]: Servo's scale.linear where its "
        "command_in_type is 'unitless', else 1.",
        bounds=(0.001, 10.0),
    ),
    Setting(
        "moveit_servo.angular_scale",
        1.0,
        "Turning speed of a twist of 1 [rad/s]: Servo's scale.rotational where its "
        "command_in_type is 'unitless', else 1.",
        bounds=(0.001, 10.0),
    ),
)

# Servo publishes its status in every cycle of its own, 100 Hz by default [s].
STATUS_TIMEOUT = 0.3
# A request to Servo without an answer is repeated after this [s].
ASK_PERIOD = 1.0
# Servo's incoming_command_timeout: without a command for this long it repeats an old status [s].
COMMAND_TIMEOUT = 0.1
# A pose older than this draws no twist back: the tool has moved on since [s].
POSE_TIMEOUT = 0.2
# Largest error that a twist draws back from [m] and [rad].
LARGEST_ERROR = 0.1
# A lasting warning is repeated after this [s].
WARNING_PERIOD = 1.0

# moveit_msgs/ServoStatus: what a status means, and whether the operator has to judge it.
STATUSES = {
    -1: ("Servo takes a command for invalid: see its log, and whether it knows the frame "
         "moveit_servo.frame", False),
    2: ("Servo halted near a singularity: move the arm away from it, for example by vla/move_to "
        "'home', then resume", True),
    5: ("Servo halted before a collision: clear the way, or move the arm away from it, then resume",
        True),
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
            "moveit_msgs", ("msg", "srv"), "install ros-jazzy-moveit-servo"
        )
        node, settings = context.node, context.settings
        self._node = node
        self._frame = settings["moveit_servo.frame"] or context.contract.base_frame
        self._name = settings["moveit_servo.node"]
        self._twist = settings["moveit_servo.command"] == "twist"
        self._gain = settings["moveit_servo.pose_gain"]
        linear, angular = (settings[f"moveit_servo.{kind}_scale"] for kind in ("linear", "angular"))
        self._scale = np.array([linear] * 3 + [angular] * 3)
        # The correction comes after the safety stage, so the tool's limits are kept here, too.
        self._limits = settings["max_linear_speed"], settings["max_angular_speed"]
        self._request = services.ServoCommandType.Request(
            command_type=services.ServoCommandType.Request.TWIST
            if self._twist
            else services.ServoCommandType.Request.POSE
        )
        self._tip = _tip_of(settings["moveit_servo.tool_to_tip"])
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
        if self._twist and self._gain > 0.0:
            node.create_subscription(
                PoseStamped, context.contract.end_effector_pose_topic, self._on_pose, qos.SENSOR
            )
        self._status: tuple[int, str] = (0, "")
        self._heard_at = self._warned_at = -np.inf
        # The commands that go in without a pause: when the first and the last one were sent.
        self._sent_since = self._sent_at = -np.inf
        self._ready = False
        self._unpause = settings["moveit_servo.unpause"]
        self._asked_at = -np.inf
        self._refused = ""
        self._measured: tuple[np.ndarray, np.ndarray] | None = None
        self._measured_at = -np.inf

    def problem(self) -> Problem | None:
        """Whether Servo runs, takes our type of command, and has not halted."""
        now = time.monotonic()
        if now - self._heard_at > STATUS_TIMEOUT:
            # A Servo that starts again has forgotten the command type.
            self._ready = False
            self._wake(now)
            return Problem(
                f"no status from {self._name} for {STATUS_TIMEOUT:g} s: is MoveIt Servo running, "
                "and not paused (its service pause_servo)?"
            )
        if not self._ready:
            self._ask(now)
            return Problem(
                self._refused or f"waiting for {self._name} to switch to the command type"
            )
        code, text = self._status
        if code in STATUSES and self._answers_us(now):
            words, stops = STATUSES[code]
            return Problem(f"{words} ({text})" if text else words, stops)
        return None

    def _answers_us(self, now: float) -> bool:
        """Whether the status belongs to our commands, and is not an old one that Servo repeats."""
        settled = self._heard_at - self._sent_since > COMMAND_TIMEOUT
        return settled and now - self._sent_at < COMMAND_TIMEOUT

    def _wake(self, now: float) -> None:
        """Un-pauses Servo where configured; a paused one sends no status."""
        if not self._unpause or now - self._asked_at < ASK_PERIOD:
            return
        if self._pause.service_is_ready():
            self._asked_at = now
            self._pause.call_async(SetBool.Request(data=False))

    def _ask(self, now: float) -> None:
        if now - self._asked_at < ASK_PERIOD:
            return
        if not self._switch.service_is_ready():
            self._refused = f"no service {self._name}/switch_command_type: is it Servo of Jazzy?"
            return
        self._asked_at, self._refused = now, ""
        self._switch.call_async(self._request).add_done_callback(self._on_switched)

    def _on_switched(self, future) -> None:
        answer = future.result()
        self._ready = bool(answer is not None and answer.success)
        if not self._ready:
            self._refused = f"{self._name} refused the command type: see its log"

    def _on_status(self, message) -> None:
        now = self._heard_at = time.monotonic()
        # Servo is awake: a pause from now on is the operator's.
        self._unpause = False
        code = int(message.code)
        changed = code != self._status[0]
        self._status = code, message.message
        if changed or code in WARNINGS:
            self._tell(code, changed, now)

    def _tell(self, code: int, changed: bool, now: float) -> None:
        words = WARNINGS.get(code) or ("ok" if code == 0 else STATUSES.get(code, (f"{code}",))[0])
        self._node.diagnostics.values["servo"] = words
        told_lately = now - self._warned_at < WARNING_PERIOD and not changed
        if code in WARNINGS and self._answers_us(now) and not told_lately:
            self._warned_at = now
            self._node.diagnostics.report("servo", f"Servo: {words}", WARN)

    def _on_pose(self, message: PoseStamped) -> None:
        self._measured = raw_pose(message.pose)
        self._measured_at = time.monotonic()

    def send(self, command: ArmCommand) -> None:
        """Sends one cycle's pose or twist, stamped now."""
        now = time.monotonic()
        if now - self._sent_at > COMMAND_TIMEOUT:
            self._sent_since = now
            # Another program may have used Servo meanwhile.
            self._ask(now)
        self._sent_at = now
        if self._twist:
            message = TwistStamped()
            twist = self._at_tip(command, self._twist_of(command, now)) / self._scale
            linear, angular = message.twist.linear, message.twist.angular
            linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = twist.tolist()
        else:
            message = PoseStamped(pose=arrays_to_pose(*self._tip_pose(command)))
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.header.frame_id = self._frame
        self._output.publish(message)

    def _tip_pose(self, command: ArmCommand) -> tuple[np.ndarray, np.ndarray]:
        """Where Servo's tip is to be: position [3] and quaternion [4]."""
        if self._tip is None:
            return command.tool_position, command.tool_quaternion
        offset = quaternion_to_matrix(command.tool_quaternion) @ self._tip[0]
        return command.tool_position + offset, multiply(command.tool_quaternion, self._tip[1])

    def _at_tip(self, command: ArmCommand, twist: np.ndarray) -> np.ndarray:
        """The velocity [6] of Servo's tip when the tool has that of `twist`."""
        if self._tip is None:
            return twist
        offset = quaternion_to_matrix(command.tool_quaternion) @ self._tip[0]
        return np.concatenate([twist[:3] + np.cross(twist[3:], offset), twist[3:]])

    def _twist_of(self, command: ArmCommand, now: float) -> np.ndarray:
        """The tool's velocity [6], with a correction towards its path while it moves.

        The correction is the gain times the distance, cut to a tenth of a metre and of a radian,
        and the sum of both is cut to the tool's limits. It is left out at rest, for an arm that
        holds must hold still, and without a recent pose.
        """
        twist = command.tool_velocity
        if not twist.any() or self._gain == 0.0:
            return twist
        if self._measured is None or now - self._measured_at > POSE_TIMEOUT:
            if now - self._warned_at > WARNING_PERIOD:
                self._warned_at = now
                self._node.diagnostics.report(
                    "servo", "the tool's pose is missing, so that twists may drift", WARN
                )
            return twist
        place, turn = self._measured
        errors = command.tool_position - place, difference(command.tool_quaternion, turn)
        speeds = (
            _cut(speed + self._gain * _cut(error, LARGEST_ERROR), limit)
            for speed, error, limit in zip(
                (twist[:3], twist[3:]), errors, self._limits, strict=True
            )
        )
        return np.concatenate(list(speeds))

    def release(self) -> None:
        """Nothing more is sent: the arm is at rest, and others may move it through Servo."""


def _tip_of(numbers: list[float]) -> tuple[np.ndarray, np.ndarray] | None:
    """Position and quaternion of the parameter tool_to_tip, None when tool and tip are one.

    Raises ValueError when it is no pose.
    """
    length = np.linalg.norm(numbers[3:])
    if len(numbers) != 7 or abs(length - 1.0) > 0.01:
        raise ValueError(
            f"moveit_servo.tool_to_tip {numbers} is no pose: give x, y, z in metres and a "
            "quaternion x, y, z, w of length 1"
        )
    if not any(numbers[:6]):
        return None
    return np.array(numbers[:3]), np.array(numbers[3:]) / length


def _cut(vector: np.ndarray, limit: float) -> np.ndarray:
    """A vector [3], made shorter where it is longer than the limit."""
    length = float(np.sqrt(vector @ vector))
    return vector if length <= limit else vector * (limit / length)


BACKEND = MoveItServoBackend
