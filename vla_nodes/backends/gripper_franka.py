"""The Franka Hand by franka_gripper's actions: move opens, grasp closes.

A grasp that finds nothing ends without success, although the fingers have closed. That is no fault
of the gripper's: the policy sees the empty hand and may try again, so it is only told.
"""

from __future__ import annotations

from std_srvs.srv import Trigger

from vla.control.gripper import Order
from vla_nodes.backends.base import BackendContext, import_interfaces
from vla_nodes.backends.gripper_actions import ActionGripper, action_settings
from vla_nodes.settings import Setting

SETTINGS = (
    Setting("franka_gripper.node", "franka_gripper", "Name of the franka_gripper node."),
    Setting(
        "franka_gripper.speed",
        0.1,
        "Speed of the fingers [m/s].",
        minimum=0.005,
        maximum=0.2,
    ),
    Setting(
        "franka_gripper.force",
        20.0,
        "Force that a grasped object is held with [N].",
        minimum=1.0,
        maximum=70.0,
    ),
    Setting(
        "franka_gripper.grasp_width",
        0.0,
        "Expected width of grasped objects [m]; with the two tolerances below, the widths that "
        "count as a grasp.",
        minimum=0.0,
        maximum=0.08,
    ),
    Setting(
        "franka_gripper.epsilon_inner",
        0.0,
        "How much narrower than grasp_width a grasped object may be [m].",
        minimum=0.0,
        maximum=0.08,
    ),
    Setting(
        "franka_gripper.epsilon_outer",
        0.08,
        "How much wider than grasp_width a grasped object may be [m].",
        minimum=0.0,
        maximum=0.08,
    ),
    Setting(
        "franka_gripper.homing",
        False,
        "Find the fingers' range anew at configuration; the hand must be empty, and it moves.",
    ),
    *action_settings("franka_gripper"),
)


class FrankaGripper(ActionGripper):
    """Franka's actions."""

    def __init__(self, context: BackendContext):
        super().__init__(context, "franka_gripper")
        action, messages = import_interfaces(
            "franka_msgs", ("action", "msg"), "ros-jazzy-franka-msgs (franka_ros2)"
        )
        self._action, self._epsilon = action, messages.GraspEpsilon
        node = self.settings["franka_gripper.node"]
        self._move = self.client(action.Move, f"{node}/move")
        self._grasp = self.client(action.Grasp, f"{node}/grasp")
        self._homing = self.client(action.Homing, f"{node}/homing")
        # Its goals are accepted without a look at the one under way, which only this stops.
        self._stop = self.node.create_client(Trigger, f"{node}/stop")
        self._homed = not self.settings["franka_gripper.homing"]

    def send(self, width: float) -> None:
        """Follows the wanted opening, after homing where that is asked for."""
        if not self._homed:
            if self._homing.server_is_ready():
                self._homed = True
                self._homing.send_goal_async(self._action.Homing.Goal())
            return
        super().send(width)

    def goal(self, order: Order) -> tuple:
        """Move to the open width, or grasp."""
        settings = self.settings
        speed = settings["franka_gripper.speed"]
        if order is Order.OPEN:
            width = self.state.config.open_width
            return self._move, self._action.Move.Goal(width=width, speed=speed)
        goal = self._action.Grasp.Goal(
            width=settings["franka_gripper.grasp_width"],
            speed=speed,
            force=settings["franka_gripper.force"],
            epsilon=self._epsilon(
                inner=settings["franka_gripper.epsilon_inner"],
                outer=settings["franka_gripper.epsilon_outer"],
            ),
        )
        return self._grasp, goal

    def stop(self) -> None:
        """Stops the fingers by the driver's own service, and cancels the goal."""
        if self._stop.service_is_ready():
            self._stop.call_async(Trigger.Request())
        super().stop()

    def judge(self, order: Order, result) -> str:
        """An empty grasp is told in the log; a move that failed is a fault."""
        if result.success:
            return ""
        if order is Order.CLOSE:
            self.node.get_logger().info(
                f"the hand closed without grasping anything of the expected width: {result.error}"
            )
            return ""
        return result.error or "the driver says that it failed"


GRIPPER = FrankaGripper
