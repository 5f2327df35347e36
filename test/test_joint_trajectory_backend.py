"""What the backend joint_trajectory sends, and what a joint trajectory controller makes of it."""

import numpy as np
import pytest
from fake_robot import CONTRACT_PATH, KINEMATICS, FakePolicy
from node_harness import Graph, use_test_interfaces
from rclpy.qos import QoSProfile

from vla.control.command import ArmCommand, StoppingMotion
from vla.control.robots import panda
from vla.control.session import State
from vla_nodes.backends.joint_trajectory import TrajectoryMessages

PERIOD = 0.005
NAMES = ["a", "b"]


def command(velocities, times=(), positions=(0.5, -0.5)):
    """A command of two joints with a way to rest that ends at (1, -1)."""
    count = len(times)
    stop = StoppingMotion(
        np.array(times, dtype=float),
        np.linspace(positions, (1.0, -1.0), count + 1)[1:] if count else np.zeros((0, 2)),
        np.linspace(velocities, (1e-9, 1e-9), count + 1)[1:] if count else np.zeros((0, 2)),
    )
    place, speed = np.array(positions), np.array(velocities)
    none = np.zeros(3)
    return ArmCommand(
        place, speed, np.zeros(2), none, np.array([0.0, 0.0, 0.0, 1.0]), np.zeros(6), 0.08, stop,
        True, False, 0.1,
    )  # fmt: skip


def seconds(message):
    """When the points are due [s]."""
    return [p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in message.points]


def assert_acceptable(message):
    """What a joint trajectory controller demands by default."""
    assert message.header.stamp.sec == message.header.stamp.nanosec == 0
    assert list(message.joint_names) == NAMES
    assert (np.diff(seconds(message)) > 0).all()
    assert not any(message.points[-1].velocities)
    assert all(len(p.positions) == len(p.velocities) == 2 for p in message.points)


def test_the_way_to_rest_follows_the_command():
    times = 0.2 * (np.arange(1, 9) / 8) ** 1.5
    message = TrajectoryMessages(NAMES, PERIOD).of(command((0.3, -0.3), times))
    assert_acceptable(message)
    assert seconds(message) == pytest.approx([PERIOD, *(PERIOD + times[1::2])], abs=1e-9)
    assert message.points[0].positions.tolist() == [0.5, -0.5]
    assert message.points[0].velocities.tolist() == [0.3, -0.3]
    assert message.points[-1].positions.tolist() == [1.0, -1.0]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("duration", [1e-9, 3e-8, 1e-5, 2e-4, 0.01, 1.5])
def test_the_shortest_and_the_longest_stop_are_acceptable(count, duration):
    times = duration * (np.arange(1, count + 1) / count) ** 1.5
    message = TrajectoryMessages(NAMES, PERIOD).of(command((0.3, -0.3), times))
    assert_acceptable(message)
    assert message.points[-1].positions.tolist() == [1.0, -1.0]
    assert seconds(message)[-1] == pytest.approx(PERIOD, abs=1e-8 + duration)


def test_an_arm_at_rest_is_sent_to_one_point_without_any_speed():
    # Below what counts as motion, but more than a controller takes for a standstill.
    message = TrajectoryMessages(NAMES, PERIOD).of(command((9e-6, -9e-6)))
    assert_acceptable(message)
    assert len(message.points) == 1


def test_the_command_before_comes_first_where_the_controller_starts_elsewhere():
    messages = TrajectoryMessages(NAMES, PERIOD)
    long, short = command((0.3, -0.3), [0.1, 0.2]), command((0.0, 0.0))
    message = messages.of(long, before=command((0.2, -0.2), positions=(0.4, -0.4)))
    assert_acceptable(message)
    assert seconds(message)[:2] == [0.0, pytest.approx(PERIOD)]
    assert message.points[0].positions.tolist() == [0.4, -0.4]
    assert message.points[0].velocities.tolist() == [0.2, -0.2]
    assert message.points[1].positions.tolist() == [0.5, -0.5]
    # The message is used again, and nothing of it is left.
    assert len(messages.of(short).points) == 1


class Moving:
    """The controller moves a fake arm, which lags its commands by 50 ms where not said else."""

    def __init__(self, graph, interface, **robot):
        self.graph = graph
        arm = {"joints": list(panda.ARM_JOINTS), "start": panda.HOME.tolist(), "lag": 0.05}
        self.robot = graph.start_robot("joint_trajectory_controller", parameters=arm | robot)
        graph.start(
            "controller",
            contract=str(CONTRACT_PATH),
            parameters={"joint_trajectory.interface": interface},
        )
        graph.wait_state("controller", "active")
        self.policy = FakePolicy(graph)
        self.states = []

    def start(self):
        """An instruction, and the states of the robot's controller while the arm moves."""
        from control_msgs.msg import JointTrajectoryControllerState as ControllerState

        topic = "joint_trajectory_controller/controller_state"
        self.states = self.graph.collect(ControllerState, topic, QoSProfile(depth=1000))
        self.policy.instruct()
        start = self.policy.tool_x
        self.graph.wait(lambda: self.policy.tool_x > start + 0.01, "motion along +x")
        self.policy.wait_state(State.EXECUTING)
        self.states.clear()

    def outputs(self, count):
        """What the robot's controller commands in its next cycles: joints [count, 7]."""
        self.graph.wait(lambda: len(self.states) >= count, "states of the controller")
        return np.array([state.output.positions for state in self.states])


@pytest.mark.nodes
@pytest.mark.parametrize("interface", ["topic", "action"])
@pytest.mark.parametrize("from_desired", [True, False])
def test_no_trajectory_takes_the_arm_back(interface, from_desired):
    use_test_interfaces()
    with Graph() as graph:
        moving = Moving(graph, interface, interpolate_from_desired_state=from_desired)
        moving.start()
        places = np.array([KINEMATICS.tool_pose(joints)[0][0] for joints in moving.outputs(100)])
        assert places[-1] - places[0] > 0.02
        # From what is measured each would begin 2.5 mm behind: 5 cm/s for 50 ms. A machine that is
        # busy may be late with one or the other.
        assert np.percentile(np.diff(places), 10) > -5e-4
        moving.policy.trigger("vla/stop")
        graph.wait(
            lambda: np.ptp(np.array(moving.policy.places[-20:]), axis=0).max() < 1e-5, "rest"
        )
        assert "refused a trajectory" not in moving.robot.output
        assert "rejected a goal" not in moving.robot.output
        controller = graph.processes[1].output
        assert ("starts each trajectory from the measured" in controller) != from_desired


@pytest.mark.nodes
def test_after_an_abort_the_motion_goes_on_from_where_the_arm_is():
    use_test_interfaces()
    with Graph() as graph:
        moving = Moving(graph, "action", lag=0.0, path_tolerance=0.05)
        moving.policy.speed = 0.15
        moving.start()
        graph.set_parameters("joint_trajectory_controller", stuck=True)
        moving.policy.wait_status(lambda s: "path tolerance violated" in s.message, "the abort")
        graph.set_parameters("joint_trajectory_controller", stuck=False)
        moving.states.clear()
        moving.policy.wait_state(State.EXECUTING)
        joints = moving.outputs(len(moving.states) + 50)
        # The arm stood 0.05 rad behind its command: that is not to be made up at once.
        assert np.abs(np.diff(joints, axis=0)).max() < 0.02
