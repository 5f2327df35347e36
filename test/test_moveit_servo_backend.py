"""The backend of MoveIt Servo on the test's own node, with a fake Servo over DDS."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from fake_commands import Stream, settings_of
from geometry_msgs.msg import PoseStamped, TwistStamped
from node_harness import Graph, use_test_interfaces
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool, Int8
from std_srvs.srv import SetBool

from vla.contract.embodiment import load_contract
from vla.core.rotations import difference, from_rotation_vector
from vla_nodes.backends import make_backend, moveit_servo
from vla_nodes.backends.base import BackendContext
from vla_nodes.core.conversions import stamp_to_seconds
from vla_nodes.core.diagnostics import WARN, Diagnostics

pytestmark = pytest.mark.nodes

CONFIG = Path(__file__).parents[1] / "config"
CONTRACT = load_contract(CONFIG / "contracts" / "sim_panda.yaml")
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SOUND = {"slow_x": 10.0, "halt_x": 10.0, "bound_x": 10.0, "singular_z": 10.0, "silent": False}
LIMITS = {"max_linear_speed": 0.15, "max_angular_speed": 1.0}
TWIST, POSE = 1, 2
TOOL = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
# A Panda's flange, seen from the fingertips.
FLANGE = [0.0, 0.0, -0.1034, 0.0, 0.0, 0.3826834, 0.9238795]


class Rig(Stream):
    """One Servo, and backends with different settings one after the other."""

    def __init__(self, graph, **faults):
        super().__init__(graph)
        graph.node.diagnostics = Diagnostics(graph.node)
        self.process = graph.start_robot("servo", parameters=faults)
        self.types = self.read(Int8, "servo_node/type", LATCHED)
        self.pauses = self.read(Bool, "servo_node/paused", LATCHED)

    def use(self, **settings):
        """A new backend, ready, with the arm at rest at its start."""
        names = {f"moveit_servo.{name}": value for name, value in settings.items()}
        context = BackendContext(
            self.graph.node, CONTRACT, settings_of(moveit_servo) | LIMITS | names, self.period
        )
        self.start(make_backend("moveit_servo", context))
        return self


@pytest.fixture(scope="module")
def rig():
    use_test_interfaces()
    with Graph() as graph:
        yield Rig(graph)


@pytest.fixture
def servo(rig):
    rig.graph.set_parameters(
        "servo_node", **SOUND, refuse_switch=False, units="speed_units", tip=TOOL
    )
    rig.keep()
    yield rig
    rig.end()


@pytest.mark.parametrize("command", ["pose", "twist"])
def test_the_type_is_switched_first_and_the_tool_follows(servo, command):
    servo.use(command=command)
    servo.wait_sound()
    assert servo.types[-1].data == (POSE if command == "pose" else TWIST)
    assert servo.way(0.05, seconds=1.0) == pytest.approx(0.05, abs=0.004)
    servo.way(-0.05, seconds=0.5)


def test_twists_in_servos_own_units(servo):
    servo.graph.set_parameters("servo_node", units="unitless")
    servo.use(command="twist", linear_scale=0.4, angular_scale=0.8)
    servo.wait_sound()
    assert servo.way(0.05, seconds=1.0) == pytest.approx(0.05, abs=0.004)
    servo.way(-0.05, seconds=0.5)


@pytest.mark.parametrize("command", ["pose", "twist"])
def test_servo_moves_another_frame_than_the_tool(servo, command):
    servo.graph.set_parameters("servo_node", tip=FLANGE)
    # Without the correction of twists, which would hide what is wrong.
    servo.use(command=command, tool_to_tip=FLANGE, pose_gain=0.0)
    servo.wait_sound()
    start, turn = servo.pose
    # The tool turns on the spot, while the flange swings around it.
    servo.turning, servo.hold = np.array([0.3, 0.0, 0.0]), True
    servo.graph.wait(lambda: np.linalg.norm(difference(servo.turn, turn)) > 0.3, "a turn")
    servo.turning = np.zeros(3)
    servo.rest()
    place, turned = servo.pose
    assert np.linalg.norm(place - start) < 0.004
    assert np.linalg.norm(difference(turned, turn)) == pytest.approx(0.3, abs=0.08)
    servo.turning = np.array([-0.3, 0.0, 0.0])
    servo.graph.wait(lambda: np.linalg.norm(difference(servo.turn, turn)) < 0.01, "the way back")
    servo.turning = np.zeros(3)
    servo.rest()


def test_a_tip_that_is_no_pose_is_refused(servo):
    for wrong in (TOOL[:6], [0.0] * 7, [*TOOL, 0.0]):
        with pytest.raises(ValueError, match=r"tool_to_tip .* is no pose"):
            servo.use(tool_to_tip=wrong)


def test_the_tip_of_an_fr3_is_where_its_urdf_has_it():
    text = (CONFIG / "robots" / "fr3.yaml").read_text()
    shipped = yaml.safe_load(text)["/**/controller"]["ros__parameters"]["moveit_servo"]
    chain = ElementTree.parse(CONFIG / "robots" / "fr3.urdf").iter("joint")
    origins = {j.find("child").get("link"): j.find("origin") for j in chain}
    height = sum(
        float(origins[link].get("xyz").split()[2]) for link in ("fr3_hand", "fr3_hand_tcp")
    )
    angle = sum(float(origins[link].get("rpy").split()[2]) for link in ("fr3_hand", "fr3_hand_tcp"))
    turn = from_rotation_vector(np.array([0.0, 0.0, -angle]))
    assert shipped["tool_to_tip"] == pytest.approx([0.0, 0.0, -height, *turn], abs=1e-6)


def test_commands_carry_the_frame_and_the_present_time(servo):
    commands = servo.read(PoseStamped, "servo_node/pose_target_cmds", 10)
    servo.use(frame="world")
    servo.wait_sound()
    servo.hold = True
    servo.graph.wait(lambda: len(commands) > 5, "commands")
    header = commands[-1].header
    age = servo.graph.node.get_clock().now().nanoseconds * 1e-9 - stamp_to_seconds(header.stamp)
    assert header.frame_id == "world" and 0.0 <= age < 0.1
    assert servo.problem is None


def test_a_frame_that_servo_does_not_know_is_a_problem(servo):
    servo.use(frame="elsewhere")
    servo.wait_sound()
    servo.hold = True
    problem = servo.wait_problem("moveit_servo.frame")
    assert not problem.stops


def test_a_twist_comes_back_to_its_path_and_is_zero_at_rest(servo):
    commands = servo.read(TwistStamped, "servo_node/delta_twist_cmds", 10)
    servo.use(command="twist", pose_gain=5.0)
    servo.wait_sound()
    # The path starts two centimetres beside the tool.
    servo.place = servo.place + np.array([0.0, 0.02, 0.0])
    servo.way(0.06, seconds=1.5)
    error = np.linalg.norm(servo.place - servo.tool)
    assert error < 0.006, "what was beside the path is on it"
    commands.clear()
    servo.graph.wait(lambda: len(commands) > 10, "twists")
    last = commands[-1].twist
    assert (last.linear.x, last.linear.y, last.linear.z, last.angular.x) == (0, 0, 0, 0)
    servo.way(-0.06, seconds=1.5)


@pytest.mark.parametrize(("gain", "most"), [(1.0, 0.1), (2.0, 0.15)])
def test_the_correction_of_a_twist_keeps_its_bound_and_the_tools_limit(servo, gain, most):
    commands = servo.read(TwistStamped, "servo_node/delta_twist_cmds", 10)
    servo.use(command="twist", pose_gain=gain)
    servo.wait_sound()
    servo.place = servo.place + np.array([0.0, 1.0, 0.0])
    servo.speed = np.array([0.01, 0.0, 0.0])
    servo.hold = True
    servo.graph.wait(lambda: any(c.twist.linear.y > 0.01 for c in commands), "a correction")
    speeds = [np.hypot(c.twist.linear.y, c.twist.linear.z) for c in commands]
    assert max(speeds) <= most + 1e-6
    # It goes back, for the next test.
    servo.place = servo.place - np.array([0.0, 1.0, 0.0])
    servo.way(0.02, seconds=1.0)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("halt_x", "halted before a collision"), ("singular_z", "halted near a singularity")],
)
def test_a_halt_stops_the_policy_and_is_forgotten_when_the_way_is_free(servo, fault, words):
    from moveit_msgs.msg import ServoStatus

    servo.use()
    servo.wait_sound()
    servo.hold = True
    servo.graph.set_parameters("servo_node", **{fault: -1.0})
    problem = servo.wait_problem(words)
    assert problem.stops and "emergency stop" in problem.message
    # The controller lets go of the arm; Servo repeats its status until it is commanded again.
    servo.release()
    servo.wait_sound()
    servo.graph.set_parameters("servo_node", **{fault: 10.0})
    codes = servo.read(ServoStatus, "servo_node/status", 10)
    servo.graph.wait(lambda: codes, "a status")
    assert codes[-1].code in moveit_servo.STATUSES, "Servo still gives the old status"
    # A person resumes: nothing is in the way of the first commands, and then nothing at all.
    servo.problems.clear()
    assert servo.way(0.02, seconds=0.5) == pytest.approx(0.02, abs=0.004)
    assert servo.problems == []


@pytest.mark.parametrize(
    ("fault", "words"), [("slow_x", "slowed down near a collision"), ("bound_x", "at its bound")]
)
def test_what_slows_servo_down_is_a_warning(servo, fault, words):
    servo.use()
    servo.wait_sound()
    servo.graph.set_parameters("servo_node", **{fault: -1.0})
    servo.speed = np.array([0.01, 0.0, 0.0])
    servo.hold = True

    def told():
        status = servo.graph.node.diagnostics.status()
        return status.level == WARN and words in status.message

    servo.graph.wait(told, "the warning")
    assert servo.problem is None
    values = servo.graph.node.diagnostics.values
    assert words in values["servo"]
    servo.speed = np.zeros(3)
    servo.graph.set_parameters("servo_node", **SOUND)
    servo.graph.wait(lambda: values["servo"] == "ok", "the end of the warning")


def test_a_refused_type_and_silence_are_problems_that_pass(servo):
    servo.graph.set_parameters("servo_node", silent=True)
    servo.use()
    servo.wait_problem("is MoveIt Servo running, and not paused")
    other = "twist" if servo.types[-1].data == POSE else "pose"
    servo.end()
    servo.graph.set_parameters("servo_node", silent=False, refuse_switch=True)
    servo.use(command=other)
    assert not servo.wait_problem("refused the command type").stops
    servo.graph.set_parameters("servo_node", refuse_switch=False)
    servo.wait_sound()


def test_a_pause_is_ended_only_where_that_is_asked_and_only_at_the_start(servo):
    pause = SetBool.Request(data=True)
    servo.graph.call(SetBool, "servo_node/pause_servo", pause)
    servo.use()
    servo.wait_problem("not paused")
    servo.spin(1.2)
    assert servo.pauses[-1].data, "not asked to"
    servo.end()
    servo.use(unpause=True)
    servo.wait_sound()
    assert not servo.pauses[-1].data
    servo.graph.call(SetBool, "servo_node/pause_servo", pause)
    servo.wait_problem("not paused")
    servo.spin(1.2)
    assert servo.pauses[-1].data, "a pause by a person stays"
    servo.graph.call(SetBool, "servo_node/pause_servo", SetBool.Request(data=False))
    servo.wait_sound()


def test_servo_stops_by_itself_when_nothing_more_comes(servo):
    servo.use(command="twist")
    servo.wait_sound()
    servo.speed, servo.hold = np.array([0.05, 0.0, 0.0]), True
    start = servo.tool[0]
    servo.graph.wait(lambda: servo.tool[0] > start + 0.01, "motion")
    servo.release()
    at = servo.tool[0]
    servo.rest()
    assert servo.tool[0] - at < 0.05 * 0.25


def test_a_command_costs_little(servo, record_property):
    for command in ("pose", "twist"):
        servo.use(command=command)
        servo.wait_sound()
        cost = servo.cost()
        record_property(f"microseconds_{command}", cost)
        print(f"moveit_servo {command}: {cost:.0f} us per send() and problem()")
        assert cost < 1000.0
        servo.end()


def test_servo_that_was_started_again_is_told_the_type_again(servo):
    servo.use()
    servo.wait_sound()
    servo.process.kill()
    servo.process.process.wait()
    servo.graph.processes.remove(servo.process)
    servo.wait_problem("no status from servo_node")
    servo.types.clear()
    servo.process = servo.graph.start_robot("servo")
    servo.wait_sound()
    assert servo.types[-1].data == POSE
