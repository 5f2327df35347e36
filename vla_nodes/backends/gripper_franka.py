"""The Franka Hand by franka_gripper's actions: move opens, grasp closes.

A grasp that finds nothing of the expected width is aborted without an error, although the fingers
have closed. That is no fault: the policy sees the empty hand and may try again, so it is only
logged. An exception of the driver's library comes with an error, and is a fault.
"""

from __future__ import annotations

from action_msgs.msg import GoalStatus
from std_srvs.srv import Trigger

from vla.control.gripper import Order
from vla_nodes.backends.base import BUILD_FRANKA_ROS2, BackendContext, import_interfaces
from vla_nodes.backends.gripper_actions import ActionGripper, action_settings
from vla_nodes.core.settings import Setting

SETTINGS = (
    Setting("franka_gripper.node", "franka_gripper", "Name of the franka_gripper node."),
    Setting(
        "franka_gripper.speed",
        0.1,
        "Speed of the fingers [m/s].",
        bounds=(0.005, 0.2),
    ),
    Setting(
        "franka_gripper.force",
        20.0,
        "Force that a grasped object is held with [N].",
        bounds=(1.0, 70.0),
    ),
    Setting(
        "franka_gripper.grasp_width",
        0.0,
        "Expected width of grasped objects [m]; with the two tolerances below, the widths that "
        "count as a grasp.",
        bounds=(0.0, 0.08),
    ),
    Setting(
        "franka_gripper.epsilon_inner",
        0.0,
        "How much narrower than grasp_width a grasped object may be [m].",
        bounds=(0.0, 0.08),
    ),
    Setting(
        "franka_gripper.epsilon_outer",
        0.08,
        "How much wider than grasp_width a grasped object may be [m].",
        bounds=(0.0, 0.08),
    ),
    Setting(
        "franka_gripper.homing",
        False,
        "Find the fingers' range first of all when the controller is active; the hand moves, and "
        "must be empty.",
    ),
    *action_settings("franka_gripper"),
)


class FrankaGripper(ActionGripper):
    """Franka's actions."""

    MISSING = (
        "is franka_gripper running? (with fake hardware it has no actions: use gripper 'position')"
    )

    def __init__(self, context: BackendContext):
        super().__init__(context, "franka_gripper", context.settings["franka_gripper.homing"])
        action, messages = import_interfaces("franka_msgs", ("action", "msg"), BUILD_FRANKA_ROS2)
        self._action, self._epsilon = action, messages.GraspEpsilon
        node = self.settings["franka_gripper.node"]
        self._move = self.client(action.Move, f"{node}/move")
        self._grasp = self.client(action.Grasp, f"{node}/grasp")
        self._homing = self.client(action.Homing, f"{node}/homing")
        self._stop = self.node.create_client(Trigger, f"{node}/stop")

    def goal(self, order: Order) -> tuple:
        """Home, move to the open width, or grasp."""
        settings = self.settings
        speed = settings["franka_gripper.speed"]
        if order is Order.HOME:
            return self._homing, self._action.Homing.Goal()
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

    def place(self, feedback) -> float:
        """The width, as a share of the open width."""
        return feedback.current_width / self.state.config.open_width

    def stop(self) -> None:
        """Cancels the goal, upon which the driver stops the fingers.

        If an earlier cancel had no effect, it also calls the driver's stop service, which ends any
        action, so it must not come late and end the next one.
        """
        super().stop()
        if self.state.insisting and self._stop.service_is_ready():
            number = self._number
            self._stop.call_async(Trigger.Request()).add_done_callback(
                lambda future: self._on_stopped(number, future)
            )

    def _on_stopped(self, number: int, future) -> None:
        answer = future.result()
        if number == self._number and answer is not None and answer.success:
            self.state.stop_confirmed()

    def judge(self, order: Order, status: int, result) -> str:
        """An empty grasp is logged; every other failure is a fault."""
        if status == GoalStatus.STATUS_SUCCEEDED and result.success:
            return ""
        if order is Order.CLOSE and not result.error:
            self.tell("closed, nothing of the expected width grasped")
            self.node.get_logger().info(
                "the hand closed without grasping anything of the expected width"
            )
            return ""
        return result.error or "the driver gives no reason: see its log"


GRIPPER = FrankaGripper
