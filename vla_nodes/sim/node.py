"""Node `sim`: a simulated Franka at a table, in place of the robot's drivers.

Physics runs in its own thread, paced by the steady clock, and publishes /clock itself, so this node
alone never reads simulated time. Simulated time starts at the wall clock's time: after a restart it
goes forwards, and the other nodes need no notice. Rendering happens in the physics thread: two
images of 96 pixels take about 4 ms, less than one slice of physics.
"""

from __future__ import annotations

import array
import threading
import time
from collections import deque

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory
from vla_ros.msg import Instruction, SceneState
from vla_ros.srv import CheckTask, ResetScene

from vla.control.robots import panda
from vla.envs.tabletop.frames import BASE_FRAME, optical_frame
from vla.envs.tabletop.simulator import CAMERAS, TableTopSimulator
from vla.envs.tabletop.tasks import SCENE_FAMILIES
from vla.observations.messages import NANOSECONDS
from vla_nodes.core import qos
from vla_nodes.core.conversions import (
    array_to_image,
    arrays_to_pose,
    camera_info,
    nanoseconds_to_stamp,
)
from vla_nodes.core.diagnostics import percentiles
from vla_nodes.core.node import ManagedNode, Setting
from vla_nodes.core.pacing import PacedLoop
from vla_nodes.core.running import run
from vla_nodes.sim.frames import SceneFrames
from vla_nodes.sim.trajectory import Follower, Trajectory, read_trajectory
from vla_nodes.sim.trajectory_server import MONITOR_PERIOD, TrajectoryServer

CONTROLLER = "joint_trajectory_controller"
SLICE = 0.01
STATE_PERIOD = 10
JOINTS = [*panda.ARM_JOINTS, *panda.FINGER_JOINTS]
WIDTH_TOLERANCE = 0.005
# For this long after a reset [s], commands may arrive that were computed for where the arm was.
RESET_ECHO = 1.0


class Sim(ManagedNode):
    """Steps the table-top simulator in real time and publishes its state."""

    SETTINGS = (
        Setting("camera_rate", 20.0, "Images per second of each camera [Hz].", bounds=(1.0, 50.0)),
        Setting("camera_size", 96, "Side of the square camera images [px].", bounds=(16, 960)),
        Setting("seed", 0, "Seed of the scene at activation.", bounds=(0, 2**32 - 1)),
        Setting(
            "family", "pick", "Task family of the scene at activation.", choices=SCENE_FAMILIES
        ),
    )

    TASK = "simulation"

    def hardware_id(self) -> str:
        """The simulated arm, by the name of its contract."""
        return "sim_panda"

    def __init__(self) -> None:
        super().__init__("sim")
        self._lock = threading.Lock()
        self._fingers = np.zeros(2)
        self._loop: PacedLoop | None = None
        self._goals: TrajectoryServer | None = None
        self._time = 0
        self._reset_at = 0
        self._steps: deque[float] = deque(maxlen=500)
        self._joints_message = JointState(name=JOINTS)
        self.diagnostics.checks.append(self._report_speed)

    def configure(self) -> None:
        """Builds the scene's model and the outputs."""
        if self.get_parameter("use_sim_time").value:
            self.get_logger().warning("the simulator makes the time: use_sim_time is switched off")
            self.set_parameters([Parameter("use_sim_time", value=False)])
        self._simulator = TableTopSimulator(self.settings["camera_size"])
        self.cleanups.callback(delattr, self, "_simulator")
        self._follower = Follower(panda.JOINT_MAX_VELOCITY)
        publisher = self.create_lifecycle_publisher
        self._clock_output = publisher(Clock, "clock", qos.SENSOR_OUTPUT)
        self._joints_output = publisher(JointState, "joint_states", qos.SENSOR_OUTPUT)
        self._pose_output = publisher(PoseStamped, "end_effector_pose", qos.SENSOR_OUTPUT)
        self._state_output = publisher(SceneState, "sim/state", qos.SENSOR_OUTPUT)
        self._frames = SceneFrames(self, self._simulator)
        self._camera_outputs = {
            name: (
                publisher(Image, f"camera/{name}/image_raw", qos.IMAGE_OUTPUT),
                publisher(CameraInfo, f"camera/{name}/camera_info", qos.IMAGE_OUTPUT),
            )
            for name in CAMERAS
        }
        try:
            self._goals = TrajectoryServer(
                self,
                f"{CONTROLLER}/follow_joint_trajectory",
                panda.ARM_JOINTS,
                self._read_goal,
                self._follow,
                self._hold,
                self._arm_state,
            )
        except ValueError as error:
            # The topic serves as well; nothing is wrong with a machine that has no control_msgs.
            self.get_logger().info(f"no action {CONTROLLER}/follow_joint_trajectory: {error}")

    def activate(self) -> None:
        """Lays out the scene of the seed parameter and starts physics."""
        self._time = max(self._time, time.time_ns())
        self._reset(self.settings["seed"], self.settings["family"])
        self._slices = 0
        self._camera_period = max(1, round(1.0 / (self.settings["camera_rate"] * SLICE)))
        # A rendering context can only be closed in the thread that uses it.
        self._loop = PacedLoop(
            "physics",
            SLICE,
            self._advance,
            self._on_failure,
            setup=self._warm_up,
            teardown=self._simulator.close,
            catch_up=True,
        )
        self._loop.start()
        self.create_subscription(
            JointTrajectory,
            f"{CONTROLLER}/joint_trajectory",
            self._on_trajectory,
            qos.COMMAND,
        )
        self.create_subscription(
            Float64MultiArray,
            "gripper_position_controller/commands",
            self._on_gripper,
            qos.COMMAND,
        )
        self._instruction = 0
        self.create_subscription(Instruction, "vla/instruction", self._on_instruction, qos.LATCHED)
        self.create_service(ResetScene, "sim/reset_scene", self._on_reset_scene)
        self.create_service(CheckTask, "sim/check_task", self._on_check_task)
        if self._goals is not None:
            self.create_steady_timer(MONITOR_PERIOD, self._goals.tick)

    def deactivate(self) -> None:
        """Stops physics; simulated time stands still."""
        self._preempt("the simulation stops")
        if self._loop is not None:
            self._loop.stop()
        self._loop = None

    def cleanup(self) -> None:
        """Takes the action off the graph."""
        if self._goals is not None:
            self._goals.destroy()
        self._goals = None

    # Physics thread

    def _warm_up(self) -> None:
        for name in CAMERAS:
            self._simulator.render(name)

    def _on_failure(self, error: Exception) -> None:
        text = f"the simulation has stopped: {error}"
        self.diagnostics.fault(text)
        self.get_logger().error(text)

    def _advance(self) -> None:
        """One slice of physics and everything that is due after it."""
        started = time.perf_counter()
        simulator = self._simulator
        with self._lock:
            self._time += round(SLICE * NANOSECONDS)
            target = self._follower.advance(self._time / NANOSECONDS, SLICE)
            simulator.command(target, self._width)
            simulator.step(SLICE)
            stamp = nanoseconds_to_stamp(self._time)
            joints = np.concatenate([simulator.joint_positions, simulator.finger_positions])
            velocities = np.append(simulator.joint_velocities, (joints[7:] - self._fingers) / SLICE)
            self._fingers = joints[7:]
            pose = arrays_to_pose(*simulator.end_effector_pose())
            state = self._scene_state(stamp) if self._slices % STATE_PERIOD == 0 else None
            self._frames.read(stamp, with_scene=state is not None)
        self._clock_output.publish(Clock(clock=stamp))
        self._publish_joints(stamp, joints, velocities)
        message = PoseStamped(pose=pose)
        message.header.stamp, message.header.frame_id = stamp, BASE_FRAME
        self._pose_output.publish(message)
        self._frames.send()
        if state is not None:
            self._state_output.publish(state)
        self._steps.append(time.perf_counter() - started)
        if self._slices % self._camera_period == 0:
            self._publish_cameras(stamp)
        self._slices += 1

    def _scene_state(self, stamp) -> SceneState:
        state = SceneState(seed=self._seed, family=self._family)
        state.header.stamp, state.header.frame_id = stamp, BASE_FRAME
        state.qpos = array.array("d", self._simulator.qpos)
        return state

    def _publish_joints(self, stamp, positions: np.ndarray, velocities: np.ndarray) -> None:
        message = self._joints_message
        message.header.stamp = stamp
        message.position = array.array("d", positions)
        message.velocity = array.array("d", velocities)
        self._joints_output.publish(message)

    def _publish_cameras(self, stamp) -> None:
        started = time.perf_counter()
        size = self._simulator.camera_size
        with self._lock:
            images = {name: self._simulator.render(name) for name in CAMERAS}
        for name, pixels in images.items():
            image_output, info_output = self._camera_outputs[name]
            frame = optical_frame(name)
            image_output.publish(array_to_image(pixels, stamp, frame))
            matrix = self._simulator.camera_matrix(name)
            info_output.publish(camera_info(matrix, size, size, stamp, frame))
        self.diagnostics.output(time.perf_counter() - started)

    # Callbacks

    def _on_trajectory(self, message: JointTrajectory) -> None:
        try:
            trajectory = self._read(message)
        except ValueError as error:
            self._refuse("joint trajectory", error)
            return
        if self._is_from_before(trajectory):
            return
        self._preempt("replaced by a trajectory on the topic")
        self._follow(trajectory)

    def _read(self, message: JointTrajectory) -> Trajectory:
        return read_trajectory(
            message, panda.ARM_JOINTS, panda.JOINT_LOWER, panda.JOINT_UPPER, self._time
        )

    def _read_goal(self, message: JointTrajectory) -> Trajectory:
        if not self.is_active:
            raise ValueError("the simulation does not run: activate the node")
        try:
            trajectory = self._read(message)
        except ValueError as error:
            self._refuse("joint trajectory", error)
            raise
        if self._is_from_before(trajectory):
            raise ValueError("it begins where the arm was before the scene was reset")
        return trajectory

    def _is_from_before(self, trajectory: Trajectory) -> bool:
        """Whether it was computed before the sender knew of a reset, and would undo that."""
        with self._lock:
            if self._time - self._reset_at > RESET_ECHO * NANOSECONDS:
                return False
            return not self._follower.begins_here(trajectory, self._time / NANOSECONDS)

    def _follow(self, trajectory: Trajectory) -> None:
        with self._lock:
            self._follower.follow(trajectory, self._time / NANOSECONDS)

    def _preempt(self, why: str) -> None:
        if self._goals is not None:
            self._goals.preempt(why)

    def _hold(self) -> None:
        with self._lock:
            self._follower.reset(self._follower.target)

    def _arm_state(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Simulated time [s], commanded and measured joints [7]."""
        with self._lock:
            joints = self._simulator.joint_positions.copy()
            return self._time / NANOSECONDS, self._follower.target, joints

    def _on_gripper(self, message: Float64MultiArray) -> None:
        lowest, highest = -WIDTH_TOLERANCE, panda.OPEN_WIDTH + WIDTH_TOLERANCE
        # Written so that NaN is outside too.
        if len(message.data) != 1 or not lowest <= message.data[0] <= highest:
            self._refuse(
                "gripper command",
                ValueError(
                    f"data is {list(message.data)}; expected one opening between the fingers from "
                    f"0 to {panda.OPEN_WIDTH:g} m"
                ),
            )
            return
        with self._lock:
            self._width = message.data[0]

    def _refuse(self, what: str, error: ValueError) -> None:
        self._preempt("another command was refused, and the arm holds")
        self._hold()
        self.diagnostics.report("refused_command", f"refused a {what}, the arm holds: {error}")

    def _on_instruction(self, message: Instruction) -> None:
        """The lamp of a scene of the family `recall` lights up when an instruction is given."""
        if message.instruction_id not in (0, self._instruction):
            with self._lock:
                simulator = self._simulator
                simulator.recall.cue(simulator.task.target, simulator.time)
        self._instruction = message.instruction_id

    def _on_reset_scene(
        self, request: ResetScene.Request, response: ResetScene.Response
    ) -> ResetScene.Response:
        try:
            task = self._reset(request.seed, request.family)
        except ValueError as error:
            response.message = str(error)
            return response
        response.success = True
        response.instruction, response.task = task.instruction, task.text()
        response.objects = self._simulator.objects()
        return response

    def _on_check_task(
        self, request: CheckTask.Request, response: CheckTask.Response
    ) -> CheckTask.Response:
        with self._lock:
            simulator = self._simulator
            try:
                task = simulator.parse_task(request.task) if request.task else simulator.task
            except ValueError as error:
                response.message = str(error)
                return response
            status = simulator.check(task)
            response.elapsed = simulator.time
        response.valid = True
        response.success, response.wrong_object = status.success, status.wrong_object
        return response

    def _reset(self, seed: int, family: str):
        if family not in SCENE_FAMILIES:
            raise ValueError(f"unknown task family '{family}'; known: {', '.join(SCENE_FAMILIES)}")
        self._preempt("the scene was reset")
        with self._lock:
            task = self._simulator.reset(seed, family)
            self._follower.reset(self._simulator.joint_positions)
            self._reset_at = self._time
            self._width = panda.OPEN_WIDTH
            self._fingers = self._simulator.finger_positions
            self._seed, self._family = seed, family
            self._frames.announce(nanoseconds_to_stamp(self._time))
        self.get_logger().info(f"scene {seed}: {task.text()}")
        return task

    def _report_speed(self) -> None:
        if not self.is_active or self._loop is None:
            return
        values = self.diagnostics.values
        values["real_time_factor"] = f"{self._loop.real_time_factor():.3f}"
        values |= percentiles("step", list(self._steps))


def main() -> int:
    """Runs the node."""
    return run(Sim)
