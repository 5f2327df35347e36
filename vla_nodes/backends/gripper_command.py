"""Grippers behind GripperCommand or ParallelGripperCommand, such as ros2_control's controllers.

An opening that stalls on an object is what a grasp is, so `stalled` counts as success when closing.
"""

from __future__ import annotations

from sensor_msgs.msg import JointState

from vla.control.gripper import Order
from vla_nodes.backends.base import BackendContext, import_interfaces
from vla_nodes.backends.gripper_actions import ActionGripper, action_settings
from vla_nodes.settings import Setting

SETTINGS = (
    Setting(
        "gripper_command.action",
        "gripper_controller/gripper_cmd",
        "Name of the action, of control_msgs/GripperCommand or ParallelGripperCommand.",
    ),
    Setting(
        "gripper_command.joint",
        "finger_joint",
        "Joint that ParallelGripperCommand commands.",
    ),
    Setting(
        "gripper_command.open_position",
        0.08,
        "Position that the driver calls open, in its own units; Franka's gripper_action takes half "
        "of the width.",
        minimum=-10.0,
        maximum=10.0,
    ),
    Setting(
        "gripper_command.closed_position",
        0.0,
        "Position that the driver calls closed, in its own units.",
        minimum=-10.0,
        maximum=10.0,
    ),
    Setting(
        "gripper_command.max_effort",
        20.0,
        "Largest effort, in the driver's units (mostly N).",
        minimum=0.0,
        maximum=1000.0,
    ),
    *action_settings("gripper_command"),
)


class CommandGripper(ActionGripper):
    """Both kinds of action; the parameter `gripper` says which."""

    def __init__(self, context: BackendContext):
        super().__init__(context, "gripper_command")
        (action,) = import_interfaces("control_msgs", ("action",), "ros-jazzy-control-msgs")
        self._parallel = self.settings["gripper"] == "parallel_gripper_command"
        self._kind = action.ParallelGripperCommand if self._parallel else action.GripperCommand
        self._client = self.client(self._kind, self.settings["gripper_command.action"])

    def goal(self, order: Order) -> tuple:
        """Go to the open or the closed position."""
        end = "open" if order is Order.OPEN else "closed"
        position = self.settings[f"gripper_command.{end}_position"]
        effort = self.settings["gripper_command.max_effort"]
        goal = self._kind.Goal()
        if self._parallel:
            goal.command = JointState(
                name=[self.settings["gripper_command.joint"]], position=[position], effort=[effort]
            )
        else:
            goal.command.position, goal.command.max_effort = position, effort
        return self._client, goal

    def judge(self, order: Order, result) -> str:
        """Fingers that stop on an object have grasped it; on the way open they are stuck."""
        if result.reached_goal or (result.stalled and order is Order.CLOSE):
            return ""
        return "the fingers are stuck" if result.stalled else "it ended away from its goal"


GRIPPER = CommandGripper
