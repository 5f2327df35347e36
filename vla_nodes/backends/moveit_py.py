"""Planned motions by moveit_py: going home, retreating, long moves. Not for a policy's chunks.

plan() holds Python's lock until it is done, so that every thread of its process stands still: it
runs in the node `mover`, never in the controller.
"""

from __future__ import annotations

from dataclasses import dataclass

from geometry_msgs.msg import PoseStamped

INSTALL = "install ros-jazzy-moveit-py and the robot's MoveIt configuration, and source them first"


class MoveError(ValueError):
    """A motion that was not planned or not carried out; the text says why and what to do."""


@dataclass(frozen=True)
class MoveSettings:
    """group: planning group of the arm. tool_link: link that poses are for.

    planning_time: longest time to plan [s]. speed_scale: share of top speed and acceleration.
    """

    group: str
    tool_link: str
    planning_time: float = 5.0
    speed_scale: float = 0.2


class MoveItPlanner:
    """Plans and executes, one motion at a time; every call blocks."""

    def __init__(self, name: str, settings: MoveSettings):
        """name: of MoveIt's own node. Raises MoveError where MoveIt is not installed."""
        try:
            from moveit.planning import MoveItPy, PlanRequestParameters
        except ImportError as error:
            raise MoveError(f"MoveIt is not installed ({error}): {INSTALL}") from error
        self._settings = settings
        self._parameters = PlanRequestParameters
        try:
            self._moveit = MoveItPy(node_name=name)
            self._component = self._moveit.get_planning_component(settings.group)
        except Exception as error:
            raise MoveError(
                f"MoveIt did not start with group '{settings.group}': {error}; start this node "
                "with the robot's MoveIt configuration as parameters"
            ) from error

    def plan_to(self, target: str, pose: PoseStamped | None, speed_scale: float):
        """A trajectory to a named group state, or to a pose of the tool.

        Raises MoveError where there is none.
        """
        self._component.set_start_state_to_current_state()
        try:
            if pose is None:
                self._component.set_goal_state(configuration_name=target)
            else:
                self._component.set_goal_state(
                    pose_stamped_msg=pose, pose_link=self._settings.tool_link
                )
        except Exception as error:
            raise MoveError(f"MoveIt does not know the target '{target}': {error}") from error
        parameters = self._parameters(self._moveit, "")
        parameters.planning_time = self._settings.planning_time
        scale = speed_scale or self._settings.speed_scale
        parameters.max_velocity_scaling_factor = scale
        parameters.max_acceleration_scaling_factor = scale
        plan = self._component.plan(single_plan_parameters=parameters)
        if not plan:
            code = getattr(getattr(plan, "error_code", None), "val", "unknown")
            raise MoveError(
                f"no plan to '{target or 'the pose'}' was found (MoveIt error {code}): is it in "
                "reach, and free of obstacles?"
            )
        return plan.trajectory

    def execute(self, trajectory) -> None:
        """Carries a trajectory out. Raises MoveError where it does not succeed."""
        status = self._moveit.execute(trajectory, controllers=[])
        if not status:
            raise MoveError(
                f"the motion ended with {getattr(status, 'status', 'a failure')}: look at the "
                "robot and its controller"
            )

    def stop(self) -> None:
        """Ends the execution under way; execute() then raises. From another thread."""
        self._moveit.get_trajectory_execution_manager().stop_execution()

    def close(self) -> None:
        """Ends MoveIt's own node."""
        self._moveit.shutdown()
