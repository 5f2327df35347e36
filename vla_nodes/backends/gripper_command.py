"""Grippers behind GripperCommand or ParallelGripperCommand, such as ros2_control's controllers.

Fingers that stall on an object have grasped it, so `stalled` counts as success when closing, even
if the controller aborts the goal for it, as ros2_control's do unless allow_stalling is set.
"""

from __future__ import annotations

import math

from action_msgs.msg import GoalStatus
from sensor_msgs.msg import JointState

from vla.control.gripper import Order
from vla_nodes.backends.base import BackendContext, import_interfaces
from vla_nodes.backends.gripper_actions import ActionGripper, action_settings
from vla_nodes.core.settings import Setting

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
        bounds=(-10.0, 10.0),
    ),
    Setting(
        "gripper_command.closed_position",
        0.0,
        "Position that the driver calls closed, in its own units.",
        bounds=(-10.0, 10.0),
    ),
    Setting(
        "gripper_command.max_effort",
        20.0,
        "Largest effort, in the driver's units (mostly N).",
        bounds=(0.0, 1000.0),
    ),
    *action_settings("gripper_command"),
)


class CommandGripper(ActionGripper):
    """Both kinds of action; the parameter `gripper` says which."""

    MISSING = "is the gripper's controller loaded and active, and gripper_command.action its name?"

    def __init__(self, context: BackendContext):
        super().__init__(context, "gripper_command")
        self._ends = {
            Order.OPEN: self.settings["gripper_command.open_position"],
            Order.CLOSE: self.settings["gripper_command.closed_position"],
        }
        if self._ends[Order.OPEN] == self._ends[Order.CLOSE]:
            raise ValueError(
                f"gripper_command.open_position and closed_position are both "
                f"{self._ends[Order.OPEN]:g}: give the two ends of the stroke in the driver's units"
            )
        (action,) = import_interfaces("control_msgs", ("action",), "install ros-jazzy-control-msgs")
        self._parallel = self.settings["gripper"] == "parallel_gripper_command"
        self._kind = action.ParallelGripperCommand if self._parallel else action.GripperCommand
        self._client = self.client(self._kind, self.settings["gripper_command.action"])

    def goal(self, order: Order) -> tuple:
        """Go to the open or the closed position."""
        position, effort = self._ends[order], self.settings["gripper_command.max_effort"]
        goal = self._kind.Goal()
        if self._parallel:
            goal.command = JointState(
                name=[self.settings["gripper_command.joint"]], position=[position], effort=[effort]
            )
        else:
            goal.command.position, goal.command.max_effort = position, effort
        return self._client, goal

    def place(self, feedback) -> float:
        """The position, as a share of the way from closed to open; NaN where there is none."""
        if self._parallel:
            position = feedback.state.position[0] if feedback.state.position else math.nan
        else:
            position = feedback.position
        closed = self._ends[Order.CLOSE]
        return (position - closed) / (self._ends[Order.OPEN] - closed)

    def judge(self, order: Order, status: int, result) -> str:
        """Fingers that stop on an object have grasped it; when opening they are stuck."""
        if result.stalled and not result.reached_goal:
            if order is Order.OPEN:
                return "the fingers are stuck: look what holds them"
            self.tell("closed on an object")
            return ""
        if status == GoalStatus.STATUS_SUCCEEDED:
            return ""
        return "the driver aborted it: see its log"


GRIPPER = CommandGripper
