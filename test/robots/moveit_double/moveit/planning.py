"""MoveItPy and what it gives, see the package."""

import threading
import time

import numpy as np
import rclpy
from control_msgs.action import FollowJointTrajectory
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from trajectory_msgs.msg import JointTrajectoryPoint

from vla.sim import panda

TARGETS = {"home": panda.HOME, "corner": panda.HOME + 0.4, "abort": panda.HOME - 0.2}
SECONDS = 1.5


class PlanRequestParameters:
    def __init__(self, moveit_py, ns):
        self.planning_time = 1.0
        self.max_velocity_scaling_factor = self.max_acceleration_scaling_factor = 1.0


class ErrorCode:
    val = -1


class Plan:
    def __init__(self, trajectory):
        self.trajectory, self.error_code = trajectory, ErrorCode()

    def __bool__(self):
        return self.trajectory is not None


class Status:
    def __init__(self, status):
        self.status = status

    def __bool__(self):
        return self.status == "SUCCEEDED"


class PlanningComponent:
    def set_start_state_to_current_state(self):
        pass

    def set_goal_state(self, configuration_name=None, pose_stamped_msg=None, pose_link=None):
        if configuration_name is not None and configuration_name not in TARGETS:
            raise RuntimeError(f"no group state {configuration_name}")
        self.name, self.pose = configuration_name, pose_stamped_msg

    def plan(self, single_plan_parameters=None):
        if self.pose is not None and self.pose.pose.position.z > 1.0:
            return Plan(None)
        return Plan((self.name or "home", TARGETS[self.name or "home"]))


class MoveItPy:
    def __init__(self, node_name="moveit_py"):
        self.node = rclpy.create_node(node_name)
        self.client = ActionClient(
            self.node, FollowJointTrajectory, "joint_trajectory_controller/follow_joint_trajectory"
        )
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        threading.Thread(target=self.executor.spin, daemon=True).start()
        self.stopped = threading.Event()

    def get_planning_component(self, group):
        if group != "fr3_arm":
            raise RuntimeError(f"no group {group}")
        return PlanningComponent()

    def get_trajectory_execution_manager(self):
        return self

    def stop_execution(self):
        self.stopped.set()

    def execute(self, trajectory, controllers):
        name, positions = trajectory
        self.stopped.clear()
        point = JointTrajectoryPoint(positions=np.asarray(positions).tolist())
        point.time_from_start.sec, point.time_from_start.nanosec = 1, 500_000_000
        goal = FollowJointTrajectory.Goal()
        goal.trajectory.joint_names, goal.trajectory.points = list(panda.ARM_JOINTS), [point]
        self.client.wait_for_server(5.0)
        self.client.send_goal_async(goal)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if self.stopped.is_set() or name == "abort":
                return Status("PREEMPTED" if self.stopped.is_set() else "ABORTED")
            time.sleep(0.01)
        return Status("SUCCEEDED")

    def shutdown(self):
        self.executor.shutdown()
        self.node.destroy_node()
