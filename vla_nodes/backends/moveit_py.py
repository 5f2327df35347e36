"""Planned motions by moveit_py: going home, retreating, long moves. Not for a policy's chunks.

plan() holds Python's lock until it is done, which stops every thread of its process: it runs in the
node `mover`, never in the controller.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import yaml
from geometry_msgs.msg import PoseStamped

from vla_nodes.core.clock_watch import CLOCK_TOPIC
from vla_nodes.core.parameters_file import PARAMETERS

INSTALL = "install ros-jazzy-moveit-py and the robot's MoveIt configuration, and source them first"

# moveit_msgs/MoveItErrorCodes: why a plan can fail.
ERRORS = {
    99999: "MoveIt failed: see its log",
    -1: "planning failed: is it in reach, and free of obstacles?",
    -2: "the plan would collide, or break a limit, on its way",
    -3: "the surroundings changed meanwhile",
    -6: "no plan in the time for it: raise planning_time, or choose a nearer target",
    -10: "the arm touches something where it is now, as MoveIt sees it: move it away by hand",
    -11: "the arm is outside the path's constraints where it is now",
    -12: "the arm would collide there",
    -13: "the target is outside the path's constraints",
    -14: "the target does not fulfil its own constraints",
    -15: "MoveIt does not know the planning group",
    -16: "MoveIt cannot make use of the target: is tool_link a link of the planning group?",
    -17: "MoveIt cannot make use of the arm's state",
    -18: "MoveIt does not know the link: see tool_link",
    -21: "MoveIt does not know the pose's frame",
    -23: "the joint states that MoveIt has are too old: does the robot's driver run?",
    -26: "the arm is outside its limits where it is now",
    -27: "the target is outside the joint limits",
    -31: "the tool cannot reach it (no inverse kinematics)",
}


class MoveError(ValueError):
    """A motion that was not planned or not carried out; the text says why and what to do."""


@dataclass(frozen=True)
class MoveSettings:
    """How the arm is moved, and its targets."""

    group: str  # planning group of the arm
    tool_link: str  # link that poses are for
    planning_time: float = 5.0  # longest time to plan [s]
    speed_scale: float = 0.2  # share of top speed and acceleration
    # Joint positions of the group [rad] or the name of a group state of the SRDF, by name; any
    # other name is looked up in the SRDF.
    targets: Mapping[str, str | list[float]] = field(default_factory=dict)


class MoveItPlanner:
    """Plans and executes, one motion at a time; every call blocks."""

    def __init__(
        self,
        name: str,
        namespace: str,
        settings: MoveSettings,
        use_sim_time: bool = False,
        clock_topic: str = CLOCK_TOPIC,
    ):
        """name, namespace: of MoveIt's own node, which takes the process's parameter files.

        use_sim_time: whether that node follows the time on `clock_topic`, as the process's other
        node does. Raises MoveError where MoveIt is not installed, does not start, or does not fit a
        target.
        """
        try:
            from moveit.core.robot_state import RobotState
            from moveit.planning import MoveItPy, PlanRequestParameters
        except ImportError as error:
            raise MoveError(f"MoveIt is not installed ({error}): {INSTALL}") from error
        self._settings = settings
        self._parameters, self._state = PlanRequestParameters, RobotState
        moveit = None
        try:
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as own:
                # It reads files alone: what launch gives a node by its name does not reach it.
                yaml.safe_dump({"/**": {PARAMETERS: {"use_sim_time": use_sim_time}}}, own)
                own.flush()
                moveit = MoveItPy(
                    node_name=name,
                    name_space=namespace,
                    launch_params_filepaths=[*_parameter_files(sys.argv), own.name],
                    remappings={CLOCK_TOPIC: clock_topic},
                )
            component = moveit.get_planning_component(settings.group)
            group = moveit.get_robot_model().get_joint_model_group(settings.group)
            joints = list(group.active_joint_model_names)
        except Exception as error:
            if moveit is not None:
                moveit.shutdown()
            raise MoveError(
                f"MoveIt did not start with group '{settings.group}': {error}; start this node "
                "with the robot's MoveIt configuration as a parameters file"
            ) from error
        self._moveit, self._component = moveit, component
        for target, value in settings.targets.items():
            if not isinstance(value, str) and len(value) != len(joints):
                self.close()
                raise MoveError(
                    f"targets.{target} has {len(value)} joint positions, group '{settings.group}' "
                    f"has {len(joints)} joints: {', '.join(joints)}"
                )

    def plan_to(self, target: str, pose: PoseStamped | None, speed_scale: float):
        """A trajectory to a named target, or, where a pose is given, to that pose of the tool.

        speed_scale: share of top speed and acceleration, 0 for the setting. Raises MoveError where
        there is none.
        """
        self._component.set_start_state_to_current_state()
        # After a refused goal, the one before would still be set.
        if not self._set_goal(target, pose):
            known = sorted({*self._settings.targets, *self._component.named_target_states})
            raise MoveError(
                f"MoveIt does not take the target '{target}': known are {', '.join(known)}"
                if pose is None
                else "MoveIt does not take the pose: see its log"
            )
        parameters = self._parameters(self._moveit, "")
        parameters.planning_time = self._settings.planning_time
        scale = speed_scale or self._settings.speed_scale
        parameters.max_velocity_scaling_factor = scale
        parameters.max_acceleration_scaling_factor = scale
        plan = self._component.plan(single_plan_parameters=parameters)
        if not plan:
            code = plan.error_code.val
            raise MoveError(
                f"no plan to {target or 'the pose'}: {ERRORS.get(code, 'see the log')} (MoveIt "
                f"error {code})"
            )
        return plan.trajectory

    def _set_goal(self, target: str, pose: PoseStamped | None) -> bool:
        value = self._settings.targets.get(target, target)
        try:
            if pose is not None:
                return self._component.set_goal_state(
                    pose_stamped_msg=pose, pose_link=self._settings.tool_link
                )
            if isinstance(value, str):
                return self._component.set_goal_state(configuration_name=value)
            state = self._state(self._moveit.get_robot_model())
            state.set_to_default_values()
            state.set_joint_group_positions(self._settings.group, np.array(value))
            state.update()
            return self._component.set_goal_state(robot_state=state)
        except Exception as error:
            raise MoveError(f"MoveIt does not take {target or 'the pose'}: {error}") from error

    def execute(self, trajectory) -> None:
        """Carries a trajectory out. Raises MoveError where it does not succeed."""
        status = self._moveit.execute(trajectory, controllers=[])
        if not status:
            raise MoveError(
                f"the motion ended with {status.status}: look at the robot, at its controller and "
                "at MoveIt's log"
            )

    def stop(self) -> None:
        """Ends the execution under way; execute() then raises. From another thread."""
        self._moveit.get_trajectory_execution_manager().stop_execution()

    def close(self) -> None:
        """Ends MoveIt's own node."""
        del self._component
        self._moveit.shutdown()
        del self._moveit


def _parameter_files(words: Sequence[str]) -> list[str]:
    """The parameter files that a node's command line names."""
    return [file for flag, file in pairwise(words) if flag == "--params-file"]


def read_targets(values: Mapping[str, object]) -> dict[str, str | list[float]]:
    """Named targets from parameters: a group state's name or joint positions [rad] for each.

    Raises MoveError for anything else.
    """
    targets: dict[str, str | list[float]] = {}
    for name, value in values.items():
        if isinstance(value, str) and value:
            targets[name] = value
            continue
        numbers = list(value) if hasattr(value, "__iter__") else []
        if not numbers or not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
            raise MoveError(
                f"targets.{name} cannot be {value!r}: it must be the name of a group state of the "
                "SRDF, or the joint positions of the planning group in radians"
            )
        targets[name] = [float(number) for number in numbers]
    return targets
