"""MoveItPy and what it gives, see the package."""

import ctypes
import threading
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from control_msgs.action import FollowJointTrajectory
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from trajectory_msgs.msg import JointTrajectoryPoint

from vla.control.robots import panda

GROUP = "fr3_arm"
STATES = {"ready": panda.HOME, "corner": panda.HOME + 0.4, "far": panda.HOME + 0.2}
SLOW, PLANNING_SECONDS = "far", 1.0
# Of a motion at full speed [s].
SECONDS = 0.3
SUCCESS, PLANNING_FAILED, GOAL_IN_COLLISION = 1, -1, -12
OUTCOMES = {
    GoalStatus.STATUS_SUCCEEDED: "SUCCEEDED",
    GoalStatus.STATUS_CANCELED: "PREEMPTED",
    GoalStatus.STATUS_ABORTED: "ABORTED",
}
# Calls of this library keep Python's lock.
WITH_LOCK = ctypes.PyDLL(None)


class PlanRequestParameters:
    def __init__(self, moveit_py, ns):
        self.planner_id = self.planning_pipeline = ""
        self.planning_time, self.planning_attempts = 1.0, 5
        self.max_velocity_scaling_factor = self.max_acceleration_scaling_factor = 1.0


class Plan:
    def __init__(self, code, trajectory=None):
        self.trajectory, self.error_code = trajectory, SimpleNamespace(val=code)

    def __bool__(self):
        return self.error_code.val == SUCCESS


class ExecutionStatus:
    def __init__(self, status):
        self.status = status

    def __bool__(self):
        return self.status == "SUCCEEDED"


class RobotModel:
    joints = panda.ARM_JOINTS

    def get_joint_model_group(self, joint_model_group_name):
        if joint_model_group_name != GROUP:
            raise RuntimeError(f"group '{joint_model_group_name}' not found")
        return SimpleNamespace(active_joint_model_names=list(self.joints))


class PlanningComponent:
    def __init__(self):
        self.goal, self.started, self.named_target_states = None, False, list(STATES)

    def set_start_state_to_current_state(self):
        self.started = True

    def set_goal_state(
        self,
        configuration_name=None,
        robot_state=None,
        pose_stamped_msg=None,
        pose_link=None,
        motion_plan_constraints=None,
    ):
        given = (configuration_name, robot_state, pose_stamped_msg, motion_plan_constraints)
        if sum(value is not None for value in given) != 1:
            raise ValueError("Must specify exactly one goal")
        if (pose_stamped_msg is None) != (pose_link is None):
            raise ValueError("Must specify both message and corresponding link")
        if configuration_name is not None and configuration_name not in STATES:
            return False
        self.goal = next(value for value in given if value is not None)
        return True

    def plan(self, single_plan_parameters=None, multi_plan_parameters=None):
        if not self.started or self.goal is None:
            return Plan(PLANNING_FAILED)
        goal, seconds = self.goal, SECONDS / single_plan_parameters.max_velocity_scaling_factor
        if goal == SLOW:
            WITH_LOCK.usleep(int(PLANNING_SECONDS * 1e6))
        if isinstance(goal, str):
            return Plan(SUCCESS, (STATES[goal], seconds))
        if hasattr(goal, "positions"):
            return Plan(SUCCESS, (np.array(list(goal.positions.values())), seconds))
        height = goal.pose.position.z
        if height < 0.0:
            return Plan(GOAL_IN_COLLISION)
        return Plan(PLANNING_FAILED if height > 1.0 else SUCCESS, (panda.HOME, seconds))


class MoveItPy:
    def __init__(
        self,
        node_name="moveit_py",
        name_space="",
        launch_params_filepaths=None,
        config_dict=None,
        provide_planning_service=True,
        remappings=None,
    ):
        # A context of its own, as the real one is C++ and has another than rclpy's.
        self.context = Context()
        rclpy.init(context=self.context)
        words = [word for file in launch_params_filepaths or () for word in ("--params-file", file)]
        words += [w for old, new in (remappings or {}).items() for w in ("-r", f"{old}:={new}")]
        self.node = rclpy.create_node(
            node_name,
            namespace=name_space,
            context=self.context,
            cli_args=["--ros-args", *words],
            use_global_arguments=False,
            automatically_declare_parameters_from_overrides=True,
        )
        self.client = ActionClient(
            self.node, FollowJointTrajectory, "joint_trajectory_controller/follow_joint_trajectory"
        )
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        threading.Thread(target=self.spin, daemon=True).start()
        self.goal = None

    def spin(self):
        with suppress(ExternalShutdownException):
            self.executor.spin()

    def get_robot_model(self):
        return RobotModel()

    def get_planning_component(self, planning_component_name):
        RobotModel().get_joint_model_group(planning_component_name)
        return PlanningComponent()

    def get_trajectory_execution_manager(self):
        return self

    def stop_execution(self, auto_clear=True):
        if self.goal is not None:
            self.goal.cancel_goal_async()

    def execute(self, robot_trajectory, controllers):
        positions, seconds = robot_trajectory
        point = JointTrajectoryPoint(positions=positions.tolist())
        point.time_from_start.sec = int(seconds)
        point.time_from_start.nanosec = int((seconds % 1.0) * 1e9)
        goal = FollowJointTrajectory.Goal()
        goal.trajectory.joint_names, goal.trajectory.points = list(panda.ARM_JOINTS), [point]
        if not self.client.wait_for_server(5.0):
            return ExecutionStatus("ABORTED")
        handle = wait(self.client.send_goal_async(goal))
        if not handle.accepted:
            return ExecutionStatus("ABORTED")
        self.goal = handle
        status = wait(handle.get_result_async()).status
        self.goal = None
        return ExecutionStatus(OUTCOMES.get(status, "FAILED"))

    def shutdown(self):
        self.executor.shutdown()
        rclpy.try_shutdown(context=self.context)


def wait(future):
    """The result of a future that the node's own thread completes."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    done.wait()
    return future.result()
