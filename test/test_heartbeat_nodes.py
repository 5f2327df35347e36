"""A heartbeat that stops makes the arm hold, although nothing else tells of the death.

The streams themselves are fakes, promise no signs of life and go on: only the heartbeat, of a
process of its own, can be what makes the arm hold.
"""

import signal
import time

import pytest
from fake_robot import CONTRACT_PATH, FakeRobot
from fault_report import time_to_hold
from motion_watch import PERIOD, Watch
from node_harness import Graph, use_test_interfaces

from vla.control.session import HoldReason, State

pytestmark = pytest.mark.nodes

NODES = ("perception", "reasoning", "action_expert")
STALE = HoldReason.STALE_CHUNK
SAID = "no heartbeat of /{} arrives"


def heard(status):
    return next((pair.value for pair in status.values if pair.key == "heartbeats"), None)


class Case:
    """A controller that follows fake streams."""

    def __init__(self, graph):
        self.graph = graph
        self.controller = graph.start(
            "controller", contract=str(CONTRACT_PATH), control_rate=1.0 / PERIOD
        )
        graph.wait_state("controller", "active")
        self.robot = FakeRobot(graph)
        self.watch = Watch(graph)

    def start_heart(self, name):
        return self.graph.start_robot("beating", arguments=("-r", f"__node:={name}"))

    def hears(self, *names):
        self.graph.wait_diagnostic(
            "controller", lambda status: heard(status) == ", ".join(names), timeout=60.0
        )

    def wait_hold_for(self, name):
        def is_told(status):
            is_holding = (status.state, status.hold_reason) == (State.HOLDING, STALE)
            return is_holding and name in status.message and "heartbeat" in status.message

        self.robot.wait_status(is_told, f"hold for the heartbeat of {name}")

    def move(self):
        self.robot.wait_state(State.EXECUTING)
        self.robot.assert_moving()


@pytest.fixture
def case():
    use_test_interfaces()
    with Graph() as graph:
        yield Case(graph)


def test_the_arm_holds_when_only_a_heartbeat_stops(case):
    hearts = {name: case.start_heart(name) for name in NODES}
    case.hears(*NODES)
    # The streams are older than the hearts, and may have been named as without one by then.
    case.controller.forget_output()
    case.robot.instruct()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for name in NODES:
            case.move()
            if number == signal.SIGKILL:
                case.graph.processes.remove(hearts[name])
            at = time.monotonic()
            hearts[name].process.send_signal(number)
            # A busy machine may delay another one's heartbeat, too, which holds the arm as well.
            case.wait_hold_for(name)
            case.robot.assert_still()
            assert time_to_hold(case.watch.motion(), at) < 0.3
            if number == signal.SIGSTOP:
                hearts[name].process.send_signal(signal.SIGCONT)
            else:
                hearts[name] = case.start_heart(name)
    case.move()
    for name in NODES:
        assert SAID.format(name) not in case.controller.output


def test_nodes_without_a_heartbeat_are_followed_and_named_once(case):
    case.robot.instruct()
    case.move()
    for name in NODES:
        case.graph.wait(lambda name=name: SAID.format(name) in case.controller.output, "a word")
    case.robot.instruct("pick the blue block")
    case.move()
    for name in NODES:
        assert case.controller.output.count(SAID.format(name)) == 1


def test_a_dead_node_is_replaced_by_one_without_a_heartbeat_at_the_next_instruction(case):
    heart = case.start_heart("action_expert")
    case.hears("action_expert")
    case.robot.instruct()
    case.move()
    case.graph.processes.remove(heart)
    heart.kill()
    case.robot.wait_hold(STALE)
    case.robot.instruct("pick the blue block")
    case.move()
