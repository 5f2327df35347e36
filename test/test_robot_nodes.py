"""An FR3 and a UR5e from their shipped files alone, through perception and controller, over DDS."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import PoseStamped
from node_harness import Graph, use_test_interfaces
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_system_default
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, String
from trajectory_msgs.msg import JointTrajectory
from vla_ros.msg import ActionChunk, Instruction, LatentAction, Observation, PolicyStatus
from vla_ros.srv import SetInstruction

from vla.contract.embodiment import load_contract
from vla.control.kinematics import DifferentialIK
from vla.control.robot_model import arm_limits, model_from_urdf
from vla.control.robots import panda
from vla.control.session import State
from vla.core.rotations import quaternion_to_matrix
from vla.observations.messages import pose_to_arrays
from vla_nodes.core import qos
from vla_nodes.core.conversions import array_to_image, arrays_to_pose
from vla_nodes.recorder.topics import plan_topics

pytestmark = pytest.mark.nodes

CONFIG = Path(__file__).parents[1] / "config"
SPEED = 0.05

# What the drivers do of which the shipped files know: the frame that they name in their poses and
# how they publish them, where the gripper listens, where the arm starts and which way is into its
# workspace.
ROBOTS = {
    "fr3": {
        "frame": "base",
        "poses": QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
        "start": panda.HOME,
        "ahead": 1.0,
        "arm": "fr3_arm_controller",
        "gripper": ("franka_gripper", "franka_gripper"),
        "open": [0.04, 0.04],
        "more": ("franka_robot",),
        "closed": (String, "franka_gripper/orders", "grasp"),
    },
    "ur5e": {
        "frame": "base",
        "poses": qos_profile_system_default,
        "start": np.array([0.0, -1.4, 1.6, -1.77, -1.57, 0.3]),
        "ahead": -1.0,
        "arm": "scaled_joint_trajectory_controller",
        "gripper": ("gripper_command_controller", "gripper_action_controller"),
        "open": [0.025, 0.025],
        "more": (),
        "closed": (Float64, "gripper_action_controller/goals", 0.0),
    },
}


class Cell:
    """One robot as its drivers show it, two cameras, and a policy that goes on along x."""

    def __init__(self, graph, name):
        self.graph, self.driver = graph, ROBOTS[name]
        self.contract = contract = load_contract(CONFIG / "contracts" / f"{name}.yaml")
        urdf = (CONFIG / "robots" / f"{name}.urdf").read_text()
        model = model_from_urdf(
            urdf, contract.joint_names, contract.base_frame, contract.tool_frame
        )
        self.limits = arm_limits(contract, model)
        velocity, posture = self.limits.velocity, model.posture
        self.kinematics = DifferentialIK(model.model_xml, model.tool_site, velocity, posture)
        self.start_drivers()
        node = graph.node
        self.description = node.create_publisher(String, "robot_description", qos.LATCHED)
        self.description.publish(String(data=urdf))
        self.noise = np.random.default_rng(0)
        self.cameras = {
            camera: node.create_publisher(Image, camera.topic, qos.SENSOR_OUTPUT)
            for camera in contract.cameras
        }
        self.poses = node.create_publisher(
            PoseStamped, contract.end_effector_pose_topic, self.driver["poses"]
        )
        self.fingers = node.create_publisher(JointState, contract.joint_states_topic, 10)
        node.create_subscription(
            JointState, contract.joint_states_topic, self.on_joints, qos.SENSOR
        )
        node.create_timer(1 / 15, self.on_time)
        file = CONFIG / "robots" / f"{name}.yaml"
        path = str(CONFIG / "contracts" / f"{name}.yaml")
        graph.start("perception", parameters_file=file, contract=path)
        graph.start("controller", parameters_file=file, contract=path)
        self.instruction_id, self.places = 0, []
        for node_name in ("perception", "controller"):
            graph.wait_state(node_name, "active")
        self.statuses = graph.collect(PolicyStatus, "vla/status", qos.LATCHED)
        self.instructions = graph.collect(Instruction, "vla/instruction", qos.LATCHED)
        topic = f"{self.driver['arm']}/joint_trajectory"
        self.trajectories = graph.collect(JointTrajectory, topic, 10)
        kind, topic, _ = self.driver["closed"]
        self.orders = graph.collect(kind, topic, 10)
        self.latents = graph.publisher(LatentAction, "vla/latent_action", qos.RESULT)
        self.chunks = graph.publisher(ActionChunk, "vla/action_chunk", qos.RESULT)
        self.observation = None
        node.create_subscription(Observation, "vla/observation", self.on_observation, qos.LATEST)

    def start_drivers(self):
        arm = {
            "joints": list(self.contract.joint_names),
            "start": [float(value) for value in self.driver["start"]],
        }
        for robot, name, parameters in (
            ("joint_trajectory_controller", self.driver["arm"], arm),
            (*self.driver["gripper"], {}),
            *((robot, robot, {}) for robot in self.driver["more"]),
        ):
            self.graph.start_robot(robot, parameters, arguments=("-r", f"__node:={name}"))

    def on_joints(self, message):
        """The robot's own forward kinematics, of each of the arm's states."""
        if self.contract.joint_names[0] not in message.name:
            return
        place = dict(zip(message.name, message.position, strict=True))
        joints = np.array([place[name] for name in self.contract.joint_names])
        position, quaternion = self.kinematics.tool_pose(joints)
        self.places.append(position)
        pose = PoseStamped(header=message.header, pose=arrays_to_pose(position, quaternion))
        pose.header.frame_id = self.driver["frame"]
        self.poses.publish(pose)

    def on_time(self):
        now = self.graph.node.get_clock().now().to_msg()
        # As many grippers, apart from the arm and more slowly.
        fingers = JointState(
            name=list(self.contract.finger_joint_names), position=self.driver["open"]
        )
        fingers.header.stamp = now
        self.fingers.publish(fingers)
        for camera, publisher in self.cameras.items():
            # Larger than the contract's images and not square, as a camera's are.
            pixels = self.noise.integers(0, 256, (240, 320, 3), np.uint8)
            publisher.publish(array_to_image(pixels, now, camera.name))

    def on_observation(self, observation):
        """Each observation makes a chunk along x that closes the hand."""
        self.observation, contract = observation, self.contract
        if not self.instruction_id:
            return
        actions = np.zeros((contract.horizon, 7), dtype=np.float32)
        actions[:, 0] = self.driver["ahead"] * SPEED * contract.time_step
        stamp = observation.header.stamp
        self.latents.publish(LatentAction(instruction_id=self.instruction_id))
        chunk = ActionChunk(
            instruction_id=self.instruction_id,
            horizon=contract.horizon,
            action_dim=7,
            time_step=contract.time_step,
            action_names=list(contract.action_names),
            representation="delta",
            actions=actions.ravel(),
            contract_id=contract.contract_id,
            latent_stamp=stamp,
            reference_pose=observation.end_effector_pose,
        )
        chunk.header.stamp, chunk.header.frame_id = stamp, contract.base_frame
        self.chunks.publish(chunk)

    def instruct(self):
        request = SetInstruction.Request(instruction="go on", mode="act")
        answer = self.graph.call(SetInstruction, "vla/set_instruction", request)
        assert answer.success, answer.message
        self.instruction_id = answer.instruction_id


@pytest.mark.parametrize("name", list(ROBOTS))
def test_a_robot_of_shipped_files_goes_where_the_chunks_say(name):
    use_test_interfaces()
    with Graph() as graph:
        cell = Cell(graph, name)
        graph.wait(lambda: cell.observation is not None, "an observation")
        position, _ = pose_to_arrays(cell.observation.end_effector_pose)
        wanted, quaternion = cell.kinematics.tool_pose(cell.driver["start"])
        np.testing.assert_allclose(position, wanted, atol=1e-6)
        matrix = quaternion_to_matrix(quaternion)
        state = np.array(cell.observation.state)
        np.testing.assert_allclose(state[3:9], [*matrix[:, 0], *matrix[:, 1]], atol=1e-6)
        assert state[9] == pytest.approx(cell.contract.gripper_open_width)
        assert {(image.width, image.height) for image in cell.observation.images} == {(224, 224)}

        cell.instruct()
        ahead = cell.driver["ahead"]
        graph.wait(lambda: ahead * (cell.places[-1] - wanted)[0] > 0.02, "motion ahead")
        assert cell.statuses[-1].state == State.EXECUTING
        first, began = cell.places[-1], graph.node.get_clock().now()
        graph.wait(lambda: ahead * (cell.places[-1] - first)[0] > 0.06, "six centimetres")
        seconds = (graph.node.get_clock().now() - began).nanoseconds * 1e-9
        assert 0.5 < seconds * SPEED / 0.06 < 2.0
        # Straight on, as told; and nothing commanded beyond the stricter of URDF and contract.
        assert np.abs(cell.places[-1] - wanted)[1:].max() < 0.004
        points = [point for sent in cell.trajectories for point in sent.points]
        joints = np.array([point.positions for point in points])
        assert cell.trajectories[0].joint_names == list(cell.contract.joint_names)
        assert ((joints >= cell.limits.lower) & (joints <= cell.limits.upper)).all()
        speeds = np.abs([point.velocities for point in points])
        assert speeds.max() > 0.05 and (speeds <= cell.limits.velocity).all()
        _, _, closed = cell.driver["closed"]
        graph.wait(lambda: cell.orders, "an order to the gripper")
        assert cell.orders[0].data == closed


@pytest.mark.parametrize("name", ROBOTS)
def test_the_recorder_listens_to_what_its_controller_commands(name):
    parameters = yaml.safe_load((CONFIG / "robots" / f"{name}.yaml").read_text())
    recorder, controller = (
        parameters[f"/**/{node}"]["ros__parameters"] for node in ("recorder", "controller")
    )
    contract = load_contract(CONFIG / "contracts" / f"{name}.yaml")
    plans = plan_topics(contract, False, False, recorder["extra_topics"])
    topic = f"{controller['joint_trajectory']['controller']}/joint_trajectory"
    assert JointTrajectory in [plan.message_class for plan in plans if plan.name == topic]
