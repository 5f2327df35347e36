"""The simulator node as a process: rates, commands, services, its end."""

import signal
from itertools import pairwise

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import PoseStamped
from node_harness import ROOT, Graph, use_test_interfaces
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from vla_ros.msg import SceneState
from vla_ros.srv import CheckTask, ResetScene

from vla.observations.messages import image_to_array, stamp_to_nanoseconds
from vla_nodes.core import qos
from vla_nodes.core.conversions import stamp_to_seconds

pytestmark = pytest.mark.nodes

# The test process must not lose what it counts.
DEEP = QoSProfile(depth=1000)
DEEP_IMAGES = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
ARM = [f"panda_joint{number}" for number in range(1, 8)]


class Simulated:
    """A running simulator and what it sends."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.node = graph.start(
            "sim", parameters_file=ROOT / "config/sim.yaml", family="place", use_sim_time=True
        )
        self.joints = graph.collect(JointState, "joint_states", qos.SENSOR)
        self.state = graph.collect(SceneState, "sim/state", qos.SENSOR)
        self.arm = graph.publisher(
            JointTrajectory, "joint_trajectory_controller/joint_trajectory", qos.COMMAND
        )
        self.gripper = graph.publisher(
            Float64MultiArray, "gripper_position_controller/commands", qos.COMMAND
        )
        graph.wait(lambda: self.joints and self.state, "joint states")

    def positions(self) -> np.ndarray:
        """Arm joints [7] in the newest joint states."""
        return np.array(self.joints[-1].position[:7])

    def send(self, *points, names=ARM):
        """Sends a trajectory of (seconds, positions) points."""
        message = JointTrajectory(joint_names=names)
        for seconds, positions in points:
            message.points.append(
                JointTrajectoryPoint(
                    positions=[float(p) for p in positions],
                    time_from_start=Duration(nanosec=round(seconds * 1e9)),
                )
            )
        self.arm.publish(message)

    def reset(self, seed: int, family: str) -> ResetScene.Response:
        """Lays out a scene."""
        request = ResetScene.Request(seed=seed, family=family)
        return self.graph.call(ResetScene, "sim/reset_scene", request)

    def check(self, task: str = "") -> CheckTask.Response:
        """Asks whether a task is done."""
        return self.graph.call(CheckTask, "sim/check_task", CheckTask.Request(task=task))

    def wait_news(self, count: int) -> list[JointState]:
        """The next joint states."""
        begin = len(self.joints)
        self.graph.wait(lambda: len(self.joints) >= begin + count, f"{count} joint states")
        return self.joints[begin:]


@pytest.fixture(scope="module")
def simulated():
    with Graph() as graph:
        yield Simulated(graph)


class Goals:
    """Sends goals of FollowJointTrajectory and keeps what comes back."""

    def __init__(self, simulated: Simulated):
        from control_msgs.action import FollowJointTrajectory

        self.action = FollowJointTrajectory
        self.simulated, self.graph = simulated, simulated.graph
        self.feedback = []
        self.client = ActionClient(
            self.graph.node, self.action, "joint_trajectory_controller/follow_joint_trajectory"
        )
        self.graph.wait(self.client.server_is_ready, "the action server")

    def send(self, seconds: float, change: float, names=ARM, **more):
        """A goal that turns the first joint by `change` [rad]; its handle."""
        place = self.simulated.positions()
        place[0] += change
        goal = self.action.Goal(trajectory=JointTrajectory(joint_names=names), **more)
        goal.trajectory.points.append(
            JointTrajectoryPoint(
                positions=place[: len(names)].tolist(),
                time_from_start=Duration(nanosec=round(seconds * 1e9)),
            )
        )
        sent = self.client.send_goal_async(goal, feedback_callback=self.feedback.append)
        self.graph.wait(sent.done, "an answer to the goal")
        return sent.result()

    def result(self, handle):
        """Status and result of a goal."""
        future = handle.get_result_async()
        self.graph.wait(future.done, "the goal's result")
        return future.result().status, future.result().result


@pytest.fixture(scope="module")
def goals():
    use_test_interfaces()
    with Graph() as graph:
        goals = Goals(Simulated(graph))
        yield goals
        goals.client.destroy()


def test_rates_stamps_and_contents(simulated):
    graph = simulated.graph
    clock = graph.collect(Clock, "clock", DEEP)
    poses = graph.collect(PoseStamped, "end_effector_pose", DEEP)
    images = {
        name: graph.collect(Image, f"camera/{name}/image_raw", DEEP_IMAGES)
        for name in ("front", "wrist")
    }
    infos = {
        name: graph.collect(CameraInfo, f"camera/{name}/camera_info", DEEP_IMAGES)
        for name in ("front", "wrist")
    }
    joints = graph.collect(JointState, "joint_states", DEEP)
    states = graph.collect(SceneState, "sim/state", DEEP)
    topics = [clock, poses, joints, states, *images.values(), *infos.values()]
    graph.wait(lambda: all(topics), "one message of each")
    for topic in topics:
        topic.clear()
    graph.wait(lambda: len(joints) > 300, "three seconds of joint states")

    def rate(messages, stamp):
        times = [stamp(message) for message in messages]
        assert all(b > a for a, b in pairwise(times)), "stamps must increase"
        return (len(times) - 1) / (times[-1] - times[0])

    def header(message):
        return stamp_to_seconds(message.header.stamp)

    assert rate(clock, lambda message: stamp_to_seconds(message.clock)) > 90
    assert rate(joints, header) > 90
    assert rate(poses, header) > 90
    for name in images:
        assert rate(images[name], header) > 15
        assert rate(infos[name], header) > 15
        assert image_to_array(images[name][-1]).shape == (96, 96, 3)
        assert image_to_array(images[name][-1]).std() > 10
        assert infos[name][-1].k[0] > 50
        assert infos[name][-1].header.frame_id == images[name][-1].header.frame_id
    assert 25 < len(states) < 40
    assert list(joints[-1].name[:7]) == ARM
    assert len(joints[-1].velocity) == 9
    assert poses[-1].header.frame_id == "panda_link0"
    assert np.linalg.norm([poses[-1].pose.position.x, poses[-1].pose.position.z]) > 0.3

    def is_in_time(status):
        values = {entry.key: entry.value for entry in status.values}
        return float(values["real_time_factor"]) > 0.95 and float(values["step_p50_ms"]) < 10

    graph.wait_diagnostic("sim", is_in_time)


def test_commands_move_arm_and_gripper(simulated):
    start = simulated.positions()
    goal = start + np.array([0.3, 0.1, -0.1, 0.1, 0.0, 0.0, 0.2])
    simulated.send((0.8, goal))
    simulated.graph.wait(
        lambda: np.abs(simulated.positions() - goal).max() < 0.02, "arm at its goal", timeout=10
    )
    simulated.gripper.publish(Float64MultiArray(data=[0.01]))
    simulated.graph.wait(
        lambda: abs(sum(simulated.joints[-1].position[7:]) - 0.01) < 0.003, "closed gripper"
    )
    simulated.gripper.publish(Float64MultiArray(data=[0.08]))
    simulated.graph.wait(lambda: sum(simulated.joints[-1].position[7:]) > 0.075, "open gripper")


def test_points_are_passed_in_turn_and_the_last_is_held(simulated):
    start = simulated.positions()
    via, goal = start + 0.0, start + 0.0
    via[0] += 0.3
    simulated.joints.clear()
    simulated.send((0.5, via), (1.0, goal))
    simulated.graph.wait(lambda: len(simulated.joints) > 180, "the motion")
    path = np.array([message.position[0] for message in simulated.joints]) - start[0]
    assert path.max() == pytest.approx(0.3, abs=0.06)
    assert np.abs(path[-20:]).max() < 0.02


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ARM[:6]}, "expected"),
        ({"names": ["other", *ARM[1:]]}, "expected"),
        ({"value": float("nan")}, "not finite"),
        ({"value": 3.5}, "panda_joint2 would go to 3.500 rad"),
        ({"gripper": [0.01, 0.02]}, "one opening"),
        ({"gripper": [float("nan")]}, "one opening"),
        ({"gripper": [0.5]}, "one opening"),
    ],
)
def test_bad_commands_are_refused_and_the_arm_holds(simulated, change, words):
    start = simulated.positions()
    if "gripper" in change:
        simulated.gripper.publish(Float64MultiArray(data=change["gripper"]))
    else:
        goal = start + 0.3
        goal[1] = change.get("value", goal[1])
        names = change.get("names", ARM)
        simulated.send((0.2, goal[: len(names)]), names=names)
    simulated.graph.wait_diagnostic(
        "sim", lambda s: "refused a" in s.message and words in s.message and s.level == s.ERROR
    )
    for message in simulated.wait_news(30):
        assert np.abs(np.array(message.position[:7]) - start).max() < 0.01
    assert sum(simulated.joints[-1].position[7:]) > 0.07
    assert simulated.node.running


def test_a_goal_is_followed_and_ends_where_it_should(goals):
    start = goals.simulated.positions()
    status, result = goals.result(goals.send(0.6, 0.2))
    assert (status, result.error_code) == (GoalStatus.STATUS_SUCCEEDED, result.SUCCESSFUL)
    goals.graph.wait(
        lambda: abs(goals.simulated.positions()[0] - start[0] - 0.2) < 0.02, "arm at its goal"
    )
    shown = [message.feedback for message in goals.feedback]
    assert shown and list(shown[-1].joint_names) == ARM
    assert shown[0].desired.positions[0] < shown[-1].desired.positions[0]


def test_a_new_goal_and_a_message_on_the_topic_replace_a_goal(goals):
    first = goals.send(0.9, 0.3)
    second = goals.send(0.9, -0.3)
    status, result = goals.result(first)
    assert (status, result.error_code) == (GoalStatus.STATUS_ABORTED, result.INVALID_GOAL)
    assert "replaced by a new goal" in result.error_string
    goals.simulated.send((0.2, goals.simulated.positions()))
    status, result = goals.result(second)
    assert (status, result.error_code) == (GoalStatus.STATUS_ABORTED, result.INVALID_GOAL)
    assert "on the topic" in result.error_string


def test_a_canceled_goal_leaves_the_arm_where_it_is(goals):
    handle = goals.send(0.9, 0.8)
    goals.simulated.wait_news(20)
    canceled = handle.cancel_goal_async()
    goals.graph.wait(canceled.done, "the cancellation")
    status, _ = goals.result(handle)
    assert status == GoalStatus.STATUS_CANCELED
    goals.simulated.wait_news(30)
    begin = goals.simulated.positions()
    goals.simulated.wait_news(30)
    assert np.abs(goals.simulated.positions() - begin).max() < 0.01


def test_goals_that_cannot_be_followed_are_refused_or_aborted(goals):
    from control_msgs.msg import JointTolerance

    assert not goals.send(0.5, 0.1, names=ARM[:6]).accepted
    assert not goals.send(0.5, 9.0).accepted
    # The simulated servos lag by more than this.
    tolerance = JointTolerance(name=ARM[0], position=1e-4)
    status, result = goals.result(goals.send(0.9, 0.8, path_tolerance=[tolerance]))
    assert status == GoalStatus.STATUS_ABORTED
    assert result.error_code == result.PATH_TOLERANCE_VIOLATED
    assert ARM[0] in result.error_string


def test_the_same_seed_gives_the_same_scene(simulated):
    answers, states = [], []
    for seed in (7, 8, 7):
        answers.append(simulated.reset(seed, "place"))
        simulated.state.clear()
        # The first of them may have been sent before the reset, and were only on their way.
        simulated.graph.wait(lambda: len(simulated.state) >= 12, "states after the reset")
        states.append(np.array(simulated.state[-1].qpos))
        assert (simulated.state[-1].seed, simulated.state[-1].family) == (seed, "place")
    assert all(answer.success for answer in answers)
    assert answers[0].task.startswith("place/")
    assert answers[0].instruction
    assert answers[0].task.split("/")[1] in answers[0].objects
    assert (answers[0].task, list(answers[0].objects)) == (
        answers[2].task,
        list(answers[2].objects),
    )
    assert np.abs(states[0] - states[2]).max() < 2e-3
    assert np.abs(states[0] - states[1]).max() > 0.02


def test_a_reset_ends_the_motion(simulated):
    simulated.reset(7, "place")
    simulated.send((5.0, simulated.positions() + 0.5))
    simulated.wait_news(30)
    simulated.reset(7, "place")
    begin = simulated.wait_news(5)[-1].position[:7]
    end = simulated.wait_news(50)[-1].position[:7]
    assert np.abs(np.array(end) - begin).max() < 0.01


def test_a_controller_that_has_not_seen_a_reset_does_not_undo_it(simulated):
    simulated.reset(7, "place")
    away = simulated.positions() + 0.4
    simulated.send((0.8, away))
    simulated.graph.wait(
        lambda: np.abs(simulated.positions() - away).max() < 0.05, "arm at its goal", timeout=10
    )
    simulated.reset(7, "place")
    begin = np.array(simulated.wait_news(2)[-1].position[:7])
    # What a controller sends that holds the arm where it was.
    for _ in range(3):
        simulated.send((0.01, away), (0.2, away))
        end = np.array(simulated.wait_news(5)[-1].position[:7])
    assert np.abs(end - begin).max() < 0.01
    near = end + np.array([0.05, *[0.0] * 6])
    simulated.send((0.2, near))
    simulated.graph.wait(
        lambda: np.abs(simulated.positions() - near).max() < 0.02, "arm at its new goal"
    )


def test_an_unknown_family_is_refused(simulated):
    answer = simulated.reset(1, "juggle")
    assert not answer.success
    assert "juggle" in answer.message
    assert "open_drawer" in answer.message


def test_tasks_are_judged(simulated):
    answer = simulated.reset(11, "open_drawer")
    assert answer.task == "open_drawer/drawer"
    own = simulated.check()
    assert (own.valid, own.success, own.wrong_object) == (True, False, False)
    assert own.elapsed < 10
    assert simulated.check("close_drawer/drawer").success
    unknown = simulated.check("pick/pink elephant")
    assert not unknown.valid
    assert "pink elephant" in unknown.message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("executable", ["sim", "perception"])
def test_signals_end_it_cleanly(executable, number):
    with Graph() as graph:
        node = graph.start(executable)
        graph.wait_state(executable, "active")
        assert node.stop(number, timeout=5) == 0
        assert "Traceback" not in node.output
        assert "cleaned up" in node.output


def test_time_goes_on_after_a_restart():
    with Graph() as graph:
        clock = graph.node
        times = []
        clock.create_subscription(
            Clock, "clock", lambda m: times.append(stamp_to_nanoseconds(m.clock)), qos.CLOCK
        )
        first = graph.start("sim")
        graph.wait(lambda: len(times) > 10, "time")
        first.stop(signal.SIGKILL)
        last, count = times[-1], len(times)
        graph.start("sim")
        graph.wait(lambda: len(times) > count + 10, "time again", alive=False)
        assert all(time > last for time in times[count:])
