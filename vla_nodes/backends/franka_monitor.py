"""A Franka's own state: reflexes, the user stop, and recovery from them.

The state comes a thousand times a second. It is polled twenty times a second without a callback,
since a wake-up for each message would cost the control loop more than everything else it does.
"""

from __future__ import annotations

import math
import time

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.serialization import deserialize_message

from vla_nodes.backends.base import (
    BUILD_FRANKA_ROS2,
    BackendContext,
    Monitor,
    Problem,
    import_interfaces,
)
from vla_nodes.core import qos
from vla_nodes.core.polled import PolledSubscription
from vla_nodes.core.settings import Setting

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
        bounds=(0.1, 10.0),
    ),
)

LOOK_PERIOD = 0.05
RECOVERY_TIMEOUT = 10.0
# The state that shows the end of a recovery may come after its result.
RECOVERY_SHOWN = 1.0
UNDER_WAY = "; recovery is under way"
# Where a serialized message has its header's stamp, after four bytes about the encoding.
STAMP = slice(4, 12)

# franka_msgs/FrankaRobotState.robot_mode: the mode in words, what to do, and whether the operator
# has to resume afterwards. IDLE and MOVE are as they should be.
IDLE, MOVE = 1, 2
MODES = {
    0: "another mode",
    IDLE: "idle",
    MOVE: "moving",
    3: "guiding",
    4: "reflex",
    5: "user stopped",
    6: "automatic error recovery",
}
PROBLEMS = {
    0: ("the robot is in a mode that takes no commands: look at Desk", False),
    3: ("somebody guides the arm by hand: release the buttons to go on", False),
    4: (
        "the robot stopped itself in a reflex{errors}: clear what is in its way, call vla/recover, "
        "then vla/resume",
        True,
    ),
    5: ("the user stop is pressed: release it, then call vla/resume", True),
    6: ("the robot recovers from an error: wait", False),
}


class FrankaMonitor(Monitor):
    """Follows robot_mode and starts error recovery."""

    def __init__(self, context: BackendContext):
        action, messages = import_interfaces("franka_msgs", ("action", "msg"), BUILD_FRANKA_ROS2)
        self._node, settings = context.node, context.settings
        self._topic = settings["franka.state_topic"]
        self._timeout = settings["franka.state_timeout"]
        self._type = messages.FrankaRobotState
        self._states = PolledSubscription(
            context.node, self._type, self._topic, qos.NEWEST_SENSOR, raw=True
        )
        self._stamp = b""
        # Unknown until the first state arrives.
        self._mode = -1
        self._errors = ""
        self._changed_at = self._came_at = self._looked_at = -math.inf
        self._action = action.ErrorRecovery
        self._action_name = settings["franka.recovery_action"]
        self._client = ActionClient(context.node, self._action, self._action_name)
        self._recovery, self._recovering_until = "", -math.inf

    def _look(self, now: float) -> None:
        """Takes the newest state, if one came."""
        packed = self._states.take()
        if packed is None:
            return
        self._came_at = now
        # A driver without its robot may repeat the last state for ever.
        if packed[STAMP] != self._stamp:
            self._stamp, self._changed_at = packed[STAMP], now
        state = deserialize_message(packed, self._type)
        self._mode = int(state.robot_mode)
        names = _errors_of(state.current_errors) or _errors_of(state.last_motion_errors)
        self._errors = f" ({', '.join(names)})" if names else ""
        if hasattr(self._node, "diagnostics"):
            values = self._node.diagnostics.values
            values["robot_mode"] = MODES.get(self._mode, str(self._mode))
            values["robot_errors"] = ", ".join(_errors_of(state.current_errors))

    def problem(self) -> Problem | None:
        """Whether the robot's state is known and lets it move."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_PERIOD:
            self._looked_at = now
            self._look(now)
        if now - self._came_at > self._timeout:
            return Problem(
                f"no robot state on {self._topic}: is franka_robot_state_broadcaster active?"
            )
        if now - self._changed_at > self._timeout:
            return Problem(
                f"the robot state on {self._topic} stands still: is the robot on and connected?"
            )
        if self._mode in (IDLE, MOVE):
            if not self._under_way:
                self._recovery = ""
            return None
        unknown = (f"the robot is in an unknown mode, {self._mode}: look at Desk", False)
        words, stops = PROBLEMS.get(self._mode, unknown)
        recovery = self._recovery
        if self._under_way and now > self._recovering_until:
            recovery = f"; recovery has not ended within {RECOVERY_TIMEOUT:g} s: look at Desk"
        # The operator who recovers has looked, and may resume at once: the arm holds until it is
        # over.
        stops = stops and now > self._recovering_until
        return Problem(words.format(errors=self._errors) + recovery, stops)

    def recover(self) -> str:
        """Starts the robot's error recovery; raises ValueError when it is not available."""
        if not self._client.server_is_ready():
            raise ValueError(
                f"no action {self._action_name}: is the robot's driver running? Else recover in "
                "Desk"
            )
        now = time.monotonic()
        if self._under_way and now < self._recovering_until:
            raise ValueError("error recovery is under way: wait for its end, see vla/status")
        self._recovery, self._recovering_until = UNDER_WAY, now + RECOVERY_TIMEOUT
        self._client.send_goal_async(self._action.Goal()).add_done_callback(self._on_answer)
        return "error recovery was started; watch vla/status, then call vla/resume"

    @property
    def _under_way(self) -> bool:
        return self._recovery == UNDER_WAY

    def _on_answer(self, future) -> None:
        handle = future.result()
        if handle is None or not handle.accepted:
            self._recovery = "; the robot rejected the recovery: look at Desk"
            self._recovering_until = -math.inf
            return
        handle.get_result_async().add_done_callback(self._on_result)

    def _on_result(self, future) -> None:
        answer = future.result()
        if answer is not None and answer.status == GoalStatus.STATUS_SUCCEEDED:
            self._recovery = ""
            self._recovering_until = time.monotonic() + RECOVERY_SHOWN
        else:
            self._recovery = "; the recovery failed: look at Desk"
            self._recovering_until = -math.inf

    def close(self) -> None:
        """Takes the action client off the graph."""
        self._client.destroy()


def _errors_of(errors) -> list[str]:
    """Names of the flags that are set in franka_msgs/Errors."""
    return [name for name in errors.get_fields_and_field_types() if getattr(errors, name)]


MONITOR = FrankaMonitor
