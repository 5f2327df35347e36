"""The backend of Cartesian controllers on the test's own node, with a fake one over DDS."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_commands import Stream, settings_of
from geometry_msgs.msg import PoseStamped
from node_harness import Graph

from vla.contract.embodiment import load_contract
from vla_nodes.backends import cartesian_pose, make_backend
from vla_nodes.backends.base import BackendContext

pytestmark = pytest.mark.nodes

CONTRACT = load_contract(Path(__file__).parents[1] / "config" / "contracts" / "sim_panda.yaml")
SOUND = {"stuck": False, "silent": False, "tool_offset": 0.0}


class Rig(Stream):
    """One Cartesian controller, and backends with different settings one after the other."""

    def __init__(self, graph):
        super().__init__(graph)
        graph.node.diagnostics = SimpleNamespace(values={})
        self.process = graph.start_robot("cartesian_controller")

    def faults(self, **values):
        self.graph.set_parameters("cartesian_controller", **values)

    def activate(self, **values):
        """Parameters of an inactive controller, which then starts from where the arm is."""
        self.faults(active=False, **values)
        self.spin(0.05)
        self.faults(active=True)

    def use(self, **settings):
        names = {f"cartesian_pose.{name}": value for name, value in settings.items()}
        context = BackendContext(
            self.graph.node, CONTRACT, settings_of(cartesian_pose) | names, self.period
        )
        self.start(make_backend("cartesian_pose", context))
        return self

    def watch(self, **settings):
        return self.use(current_pose_topic="current_pose", **settings)


@pytest.fixture(scope="module")
def rig():
    with Graph() as graph:
        yield Rig(graph)


@pytest.fixture
def controller(rig):
    rig.activate(**SOUND)
    rig.keep()
    yield rig
    rig.end()
    # Its publisher is gone for the next test's controller, too.
    rig.graph.wait(lambda: rig.graph.node.count_publishers("target_pose") == 0, "an empty topic")


def test_the_tool_follows_and_stays(controller):
    controller.watch()
    controller.wait_sound()
    assert controller.way(0.05, seconds=1.0) == pytest.approx(0.05, abs=0.003)
    place = controller.tool
    controller.release()
    controller.spin(0.3)
    assert np.allclose(controller.tool, place, atol=1e-3), "it holds without a command"
    assert controller.problem is None
    assert float(controller.graph.node.diagnostics.values["tool_error_mm"]) < 3.0
    controller.way(-0.05, seconds=0.5)


def test_what_is_sent(controller):
    poses = controller.read(PoseStamped, "target_pose", 10)
    controller.use(frame="base")
    controller.wait_sound()
    controller.hold = True
    controller.graph.wait(lambda: poses, "a pose")
    turn = poses[-1].pose.orientation
    assert poses[-1].header.frame_id == "base" and poses[-1].header.stamp.sec > 0
    assert np.hypot(np.hypot(turn.x, turn.y), np.hypot(turn.z, turn.w)) == pytest.approx(1.0)


def test_a_second_publisher_is_a_problem_while_it_is_there(controller):
    controller.use()
    controller.wait_sound()
    other = controller.graph.node.create_publisher(PoseStamped, "target_pose", 1)
    assert not controller.wait_problem("another program publishes on /target_pose").stops
    controller.graph.node.destroy_publisher(other)
    controller.wait_sound()


@pytest.mark.parametrize("fault", [{"stuck": True}, {"active": False}])
def test_an_arm_that_does_not_follow_is_told_until_it_does(controller, fault):
    controller.watch(max_error=0.03)
    controller.wait_sound()
    controller.faults(**fault)
    controller.speed, controller.hold = np.array([0.0, 0.0, 0.1]), True
    controller.wait_problem("from the target: is the controller active")
    # The command gives way to where the arm is, as the controller's safety stage has it do.
    controller.speed, (controller.place, controller.turn) = np.zeros(3), controller.pose
    controller.wait_sound()


def test_a_tool_of_another_frame_is_told_before_anything_is_sent(controller):
    poses = controller.read(PoseStamped, "target_pose", 10)
    controller.activate(tool_offset=0.1)
    controller.watch()
    controller.wait_sound()
    start = controller.tool
    controller.hold = True
    controller.wait_problem("is 100 mm, 0.00 rad from the target")
    controller.spin(0.2)
    assert not poses and np.allclose(controller.tool, start, atol=1e-4)
    controller.activate(tool_offset=0.0)
    controller.wait_sound()
    controller.graph.wait(lambda: poses, "a pose")


def test_a_missing_pose_is_a_problem(controller):
    controller.watch()
    controller.wait_sound()
    controller.faults(silent=True)
    controller.wait_problem("is the controller's pose broadcaster active?")
    controller.faults(silent=False)
    controller.wait_sound()


def test_nobody_listens(controller):
    controller.use(topic="elsewhere")
    assert not controller.wait_problem("nobody takes target poses from /elsewhere").stops


def test_a_command_costs_little(controller, record_property):
    controller.watch()
    controller.wait_sound()
    cost = controller.cost()
    record_property("microseconds", cost)
    print(f"cartesian_pose: {cost:.0f} us per send() and problem()")
    assert cost < 1000.0
