"""A fake robot, perception and model nodes, for the tests of the nodes that listen to them."""

from pathlib import Path

import numpy as np
from rclpy.action import ActionClient
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from vla_ros.action import ExecuteInstruction
from vla_ros.msg import ActionChunk, Instruction, LatentAction, Observation, PolicyStatus
from vla_ros.srv import SetInstruction

from vla.contract.embodiment import load_contract, state_vector
from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.robots import panda
from vla.control.session import State
from vla_nodes.core import qos
from vla_nodes.core.conversions import array_to_image, arrays_to_pose

CONTRACT_PATH = Path(__file__).parents[1] / "config" / "contracts" / "sim_panda.yaml"
CONTRACT = load_contract(CONTRACT_PATH)
LIMITS = ArmControllerConfig()
KINEMATICS = ArmController(LIMITS, CONTRACT).kinematics


def observation_of_noise(joints, stamp, generator):
    """What perception would publish with the arm at these joints, and noise in the images."""
    position, quaternion = KINEMATICS.tool_pose(joints)
    message = Observation(
        camera_names=[camera.name for camera in CONTRACT.cameras],
        state_names=list(CONTRACT.state_names),
        state=state_vector(position, quaternion, 0.08).tolist(),
        end_effector_pose=arrays_to_pose(position, quaternion),
        gripper_width=0.08,
        contract_id=CONTRACT.contract_id,
    )
    message.header.stamp = message.state_stamp = stamp
    message.header.frame_id = CONTRACT.base_frame
    for camera in CONTRACT.cameras:
        pixels = generator.integers(0, 256, (camera.height, camera.width, 3), np.uint8)
        message.images.append(array_to_image(pixels, stamp, camera.name))
    return message


class FakeRobot:
    """Robot, perception and model nodes on one timer; the streams can be cut one by one."""

    def __init__(self, graph, models=True):
        """models: False where real model nodes are there, since each topic has one publisher."""
        self.graph, self.models = graph, models
        self.joints = np.array(panda.HOME, dtype=float)
        self.commands = []
        self.widths = []
        self.instructions = graph.collect(Instruction, "vla/instruction", qos.LATCHED)
        self.statuses = graph.collect(PolicyStatus, "vla/status", qos.LATCHED)
        graph.node.create_subscription(
            JointTrajectory,
            "joint_trajectory_controller/joint_trajectory",
            self.on_command,
            # Deeper than a robot's, so that a busy test misses none.
            100,
        )
        graph.node.create_subscription(
            Float64MultiArray,
            "gripper_position_controller/commands",
            lambda message: self.widths.append(message.data[0]),
            qos.COMMAND,
        )
        self.joint_states = graph.publisher(JointState, "joint_states", qos.SENSOR_OUTPUT)
        self.observations = graph.publisher(Observation, "vla/observation", qos.LATEST)
        if models:
            self.latents = graph.publisher(LatentAction, "vla/latent_action", qos.RESULT)
            self.chunks = graph.publisher(ActionChunk, "vla/action_chunk", qos.RESULT)
        self.ticks = 0
        self.noise = np.random.default_rng(0)
        self.restore()
        graph.node.create_timer(0.01, self.tick)

    def restore(self):
        """All streams on again, with sound contents and a moving arm."""
        self.cut = set()
        self.joint_values = {}
        self.chunk_changes = {}
        self.observation_changes = {}
        self.speed = 0.05

    def on_command(self, message):
        self.commands.append(message)
        self.joints = np.array(message.points[0].positions)

    @property
    def status(self):
        return self.statuses[-1]

    @property
    def instruction_id(self):
        return self.instructions[-1].instruction_id if self.instructions else 0

    def now(self):
        return self.graph.node.get_clock().now().to_msg()

    def tick(self):
        self.ticks += 1
        if "joint_states" not in self.cut:
            values = dict(zip(CONTRACT.joint_names, self.joints, strict=True)) | self.joint_values
            message = JointState(name=list(values), position=[float(v) for v in values.values()])
            message.header.stamp = self.now()
            self.joint_states.publish(message)
        if self.ticks % 10 == 0 and "observations" not in self.cut:
            self.observations.publish(self.observation(**self.observation_changes))
        if not self.models:
            return
        if self.ticks % 20 == 0 and "latents" not in self.cut:
            self.latents.publish(LatentAction(instruction_id=self.instruction_id))
        if self.ticks % 20 == 5 and "chunks" not in self.cut:
            self.chunks.publish(self.chunk(**self.chunk_changes))

    def observation(self, **changes):
        """What perception would publish, of noise."""
        message = observation_of_noise(self.joints, self.now(), self.noise)
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    def chunk(self, **changes):
        """A chunk along +x from where the arm is."""
        actions = np.zeros((CONTRACT.horizon, 7), dtype=np.float32)
        actions[:, 0] = self.speed * CONTRACT.time_step
        message = ActionChunk(
            instruction_id=self.instruction_id,
            horizon=CONTRACT.horizon,
            action_dim=7,
            time_step=CONTRACT.time_step,
            action_names=list(CONTRACT.action_names),
            representation="delta",
            actions=actions.ravel(),
            contract_id=CONTRACT.contract_id,
        )
        message.header.stamp = message.latent_stamp = self.now()
        message.header.frame_id = CONTRACT.base_frame
        message.reference_pose = arrays_to_pose(*KINEMATICS.tool_pose(self.joints))
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    def instruct(self, text="pick the red block", mode="act"):
        request = SetInstruction.Request(instruction=text, mode=mode)
        answer = self.graph.call(SetInstruction, "vla/set_instruction", request)
        assert answer.success, answer.message
        self.graph.wait(
            lambda: self.instruction_id == answer.instruction_id, "the latched instruction"
        )
        return answer.instruction_id

    def trigger(self, service):
        return self.graph.call(Trigger, service, Trigger.Request())

    def wait_status(self, condition, what, timeout=10.0, alive=True):
        """Waits for a status from now on; alive: as in Graph.wait()."""
        self.statuses.clear()
        self.graph.wait(lambda: self.statuses and condition(self.status), what, timeout, alive)
        return self.status

    def wait_state(self, state, timeout=10.0):
        return self.wait_status(lambda status: status.state == state, state.name, timeout)

    def wait_hold(self, reason, timeout=10.0):
        return self.wait_status(
            lambda status: status.state == State.HOLDING and status.hold_reason == reason,
            reason.name,
            timeout,
        )

    def assert_still(self, cycles=10):
        """The arm comes to rest at once, and the commands of the next cycles ask for one place."""
        self.commands.clear()
        self.graph.wait(
            lambda: self.commands and not any(self.commands[-1].points[0].velocities), "rest", 0.5
        )
        self.commands.clear()
        self.graph.wait(lambda: len(self.commands) > cycles, "hold commands")
        places = np.array([command.points[0].positions for command in self.commands])
        assert np.isfinite(places).all() and np.ptp(places, axis=0).max() == 0.0

    def assert_moving(self):
        start = self.joints.copy()
        self.graph.wait(lambda: np.abs(self.joints - start).max() > 0.005, "motion")


def start_goal(robot, text="pick the red block", mode="act", timeout=0.0):
    """Sends a goal; returns its handle and the future of its result."""
    client = ActionClient(robot.graph.node, ExecuteInstruction, "vla/execute_instruction")
    robot.graph.wait(client.server_is_ready, "the action server")
    sent = client.send_goal_async(
        ExecuteInstruction.Goal(instruction=text, mode=mode, timeout=timeout)
    )
    robot.graph.wait(sent.done, "the goal's acceptance")
    handle = sent.result()
    return handle, handle.get_result_async() if handle.accepted else None


def outcome(robot, result, timeout=10.0):
    robot.graph.wait(result.done, "the goal's result", timeout)
    return result.result().result


class FakePolicy(FakeRobot):
    """Perception and models alone: the arm is a process of its own (test/robots)."""

    def __init__(self, graph):
        super().__init__(graph)
        self.places = []
        graph.node.create_subscription(JointState, "joint_states", self.on_joint_states, qos.SENSOR)

    def restore(self):
        super().restore()
        self.cut.add("joint_states")

    def on_command(self, message):
        self.commands.append(message)

    def on_joint_states(self, message):
        if set(CONTRACT.joint_names) <= set(message.name):
            by_name = dict(zip(message.name, message.position, strict=True))
            self.joints = np.array([by_name[name] for name in CONTRACT.joint_names])
            self.places.append(self.joints)

    @property
    def tool_x(self):
        return KINEMATICS.tool_pose(self.joints)[0][0]
