"""A Franka's own state: reflexes, the user stop, and how to recover from them."""

from __future__ import annotations

import time

import numpy as np
from rclpy.action import ActionClient
from rclpy.serialization import deserialize_message

from vla_nodes import qos
from vla_nodes.backends.base import BackendContext, Monitor, Problem, import_interfaces
from vla_nodes.settings import Setting

SETTINGS = (
    Setting(
        "franka.state_topic",
        "franka_robot_state_broadcaster/robot_state",
        "Topic of franka_msgs/FrankaRobotState.",
    ),
    Setting(
        "franka.recovery_action",
        "action_server/error_recovery",
        "Name of the action franka_msgs/ErrorRecovery.",
    ),
    Setting(
        "franka.state_timeout",
        0.5,
        "Longest silence of the robot's state before the arm holds [s].",
        minimum=0.01,
        maximum=10.0,
    ),
)

# franka_msgs/FrankaRobotState.robot_mode: the mode in words, what to do, and whether a person has
# to resume afterwards. IDLE and MOVE are as they should be.
MODES = {
    0: "another mode",
    1: "idle",
    2: "moving",
    3: "guiding",
    4: "reflex",
    5: "user stopped",
    6: "automatic error recovery",
}
PROBLEMS = {
    0: ("the robot is in a mode that takes no commands: look at Desk", False),
    3: ("a person guides the arm by hand: let go of the buttons to go on", False),
    4: (
        "the robot stopped itself in a reflex: clear what is in its way, call vla/recover, then "
        "vla/resume",
        True,
    ),
    5: ("the user stop is pressed: release it, then call vla/resume", True),
    6: ("the robot recovers from an error: wait", False),
}


class FrankaMonitor(Monitor):
    """Follows robot_mode and starts error recovery."""

    def __init__(self, context: BackendContext):
        action, messages = import_interfaces(
            "franka_msgs", ("action", "msg"), "ros-jazzy-franka-msgs (franka_ros2)"
        )
        self._node, settings = context.node, context.settings
        self._topic = settings["franka.state_topic"]
        self._timeout = settings["franka.state_timeout"]
        # Looking at all of the state a thousand times a second would cost half a core in Python.
        self._newest: bytes | None = None
        self._type = messages.FrankaRobotState
        self._mode: int | None = None
        self._heard_at = -np.inf
        self._looked_at = -np.inf
        context.node.create_subscription(
            self._type, self._topic, self._on_state, qos.NEWEST_SENSOR, raw=True
        )
        self._action = action.ErrorRecovery
        self._client = ActionClient(context.node, self._action, settings["franka.recovery_action"])
        self._recovery = ""

    def _on_state(self, message: bytes) -> None:
        self._newest, self._heard_at = message, time.monotonic()

    def _look(self) -> None:
        """Unpacks the newest state, at most 50 times a second."""
        now = time.monotonic()
        if self._newest is None or now - self._looked_at < 0.02:
            return
        message, self._newest, self._looked_at = self._newest, None, now
        self._mode = int(deserialize_message(message, self._type).robot_mode)
        if hasattr(self._node, "diagnostics"):
            self._node.diagnostics.values["robot_mode"] = MODES.get(self._mode, str(self._mode))

    def problem(self) -> Problem | None:
        """Whether the robot's state is known and lets it move."""
        self._look()
        if time.monotonic() - self._heard_at > self._timeout:
            return Problem(
                f"no robot state on {self._topic}: is franka_robot_state_broadcaster active?"
            )
        if self._mode in PROBLEMS:
            words, stops = PROBLEMS[self._mode]
            return Problem(f"{words}{self._recovery}", stops)
        self._recovery = ""
        return None

    def recover(self) -> str:
        """Starts the robot's error recovery."""
        if not self._client.server_is_ready():
            raise ValueError(
                f"no action {self._client._action_name}: is the robot's driver running? Else "
                "recover in Desk"
            )
        self._recovery = " (recovery is under way)"
        self._client.send_goal_async(self._action.Goal()).add_done_callback(self._on_answer)
        return "error recovery was started; watch vla/status, then call vla/resume"

    def _on_answer(self, future) -> None:
        handle = future.result()
        if handle is None or not handle.accepted:
            self._recovery = " (the robot rejected the recovery: look at Desk)"
            return
        handle.get_result_async().add_done_callback(self._on_result)

    def _on_result(self, future) -> None:
        # STATUS_SUCCEEDED is 4.
        failed = future.result() is None or future.result().status != 4
        self._recovery = " (the recovery failed: look at Desk)" if failed else ""

    def close(self) -> None:
        """Takes the action client off the graph."""
        self._client.destroy()


MONITOR = FrankaMonitor
