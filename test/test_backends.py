"""Every backend through the whole controller, over DDS, with a fake robot as a process."""

import time

import numpy as np
import pytest
from fake_robot import CONTRACT_PATH, FakePolicy
from node_harness import Graph, use_test_interfaces

from vla.control.loop import RELEASE_TIME
from vla.control.robots import panda
from vla.control.session import HoldReason, State
from vla_nodes.backends.moveit_servo import COMMAND_TIMEOUT

pytestmark = pytest.mark.nodes

ARM = {"joints": list(panda.ARM_JOINTS), "start": panda.HOME.tolist()}
KINDS = {
    "topic": ("joint_trajectory_controller", ARM, {"backend": "joint_trajectory"}),
    "action": (
        "joint_trajectory_controller",
        ARM,
        {"backend": "joint_trajectory", "joint_trajectory.interface": "action"},
    ),
    "pose": ("servo", {}, {"backend": "moveit_servo"}),
    "twist": ("servo", {}, {"backend": "moveit_servo", "moveit_servo.command": "twist"}),
    "unitless": (
        "servo",
        {"units": "unitless"},
        {
            "backend": "moveit_servo",
            "moveit_servo.command": "twist",
            "moveit_servo.linear_scale": 0.4,
            "moveit_servo.angular_scale": 0.8,
        },
    ),
    "cartesian": ("cartesian_controller", {}, {"backend": "cartesian_pose"}),
}
NODES = {"servo": "servo_node"}


class Setup:
    """A graph with a controller and one fake robot."""

    def __init__(self, graph, kind):
        self.graph = graph
        self.robot, faults, parameters = KINDS[kind]
        self.node = NODES.get(self.robot, self.robot)
        self.process = graph.start_robot(self.robot, parameters=faults)
        graph.start("controller", contract=str(CONTRACT_PATH), parameters=parameters)
        graph.wait_state("controller", "active")
        self.policy = FakePolicy(graph)

    def faults(self, **values):
        self.graph.set_parameters(self.node, **values)

    def start_moving(self):
        self.policy.instruct()
        start = self.policy.tool_x
        self.graph.wait(lambda: self.policy.tool_x > start + 0.01, "motion along +x")


@pytest.fixture
def setup(request):
    use_test_interfaces()
    with Graph() as graph:
        yield Setup(graph, request.param)


def rest(setup):
    """Waits until the last twenty joint states are the same, and returns the tool's x."""
    places = setup.policy.places
    places.clear()

    def at_rest():
        newest = places[-20:]
        return len(newest) == 20 and np.ptp(newest, axis=0).max() < 1e-5

    setup.graph.wait(at_rest, "the arm at rest", 5.0)
    return setup.policy.tool_x


@pytest.mark.parametrize("setup", list(KINDS), indirect=True)
def test_the_arm_goes_where_the_chunks_say_and_stops(setup):
    policy = setup.policy
    setup.start_moving()
    height = policy.joints.copy()
    assert policy.wait_state(State.EXECUTING).message == ""
    first, at = policy.tool_x, setup.graph.node.get_clock().now()
    setup.graph.wait(lambda: policy.tool_x > first + 0.05, "five centimetres")
    seconds = (setup.graph.node.get_clock().now() - at).nanoseconds * 1e-9
    # The chunks ask for 5 cm/s, each from where the arm was when it was made.
    assert 0.5 < seconds < 3.0
    policy.trigger("vla/stop")
    place = rest(setup)
    assert place - first < 0.12
    assert np.abs(policy.joints - height).max() < 0.5


@pytest.mark.parametrize("setup", list(KINDS), indirect=True)
def test_a_robot_that_vanishes_makes_the_policy_hold_and_say_so(setup):
    setup.start_moving()
    setup.process.kill()
    status = wait_hold(setup, HoldReason.BACKEND, HoldReason.STALE_STATE)
    assert "is" in status.message and "?" in status.message


def wait_hold(setup, *reasons):
    """Waits for a status that tells of a hold for one of the reasons, or for any if none given."""

    def holds(status):
        return status.state == State.HOLDING and (not reasons or status.hold_reason in reasons)

    names = " or ".join(reason.name for reason in reasons)
    return setup.policy.wait_status(holds, f"HOLDING {names}", 5.0, alive=False)


@pytest.mark.parametrize("setup", ["action"], indirect=True)
def test_a_controller_that_refuses_or_aborts_is_told_of_and_tried_again(setup):
    setup.start_moving()
    for fault, words in (("refuse", "rejected"), ("abort", "path tolerance violated")):
        setup.faults(**{fault: True})
        assert words in wait_hold(setup).message
        setup.faults(**{fault: False})
        setup.policy.wait_state(State.EXECUTING)


@pytest.mark.parametrize("setup", ["topic"], indirect=True)
def test_two_who_command_one_arm_are_refused(setup):
    from trajectory_msgs.msg import JointTrajectory

    setup.start_moving()
    topic = "joint_trajectory_controller/joint_trajectory"
    other = setup.graph.node.create_publisher(JointTrajectory, topic, 1)
    assert "another program publishes" in wait_hold(setup).message
    setup.graph.node.destroy_publisher(other)
    setup.policy.wait_state(State.EXECUTING)


@pytest.mark.parametrize("setup", ["pose", "twist"], indirect=True)
def test_a_halt_of_servo_stops_the_policy_until_a_person_resumes(setup):
    setup.start_moving()
    wall = setup.policy.tool_x + 0.02
    setup.faults(halt_x=wall)
    status = setup.policy.wait_state(State.STOPPED)
    assert "halted before a collision" in status.message
    assert setup.policy.tool_x < wall + 1e-3
    setup.faults(halt_x=10.0)
    # Servo repeats its last status, which counts as the answer to commands until none has gone out
    # for a while: an operator takes longer than that to resume.
    silent_at = time.monotonic() + RELEASE_TIME + 2 * COMMAND_TIMEOUT
    setup.graph.wait(lambda: time.monotonic() > silent_at, "silence of the controller")
    assert setup.policy.trigger("vla/resume").success
    setup.policy.wait_state(State.EXECUTING)


@pytest.mark.parametrize("setup", ["pose"], indirect=True)
def test_servo_that_starts_again_is_told_the_command_type_again(setup):
    setup.start_moving()
    setup.process.kill()
    setup.process.process.wait()
    wait_hold(setup)
    setup.graph.processes.remove(setup.process)
    setup.graph.start_robot("servo")
    start = setup.policy.tool_x
    setup.policy.wait_state(State.EXECUTING)
    setup.graph.wait(lambda: abs(setup.policy.tool_x - start) > 0.01, "motion")


@pytest.mark.parametrize("backend", ["moveit_servo", "joint_trajectory"])
def test_a_missing_interface_package_is_named_and_the_node_stays(backend, monkeypatch):
    monkeypatch.setenv("AMENT_PREFIX_PATH", without_tests("AMENT_PREFIX_PATH"))
    monkeypatch.setenv("PYTHONPATH", without_tests("PYTHONPATH"))
    package = {"moveit_servo": "moveit_msgs", "joint_trajectory": "control_msgs"}[backend]
    with Graph() as graph:
        graph.start(
            "controller",
            parameters={"backend": backend, "joint_trajectory.interface": "action"},
        )
        words = f"{package} is not installed"
        status = graph.wait_diagnostic("controller", lambda status: words in status.message)
        assert "ros-jazzy-" in status.message
        assert graph.state("controller") == "unconfigured"


def without_tests(variable):
    import os

    parts = os.environ.get(variable, "").split(os.pathsep)
    return os.pathsep.join(part for part in parts if "install_test" not in part)
