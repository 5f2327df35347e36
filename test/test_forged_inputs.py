"""Joint states and chunks that somebody forges, in a running graph: they do not move the arm."""

import time
from functools import partial

import numpy as np
import pytest
from fake_robot import CONTRACT, KINEMATICS, LIMITS
from fault_report import excess_of
from motion_watch import JOINTS
from node_harness import Graph, use_test_interfaces
from sensor_msgs.msg import JointState
from test_fault_nodes import Case

from vla.control.session import HoldReason, State
from vla_nodes.core import qos
from vla_nodes.core.conversions import stamp_to_seconds

pytestmark = [pytest.mark.nodes, pytest.mark.faults]

MARK = "forged"


@pytest.fixture
def make():
    use_test_interfaces()
    with Graph() as graph:
        yield partial(Case, graph)


class Forger:
    """A second publisher of joint states, which knows the true ones and changes them."""

    def __init__(self, graph):
        self.graph, self.real = graph, []
        self.publisher = graph.node.create_publisher(JointState, "joint_states", qos.SENSOR_OUTPUT)
        graph.node.create_subscription(JointState, "joint_states", self.on_state, qos.SENSOR)
        graph.wait(lambda: self.real, "joint states")

    def on_state(self, message):
        if message.header.frame_id != MARK and set(CONTRACT.joint_names) <= set(message.name):
            by_name = dict(zip(message.name, message.position, strict=True))
            self.real.append([by_name[name] for name in CONTRACT.joint_names])

    def forge(self, change, seconds, rate=100.0):
        """Sends what `change` makes of the true joints [7] and a number."""
        started = time.monotonic()
        for number in range(round(seconds * rate)):
            message = JointState(name=list(CONTRACT.joint_names))
            message.header.frame_id = MARK
            message.header.stamp = self.graph.node.get_clock().now().to_msg()
            message.position = [float(v) for v in change(np.array(self.real[-1]), number)]
            self.publisher.publish(message)
            due = started + (number + 1) / rate
            self.graph.wait(lambda due=due: time.monotonic() > due, "time", alive=False)


FORGED = {
    "one joint is 1 rad off": lambda joints, number: joints + np.eye(7)[0],
    "all joints are 0.5 rad off": lambda joints, number: joints - 0.5,
    "1e308 rad": lambda joints, number: np.full(7, 1e308 * (-1) ** number),
    "another place in each": lambda joints, number: np.random.default_rng(number).normal(size=7),
}


@pytest.mark.parametrize("case_name", list(FORGED))
def test_forged_joint_states_move_nothing(make, case_name):
    case = make()
    forger = Forger(case.graph)
    case.start_moving()
    at = time.monotonic()
    forger.forge(FORGED[case_name], 0.5)
    held = np.array(forger.real[-1])
    forger.forge(FORGED[case_name], 1.0)
    case.finish(f"forged joint states: {case_name}", "the first forged message", at)
    np.testing.assert_allclose(forger.real[-1], held, atol=1e-6, err_msg="moved by the forger")
    status = case.policy.status
    assert status.hold_reason in (HoldReason.IMPLAUSIBLE_STATE, HoldReason.SECOND_PUBLISHER)
    assert status.message
    # It ends when its cause ends.
    case.graph.node.destroy_publisher(forger.publisher)
    case.policy.wait_state(State.EXECUTING)
    case.settle(0.3)
    over = excess_of(case.watch.motion(), JOINTS, LIMITS.safety, KINEMATICS)
    assert {name: value for name, value in over.items() if value > 0.0} == {}


def test_chunks_of_100_metres_a_step_are_refused_with_the_reason(make):
    case = make()
    case.start_moving()
    at = time.monotonic()
    case.policy.speed = 1000.0
    status = case.policy.wait_hold(HoldReason.LIMIT)
    assert "moves the tool by 100 m in 0.1 s" in status.message
    case.settle(0.6)
    case.finish("chunks of 100 m a step", "the first of them", at)
    case.policy.speed = 0.1
    case.policy.wait_state(State.EXECUTING)


def test_chunks_from_the_future_are_refused_with_the_reason(make):
    case = make()
    case.start_moving()
    case.policy.cut.add("chunks")
    rejected = case.policy.status.chunks_rejected

    def send():
        chunk = case.policy.chunk()
        ahead = stamp_to_seconds(chunk.header.stamp) + 0.45
        chunk.header.stamp.sec = int(ahead)
        chunk.header.stamp.nanosec = int((ahead - int(ahead)) * 1e9)
        case.policy.chunks.publish(chunk)

    for _ in range(8):
        send()
        case.settle(0.25)
    # On a busy machine the arm may hold for late observations first.
    status = case.policy.wait_status(
        lambda told: told.state == State.HOLDING and "in the future" in told.message,
        "a hold for the future",
    )
    assert "same clock" in status.message
    assert status.chunks_rejected >= rejected + 7
