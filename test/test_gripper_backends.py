"""Grippers behind actions, with fake drivers over DDS: what they send, and what they tell."""

import signal
from types import SimpleNamespace

import pytest
from node_harness import Graph, use_test_interfaces
from std_msgs.msg import Float64, Int32, String

from vla_nodes.backends import make_gripper
from vla_nodes.backends.base import BackendContext, Problem
from vla_nodes.backends.gripper_command import SETTINGS as COMMAND_SETTINGS
from vla_nodes.backends.gripper_franka import SETTINGS as FRANKA_SETTINGS

pytestmark = pytest.mark.nodes

PERIOD = 0.02
OPEN, SHUT = 0.08, 0.0
# For each kind of gripper the node of its fake driver, and the place of sound fingers.
NODES = {
    "franka": "franka_gripper",
    "gripper_command": "gripper_controller",
    "parallel_gripper_command": "parallel_gripper_controller",
}
SOUND = {"stuck": False, "deaf": False}
SOUND_HAND = SOUND | {"fail": False, "no_stop": False, "object_width": 0.0, "width": 0.08}
SOUND_CONTROLLER = SOUND | {
    "hang": False,
    "abort": False,
    "refuse": False,
    "allow_stalling": False,
    "object": -1.0,
    "position": 0.08,
}


class Rig:
    """A gripper backend on the test's own node, called in cycles as the controller calls it."""

    def __init__(self, graph, contract, gripper, node=None, **settings):
        self.graph, self.node = graph, node or NODES[gripper]
        defaults = {s.name: s.default for s in (*COMMAND_SETTINGS, *FRANKA_SETTINGS)}
        if gripper == "parallel_gripper_command":
            defaults["gripper_command.action"] = f"{self.node}/gripper_cmd"
        # As fast as the hand can, for the test's sake.
        defaults["franka_gripper.speed"] = 0.2
        self.told = SimpleNamespace(values={})
        graph.node.diagnostics = self.told
        context = BackendContext(
            graph.node, contract, {"gripper": gripper} | defaults | settings, PERIOD
        )
        self.gripper = make_gripper(gripper, context)
        self.width, self.problem, self.problems = None, Problem("not asked yet"), []
        self.orders, self.running = [], []
        hand = self.node == "franka_gripper"
        kind, topic = (String, "orders") if hand else (Float64, "goals")
        self.parts = [
            graph.node.create_subscription(kind, f"{self.node}/{topic}", self.on_order, 10),
            graph.node.create_subscription(Int32, f"{self.node}/running", self.on_count, 10),
        ]
        self.timer = graph.node.create_timer(PERIOD, self.cycle)

    def on_order(self, message):
        self.orders.append(message.data)

    def on_count(self, message):
        self.running.append(message.data)

    def close(self):
        self.graph.node.destroy_timer(self.timer)
        for part in self.parts:
            self.graph.node.destroy_subscription(part)
        self.gripper.close()

    def cycle(self):
        self.problem = self.gripper.problem()
        if self.problem and self.problem.message not in self.problems[-1:]:
            self.problems.append(self.problem.message)
        if self.width is not None:
            self.gripper.send(self.width)

    def ready(self):
        """Waits for the driver, and for what it publishes about itself to reach the test."""
        self.graph.wait(lambda: self.problem is None, "a gripper without a problem")
        topics = {part.topic_name for part in self.parts}
        self.graph.wait(lambda: all(map(self.graph.node.count_publishers, topics)), "its topics")
        self.problems.clear()
        return self

    def faults(self, **values):
        self.graph.set_parameters(self.node, **values)

    def wait_told(self, words, timeout=10.0):
        self.graph.wait(lambda: self.told.values.get("gripper") == words, f"'{words}'", timeout)

    def wait_problem(self, words, stops=False, timeout=10.0, alive=True):
        self.graph.wait(
            lambda: self.problem and words in self.problem.message and self.problem.stops == stops,
            f"problem '{words}', only {self.problems}",
            timeout,
            alive,
        )

    def wait_sound(self):
        self.graph.wait(lambda: self.problem is None, "an end of the problem")

    def wait_orders(self, count):
        self.graph.wait(lambda: len(self.orders) >= count, f"order {count}")

    def spin(self, cycles):
        """So many cycles, during which something must not happen."""
        seen = []
        timer = self.graph.node.create_timer(PERIOD, lambda: seen.append(1))
        self.graph.wait(lambda: len(seen) >= cycles, "cycles")
        self.graph.node.destroy_timer(timer)

    def assert_never_two(self):
        assert max(self.running) == 1


@pytest.fixture(scope="module")
def drivers():
    """A graph with a hand and both kinds of controllers."""
    use_test_interfaces()
    with Graph() as graph:
        graph.start_robot("franka_gripper")
        graph.start_robot("gripper_command_controller")
        name = NODES["parallel_gripper_command"]
        graph.start_robot(
            "gripper_command_controller", {"parallel": True}, ("-r", f"__node:={name}")
        )
        yield graph


@pytest.fixture
def make(drivers, contract):
    """Makes backends of the drivers, which are sound again afterwards."""
    rigs = []

    def make_rig(gripper, wait=True, **settings):
        rigs.append(Rig(drivers, contract, gripper, **settings))
        return rigs[-1].ready() if wait else rigs[-1]

    yield make_rig
    for rig in rigs:
        hand = rig.node == "franka_gripper"
        rig.faults(**(SOUND_HAND if hand else SOUND_CONTROLLER))
        state = rig.gripper.state
        rig.width = OPEN
        drivers.wait(lambda state=state: state.running is None, "the end of all actions")
        rig.close()
        rig.faults(**({"width": 0.08} if hand else {"position": 0.08}))


@pytest.fixture
def make_alone(contract):
    """A hand of the test's own, which may end."""
    use_test_interfaces()
    with Graph() as graph:
        rigs = []

        def make_rig(**faults):
            rigs.append(Rig(graph, contract, "franka"))
            rigs[-1].process = graph.start_robot("franka_gripper", faults)
            return rigs[-1]

        yield make_rig
        for rig in rigs:
            rig.close()


ORDERS = {"franka": ["move", "grasp", "move"]}


@pytest.mark.parametrize("gripper", list(NODES))
def test_each_change_is_sent_once_and_its_end_awaited(make, gripper):
    rig = make(gripper)
    for width, words in ((OPEN, "open"), (SHUT, "closed"), (OPEN, "open")):
        rig.width = width
        rig.wait_told(words)
        # Noise around the middle, and the same again, in the cycles after.
        for noise in (width, 0.035, 0.045, width):
            rig.width = noise
            rig.spin(3)
    assert rig.orders == ORDERS.get(gripper, [OPEN, SHUT, OPEN]) and rig.problems == []
    rig.assert_never_two()


@pytest.mark.parametrize("gripper", list(NODES))
def test_a_change_of_mind_ends_the_action_under_way_first(make, gripper):
    rig = make(gripper)
    for width, count in ((OPEN, 1), (SHUT, 2)):
        rig.width = width
        rig.wait_orders(count)
        if width == OPEN:
            rig.wait_told("open")
    rig.spin(8)
    rig.width = OPEN
    rig.wait_orders(3)
    rig.wait_told("open")
    assert rig.orders == ORDERS.get(gripper, [OPEN, SHUT, OPEN]) and rig.problems == []
    rig.assert_never_two()


@pytest.mark.parametrize(
    ("gripper", "fault", "words"),
    [
        ("franka", {"object_width": 0.03}, "closed"),
        ("gripper_command", {"object": 0.03}, "closed on an object"),
        ("gripper_command", {"object": 0.03, "allow_stalling": True}, "closed on an object"),
        ("parallel_gripper_command", {"object": 0.03}, "closed on an object"),
    ],
)
def test_an_object_between_the_fingers_is_a_grasp(make, gripper, fault, words):
    rig = make(gripper)
    rig.faults(**fault)
    rig.width = SHUT
    rig.wait_told(words)
    rig.spin(15)
    assert len(rig.orders) == 1 and rig.problem is None


def test_an_empty_grasp_is_told_and_the_arm_goes_on(make):
    rig = make(
        "franka",
        **{
            "franka_gripper.grasp_width": 0.03,
            "franka_gripper.epsilon_inner": 0.005,
            "franka_gripper.epsilon_outer": 0.005,
        },
    )
    rig.width = SHUT
    rig.wait_told("closed, nothing of the expected width grasped")
    rig.spin(15)
    assert rig.orders == ["grasp"] and rig.problem is None
    # The policy may try again.
    rig.width = OPEN
    rig.wait_told("open")
    rig.faults(object_width=0.028)
    rig.width = SHUT
    rig.wait_told("closed")
    assert rig.orders == ["grasp", "move", "grasp"]


def test_frankas_own_gripper_action_takes_half_of_the_width(make):
    rig = make(
        "gripper_command",
        node="franka_gripper",
        **{
            "gripper_command.action": "franka_gripper/gripper_action",
            "gripper_command.open_position": 0.04,
        },
    )
    rig.faults(object_width=0.03, default_epsilon=0.08)
    for width, words in ((SHUT, "closed"), (OPEN, "open")):
        rig.width = width
        rig.wait_told(words)
    assert rig.orders == ["gripper_action"] * 2 and rig.problems == []


def test_frankas_own_gripper_action_refuses_the_full_width(make):
    settings = {"gripper_command.action": "franka_gripper/gripper_action"}
    rig = make("gripper_command", node="franka_gripper", **settings)
    rig.width = OPEN
    rig.wait_problem("opening of the gripper failed: the driver aborted it")


def test_homing_comes_first_and_the_arm_waits_for_it(make):
    rig = make("franka", wait=False, **{"franka_gripper.homing": True})
    rig.width = SHUT
    rig.wait_problem("the gripper is homing")
    rig.wait_told("closed")
    assert rig.orders == ["homing", "homing", "grasp"] and rig.problem is None
    rig.assert_never_two()


@pytest.mark.parametrize(
    ("gripper", "fault", "words"),
    [
        ("franka", {"fail": True}, "closing of the gripper failed: libfranka gripper: command"),
        ("gripper_command", {"refuse": True}, "closing of the gripper failed: the driver rejected"),
        ("gripper_command", {"abort": True}, "closing of the gripper failed: the driver aborted"),
    ],
)
def test_a_failure_is_told_tried_again_and_in_the_end_stops_the_policy(make, gripper, fault, words):
    rig = make(gripper, **{"franka_gripper.retries": 1, "gripper_command.retries": 1})
    rig.faults(**fault)
    rig.width = SHUT
    rig.wait_problem(words)
    rig.wait_problem("(2 tries)", stops=True)
    sent = len(rig.orders)
    rig.spin(20)
    assert len(rig.orders) == sent in (0, 2)
    # The policy is stopped, so commands cease; a person repairs it, and resumes.
    rig.width = None
    rig.wait_sound()
    rig.faults(**dict.fromkeys(fault, False))
    rig.width = SHUT
    rig.wait_told("closed")
    assert rig.problem is None


@pytest.mark.parametrize("gripper", ["franka", "gripper_command"])
def test_a_failure_that_passes_is_got_over_alone(make, gripper):
    rig = make(gripper, **{"franka_gripper.retries": 50, "gripper_command.retries": 50})
    fault = "fail" if gripper == "franka" else "refuse"
    rig.faults(**{fault: True})
    rig.width = SHUT
    rig.wait_problem("closing of the gripper failed")
    rig.faults(**{fault: False})
    rig.wait_told("closed")
    rig.wait_sound()
    rig.assert_never_two()


@pytest.mark.parametrize(
    ("gripper", "fault", "settings", "words"),
    [
        ("franka", {"stuck": True}, {"franka_gripper.timeout": 1.0}, "has not finished closing"),
        ("franka", {"stuck": True}, {"franka_gripper.stuck_time": 0.5}, "fingers do not move"),
        (
            "gripper_command",
            {"stuck": True, "hang": True},
            {"gripper_command.stuck_time": 0.5},
            "fingers do not move",
        ),
    ],
)
def test_fingers_that_are_stuck_are_told_and_go_on_when_they_are_free(
    make, gripper, fault, settings, words
):
    retries = {"franka_gripper.retries": 50, "gripper_command.retries": 50}
    rig = make(gripper, **settings, **retries)
    rig.faults(**fault)
    rig.width = SHUT
    rig.wait_problem(words)
    rig.faults(**dict.fromkeys(fault, False))
    rig.wait_told("closed")
    rig.wait_sound()
    rig.assert_never_two()


def test_fingers_stuck_on_the_way_open_are_a_fault(make):
    rig = make("gripper_command")
    rig.faults(position=0.0, stuck=True)
    rig.width = OPEN
    rig.wait_problem("opening of the gripper failed: the fingers are stuck")


def test_a_driver_that_does_not_stop_gets_nothing_else(make):
    rig = make("gripper_command", **{"gripper_command.retries": 1})
    rig.faults(deaf=True, hang=True)
    rig.width = SHUT
    rig.wait_orders(1)
    rig.width = OPEN
    rig.wait_problem("does not end closing when told to stop")
    rig.spin(75)
    assert len(rig.orders) == 1
    rig.assert_never_two()
    rig.faults(deaf=False, hang=False)
    rig.wait_told("open")


def test_a_hand_that_does_not_heed_the_cancel_is_stopped_by_its_service(make):
    rig = make("franka")
    rig.faults(no_stop=True, stuck=True)
    rig.width = SHUT
    rig.wait_orders(1)
    rig.width = OPEN
    rig.graph.wait(lambda: 0 in rig.running, "the stop")
    assert any("does not end closing when told" in words for words in rig.problems)
    rig.faults(no_stop=False, stuck=False)
    rig.wait_told("open")
    rig.wait_sound()
    rig.assert_never_two()


def test_a_driver_that_ends_is_named_and_taken_up_when_it_is_back(make_alone):
    rig = make_alone().ready()
    rig.faults(stuck=True)
    rig.width = SHUT
    rig.wait_orders(1)
    rig.process.stop(signal.SIGINT)
    rig.wait_problem("no gripper behind franka_gripper/move", alive=False)
    rig.graph.processes.remove(rig.process)
    rig.graph.start_robot("franka_gripper")
    rig.wait_told("closed", timeout=20.0)
    rig.wait_sound()
    assert not any("does not end" in words for words in rig.problems)


def test_fake_hardware_has_no_actions_and_is_told_so(make_alone):
    rig = make_alone(fake=True)
    rig.width = SHUT
    rig.graph.wait(
        lambda: rig.graph.node.count_publishers("franka_gripper/joint_states"), "the driver"
    )
    rig.spin(10)
    assert "with fake hardware it has no actions: use gripper 'position'" in rig.problem.message
    assert not rig.problem.stops


def test_one_position_for_open_and_closed_is_refused(make):
    with pytest.raises(ValueError, match="give the two ends of the stroke"):
        make("gripper_command", **{"gripper_command.open_position": 0.0})
