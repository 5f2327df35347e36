"""Faults of nodes, robots and people, on the real processes over DDS.

The arm is a fake joint_trajectory_controller, Servo or the simulator, each a process of its own.
Time to hold counts to the last command that moves, or, where the controller itself is gone or
speaks another interface, to the last joint state that does.
"""

import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fake_robot import CONTRACT_PATH, KINEMATICS, LIMITS, FakePolicy
from fault_report import FaultReport, excess_of, judge, time_to_hold
from motion_watch import JOINTS, PERIOD, Watch
from node_harness import ROOT, Graph, use_test_interfaces
from sensor_msgs.msg import Image
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from vla_ros.msg import Instruction, PolicyStatus
from vla_ros.srv import ResetScene, SetInstruction

from vla.control.robots import panda
from vla.control.session import HoldReason, State
from vla_nodes.core import qos
from vla_nodes.core.conversions import array_to_image

pytestmark = [pytest.mark.nodes, pytest.mark.faults]

CHECKPOINT = ROOT / "checkpoints" / "nano"


class Case:
    """A graph with a controller at 100 Hz, a fake robot, and a policy that moves the arm."""

    def __init__(self, graph, robot="joint_trajectory_controller", faults=None, robots=(), **more):
        self.graph, self.robot = graph, robot
        arm = {"joints": list(panda.ARM_JOINTS), "start": panda.HOME.tolist()}
        faults = faults or (arm if robot == "joint_trajectory_controller" else {})
        self.process = graph.start_robot(robot, parameters=faults)
        self.others = {name: graph.start_robot(name) for name in robots}
        self.controller = graph.start(
            "controller",
            contract=str(CONTRACT_PATH),
            control_rate=1.0 / PERIOD,
            parameters=more,
        )
        graph.wait_state("controller", "active")
        self.policy = FakePolicy(graph)
        self.watch = Watch(graph)

    def start_moving(self):
        self.policy.speed = 0.1
        self.policy.instruct()
        start = self.policy.tool_x
        self.graph.wait(lambda: self.policy.tool_x > start + 0.03, "motion along +x")

    def settle(self, seconds=0.8):
        end = time.monotonic() + seconds
        self.graph.wait(lambda: time.monotonic() > end, "time", alive=False)

    def finish(self, case, since, at, commands=True, holds=True):
        """Judges the motion; at [s]: when the fault was."""
        motion = self.watch.motion() if self.watch.commands else None
        over = excess_of(motion, JOINTS, LIMITS.safety, KINEMATICS) if motion else {}
        hold = time_to_hold(motion, at) if commands else self.watch.measured_hold(at)
        status = self.policy.status
        state = State(status.state).name.lower()
        if status.hold_reason:
            state += f", {HoldReason(status.hold_reason).name.lower()}"
        judge(FaultReport(case, over, hold if holds else None, since, state))


@pytest.fixture
def make():
    use_test_interfaces()
    with Graph() as graph:
        yield partial(Case, graph)


def test_an_answer_to_the_instruction_before_arrives(make):
    case = make()
    case.start_moving()
    old = case.policy.instruction_id
    case.policy.cut.add("chunks")
    at = time.monotonic()
    case.policy.instruct("open the drawer")
    for _ in range(5):
        case.policy.chunks.publish(case.policy.chunk(instruction_id=old))
        case.settle(0.05)
    case.settle()
    assert case.policy.status.state == State.WAITING
    assert case.policy.status.chunks_rejected >= 5
    case.finish("chunks of the instruction before", "the new instruction", at)


@pytest.mark.parametrize(
    ("name", "fault", "words"),
    [
        ("backend refuses goals", {"refuse": True}, "rejected a trajectory"),
        ("backend aborts a goal", {"abort": True}, "path tolerance violated"),
    ],
)
def test_a_backend_that_refuses(make, name, fault, words):
    case = make(**{"joint_trajectory.interface": "action"})
    case.start_moving()
    case.graph.set_parameters("joint_trajectory_controller", **fault)
    # The answer to the last goal that was sent before may still be on its way.
    at = time.monotonic()
    status = case.policy.wait_status(lambda s: words in s.message, words)
    assert status.hold_reason == HoldReason.BACKEND
    case.settle()
    case.finish(name, "the fault in the robot", at, commands=False)


def test_a_backend_that_vanishes(make):
    case = make()
    case.start_moving()
    at = time.monotonic()
    case.process.kill()
    case.settle(1.2)
    assert case.policy.status.state == State.HOLDING
    case.finish("backend vanishes", "the death of its process", at)


def test_somebody_else_commands_the_arm(make):
    case = make()
    case.start_moving()
    topic = "joint_trajectory_controller/joint_trajectory"
    case.graph.node.create_publisher(JointTrajectory, topic, 1)
    at = time.monotonic()
    case.settle(1.2)
    assert "another program publishes" in case.policy.status.message
    case.finish("two who command one arm", "the second one's coming", at)


@pytest.mark.parametrize(
    ("name", "fault", "words"),
    [
        ("Servo halts before a collision", "halt_x", "before a collision"),
        ("Servo halts near a singularity", "singular_z", "near a singularity"),
    ],
)
def test_servo_halts(make, name, fault, words):
    case = make("servo", backend="moveit_servo")
    case.start_moving()
    case.graph.set_parameters("servo_node", **{fault: -1.0})
    at = time.monotonic()
    status = case.policy.wait_state(State.STOPPED)
    assert words in status.message
    case.settle()
    case.finish(name, "the halt", at, commands=False)


def test_the_gripper_is_stuck(make):
    case = make(robots=["franka_gripper"], gripper="franka", **{"franka_gripper.timeout": 0.5})
    case.policy.speed = 0.1
    case.graph.set_parameters("franka_gripper", stuck=True)
    case.policy.instruct()
    case.graph.wait(
        lambda: "gripper has not finished" in case.policy.status.message, "the stuck gripper"
    )
    at = time.monotonic()
    case.settle()
    assert case.policy.status.hold_reason == HoldReason.BACKEND
    case.finish("gripper stuck", "the end of its time", at)


def test_the_gripper_vanishes(make):
    case = make(robots=["franka_gripper"], gripper="franka")
    case.start_moving()
    at = time.monotonic()
    case.others["franka_gripper"].kill()
    case.graph.wait(
        lambda: "no gripper behind" in case.policy.status.message, "the lost gripper", alive=False
    )
    # Action servers that died are noticed when the middleware's lease ends.
    noticed = time.monotonic()
    case.settle()
    assert noticed - at < 25.0
    case.finish("gripper's driver vanishes", "the middleware's word", noticed)


def test_a_franka_stops_itself_in_a_reflex_and_recovers(make):
    case = make(robots=["franka_robot"], monitor="franka")
    case.start_moving()
    case.graph.set_parameters("franka_robot", mode=4)
    at = time.monotonic()
    status = case.policy.wait_state(State.STOPPED)
    assert "reflex" in status.message
    case.settle()
    case.finish("the robot stops itself in a reflex", "the reflex", at)
    assert case.policy.trigger("vla/recover").success
    # The arm holds until the recovery is over, and goes on then.
    assert case.policy.trigger("vla/resume").success
    case.policy.wait_state(State.EXECUTING)


def test_an_emergency_stop_before_during_and_after_motion(make):
    case = make()
    policy = case.policy
    assert policy.trigger("vla/emergency_stop").success
    at = time.monotonic()
    request = SetInstruction.Request(instruction="pick the red block")
    answer = case.graph.call(SetInstruction, "vla/set_instruction", request)
    assert not answer.success and "reset_emergency_stop" in answer.message
    assert not policy.trigger("vla/resume").success
    case.settle(0.5)
    assert policy.status.state == State.EMERGENCY_STOPPED and not case.watch.commands
    judge(FaultReport("emergency stop before motion", {}, 0.0, "the stop", "emergency_stopped"))
    assert policy.trigger("vla/reset_emergency_stop").success
    assert policy.wait_state(State.IDLE)

    case.start_moving()
    button = case.graph.publisher(Bool, "vla/emergency_stop_button", qos.COMMAND)
    at = time.monotonic()
    button.publish(Bool(data=True))
    policy.wait_state(State.EMERGENCY_STOPPED)
    case.settle()
    case.finish("emergency stop by the button during motion", "the button", at)
    # Chunks go on coming, the button is let go: nothing moves until somebody resets.
    button.publish(Bool(data=False))
    place = policy.joints
    case.settle(0.5)
    assert np.abs(policy.joints - place).max() < 1e-6
    judge(FaultReport("emergency stop stays", {}, 0.0, "the stop", "emergency_stopped"))
    assert policy.trigger("vla/reset_emergency_stop").success
    case.settle(0.3)
    assert np.abs(policy.joints - place).max() < 1e-6, "a reset alone moves nothing"
    policy.instruct()
    policy.wait_state(State.EXECUTING)


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("controller killed", lambda case: case.controller.kill()),
        ("controller told to end", lambda case: case.controller.stop(signal.SIGINT)),
        ("controller deactivated", lambda case: case.graph.transition("controller", "deactivate")),
    ],
)
def test_the_controller_ends_in_mid_motion(make, name, action):
    case = make()
    case.start_moving()
    at = time.monotonic()
    action(case)
    case.settle(1.0)
    case.finish(name, "its end", at, commands=False)
    # The arm itself comes to rest within its limits, led by the last command alone.
    times, places = np.array(case.watch.stamps), np.array([p for _, p in case.watch.states])
    speed = np.abs(np.diff(places, axis=0)) / np.maximum(np.diff(times), 0.005)[:, None]
    assert (speed <= JOINTS.velocity).all()
    last = places[times > times[-1] - 0.3]
    assert np.ptp(last, axis=0).max() < 1e-4


def test_nodes_killed_one_by_one():
    """In one graph of the shipped policy, where each is started again before the next is killed."""
    use_test_interfaces()
    with Graph() as graph:
        running = graph.start_with_policy(CHECKPOINT, control_rate=1.0 / PERIOD)
        watch = Watch(graph)
        statuses = graph.collect(PolicyStatus, "vla/status", qos.LATCHED)
        graph.collect(Instruction, "vla/instruction", qos.LATCHED)
        # Without the simulator there is nothing to start again for.
        for name in ("perception", "reasoning", "action_expert", "sim"):
            move(graph, watch)
            at = time.monotonic()
            running[name].kill()
            end = at + 1.5
            # Whether it held in time is judged by its commands; its status may be heard late.
            graph.wait(
                lambda end=end: time.monotonic() > end and statuses[-1].state == State.HOLDING,
                "hold",
                alive=False,
            )
            over = excess_of(watch.motion(), JOINTS, LIMITS.safety, KINEMATICS)
            hold, said = time_to_hold(watch.motion(), at), statuses[-1].message
            judge(FaultReport(f"{name} killed", over, hold, "its death", said))
            graph.processes.remove(running[name])
            if name != "sim":
                given = {} if name == "perception" else {"checkpoint": str(CHECKPOINT)}
                running[name] = graph.start(name, parameters={"use_sim_time": True} | given)
                graph.wait_state(name, "active", 60.0)


def move(graph, watch: Watch) -> None:
    """Has the policy move the arm of a new scene. watch: forgets what was commanded before."""
    assert graph.call(Trigger, "vla/stop", Trigger.Request()).success
    request = ResetScene.Request(seed=0, family="pick")
    scene = graph.call(ResetScene, "sim/reset_scene", request)
    watch.commands.clear()

    def moves():
        recent = watch.commands[-10:]
        return len(recent) == 10 and all(
            np.abs(point.velocities).max() > 0.05 for _, point, _ in recent
        )

    request = SetInstruction.Request(instruction=scene.instruction)
    assert graph.call(SetInstruction, "vla/set_instruction", request).success
    graph.wait(moves, "motion", 30.0)


def test_a_camera_is_frozen_with_fresh_stamps():
    """The images of one camera pass through here, and stop to change in mid-motion."""
    with Graph() as graph:
        contract = ROOT / "config" / "contracts" / "sim_panda.yaml"
        text = contract.read_text().replace("camera/front/image_raw", "relayed/front")
        file = graph_file(graph, text)
        graph.start("sim")
        for name in ("perception", "controller"):
            graph.start(name, contract=str(file), use_sim_time=True)
        kept = {}

        def relay(message):
            if "frozen" in kept:
                pixels = kept["frozen"]
                message = array_to_image(pixels, message.header.stamp, message.header.frame_id)
            else:
                kept["last"] = np.array(message.data, np.uint8).reshape(96, 96, 3)
            output.publish(message)

        output = graph.publisher(Image, "relayed/front", qos.SENSOR_OUTPUT)
        graph.node.create_subscription(Image, "camera/front/image_raw", relay, qos.SENSOR)
        graph.wait_state("controller", "active")
        graph.wait_state("perception", "active")
        graph.wait(lambda: "last" in kept, "an image")
        kept["frozen"] = kept["last"]
        # The arm is moved by hand, so to speak: the trajectory does not come from the policy.
        arm = graph.publisher(
            JointTrajectory, "joint_trajectory_controller/joint_trajectory", qos.COMMAND, 1
        )
        message = JointTrajectory(joint_names=list(panda.ARM_JOINTS))
        point = JointTrajectoryPoint(positions=(panda.HOME + 0.15).tolist())
        point.time_from_start.sec = 1
        message.points = [point]
        arm.publish(message)
        status = graph.wait_diagnostic("perception", lambda s: "image again and again" in s.message)
        assert "camera 'front'" in status.message and "restart its driver" in status.message
        judge(FaultReport(
            "camera frozen with fresh stamps", {}, 0.0,
            "the motion that does not show", "observations stop, see there",
        ))  # fmt: skip


def graph_file(graph, text):
    path = Path(graph._folder.name) / "contract.yaml"
    path.write_text(text)
    return path
