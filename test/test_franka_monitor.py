"""A Franka's own state over DDS: modes in words, recovery, silence, and what following it costs."""

import sys
import time
from types import SimpleNamespace

import pytest
from node_harness import Graph, use_test_interfaces

from vla_nodes.backends import make_monitor
from vla_nodes.backends.base import BackendContext, Problem
from vla_nodes.backends.franka_monitor import SETTINGS

pytestmark = pytest.mark.nodes

TOPIC = "franka_robot_state_broadcaster/robot_state"
SOUND = {
    "mode": 2,
    "errors": [""],
    "silent": False,
    "frozen": False,
    "recovery_refuses": False,
    "recovery_fails": False,
    "recovery_hangs": False,
}


class Rig:
    """The monitor on the test's own node, asked in cycles as the controller asks it."""

    def __init__(self, graph, **settings):
        self.graph, self.problem, self.asked = graph, Problem("not asked yet"), 0
        self.values = {}
        graph.node.diagnostics = SimpleNamespace(values=self.values)
        defaults = {setting.name: setting.default for setting in SETTINGS}
        context = BackendContext(graph.node, None, defaults | settings, 0.01)
        self.monitor = make_monitor("franka", context)
        self.timer = graph.node.create_timer(0.01, self.cycle)

    def cycle(self):
        self.problem = self.monitor.problem()
        self.asked += 1

    def close(self):
        self.graph.node.destroy_timer(self.timer)
        self.monitor.close()

    def faults(self, **values):
        self.graph.set_parameters("franka_robot", **values)

    def wait_sound(self, timeout=10.0):
        self.graph.wait(lambda: self.problem is None, "a robot that may move", timeout)

    def wait_problem(self, words, stops=False, timeout=10.0):
        self.graph.wait(
            lambda: self.problem and words in self.problem.message and self.problem.stops == stops,
            f"'{words}'",
            timeout,
        )

    def recover(self):
        self.graph.wait(self.monitor._client.server_is_ready, "the recovery action")
        return self.monitor.recover()


@pytest.fixture(scope="module")
def graph():
    use_test_interfaces()
    with Graph() as graph:
        graph.start_robot("franka_robot")
        yield graph


@pytest.fixture
def rig(graph):
    rig = Rig(graph)
    rig.wait_sound()
    yield rig
    rig.faults(**SOUND)
    rig.wait_sound()
    rig.close()


@pytest.mark.parametrize(
    ("mode", "words", "stops", "shown"),
    [
        (0, "takes no commands: look at Desk", False, "another mode"),
        (3, "somebody guides the arm by hand", False, "guiding"),
        (4, "stopped itself in a reflex: clear what is in its way", True, "reflex"),
        (5, "the user stop is pressed: release it", True, "user stopped"),
        (6, "recovers from an error: wait", False, "automatic error recovery"),
        (9, "in an unknown mode, 9: look at Desk", False, "9"),
    ],
)
def test_each_mode_is_told_in_words_and_ends(rig, mode, words, stops, shown):
    rig.faults(mode=mode)
    rig.wait_problem(words, stops)
    assert rig.values["robot_mode"] == shown
    rig.faults(mode=1)
    rig.wait_sound()
    assert rig.values["robot_mode"] == "idle"


def test_a_reflex_says_which_error_it_was_and_recovery_ends_it(rig):
    rig.faults(mode=4, errors=["joint_reflex", "joint_velocity_violation"])
    rig.wait_problem("in a reflex (joint_velocity_violation, joint_reflex): clear", stops=True)
    assert rig.values["robot_errors"] == "joint_velocity_violation, joint_reflex"
    assert "then call vla/resume" in rig.recover()
    rig.wait_sound()
    assert rig.values["robot_mode"] == "moving" and rig.values["robot_errors"] == ""


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("recovery_refuses", "the robot rejected the recovery: look at Desk"),
        ("recovery_fails", "the recovery failed: look at Desk"),
    ],
)
def test_a_recovery_that_does_not_work_is_told_and_may_be_tried_again(rig, fault, words):
    rig.faults(mode=4, **{fault: True})
    rig.wait_problem("reflex", stops=True)
    rig.recover()
    rig.wait_problem(words, stops=True)
    rig.faults(**{fault: False})
    rig.recover()
    rig.wait_sound()


def test_a_second_recovery_waits_for_the_first(rig):
    rig.faults(mode=4, recovery_hangs=True)
    rig.wait_problem("reflex", stops=True)
    rig.recover()
    rig.wait_problem("recovers from an error: wait; recovery is under way")
    with pytest.raises(ValueError, match="error recovery is under way"):
        rig.recover()
    rig.faults(recovery_hangs=False)
    rig.wait_sound()


def test_a_recovery_that_does_not_end_is_told(rig, monkeypatch):
    monkeypatch.setattr("vla_nodes.backends.franka_monitor.RECOVERY_TIMEOUT", 0.5)
    rig.faults(mode=4, recovery_hangs=True)
    rig.wait_problem("reflex", stops=True)
    rig.recover()
    rig.wait_problem("recovery has not ended within 0.5 s: look at Desk")


def test_a_reflex_does_not_stop_whoever_resumes_while_it_recovers(rig):
    rig.faults(mode=4)
    rig.wait_problem("reflex", stops=True)
    rig.recover()
    stops = []
    while rig.problem is not None:
        rig.graph.spin()
        if rig.monitor._under_way and rig.problem:
            stops.append(rig.monitor.problem())
    assert stops and not any(problem.stops for problem in stops if problem)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("silent", "is franka_robot_state_broadcaster active?"),
        ("frozen", "stands still: is the robot on and connected?"),
    ],
)
def test_a_state_that_stops_or_never_changes_is_told_within_its_timeout(rig, fault, words):
    rig.faults(**{fault: True})
    at = time.monotonic()
    rig.wait_problem(words)
    assert time.monotonic() - at < 1.0
    rig.faults(**{fault: False})
    rig.wait_sound()


def test_no_recovery_without_a_driver(graph):
    rig = Rig(graph, **{"franka.recovery_action": "elsewhere/error_recovery"})
    with pytest.raises(ValueError, match="no action elsewhere/error_recovery: is the robot's dri"):
        rig.monitor.recover()
    rig.close()


def test_before_the_first_state_the_robot_does_not_move(graph):
    rig = Rig(graph, **{"franka.state_topic": "elsewhere/robot_state"})
    rig.wait_problem("no robot state on elsewhere/robot_state: is")
    rig.close()


def test_best_effort_states_a_thousand_times_a_second_wake_nobody_up():
    use_test_interfaces()
    with Graph() as graph:
        graph.start_robot("franka_robot", {"best_effort": True, "rate": 1000.0})
        rig = Rig(graph)
        rig.wait_sound()
        start = rig.asked
        turns, end = 0, time.monotonic() + 1.0
        while time.monotonic() < end:
            graph.spin(0.05)
            turns += 1
        # Only the timer's cycles, and what the graph itself has to say.
        assert turns < 1.3 * (rig.asked - start) + 20
        rig.faults(mode=4)
        at = time.monotonic()
        rig.wait_problem("reflex", stops=True)
        assert time.monotonic() - at < 0.3
        rig.close()


def test_without_the_interfaces_it_says_how_to_get_them(monkeypatch):
    """No Debian package has them."""
    monkeypatch.setitem(sys.modules, "franka_msgs.action", None)
    context = BackendContext(None, None, {}, 0.01)
    with pytest.raises(ValueError, match="build franka_ros2 from source"):
        make_monitor("franka", context)
