"""What viewers get: markers of the motion, transforms and shapes of the scene, without DDS."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.clock import Clock
from visualization_msgs.msg import Marker

from vla.contract.embodiment import load_contract
from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ActionChunk
from vla.control.robots import panda
from vla.control.safety import SafetyLimits
from vla.control.session import ArmReport, HoldReason
from vla.core.resources import contract_path
from vla.envs.tabletop.simulator import TableTopSimulator
from vla_nodes.controller.markers import PERIOD, MotionMarkers
from vla_nodes.sim.frames import SceneFrames

CONTRACT = load_contract(contract_path("sim_panda"))
LOW, HIGH, BOX = (0.25, -0.45, 0.012), (0.75, 0.45, 0.65), (0.6, 0.2, 0.0, 0.7, 0.3, 0.4)
HORIZON = 16
EXECUTING = ArmReport(executing=True)


class Output:
    """A publisher with some readers, which keeps what it is given."""

    def __init__(self):
        self.readers, self.sent = 1, []

    def get_subscription_count(self) -> int:
        return self.readers

    def publish(self, message) -> None:
        self.sent.append(message)


class Outputs:
    """The part of a node that publishes."""

    def __init__(self):
        self.of: dict[str, Output] = {}

    def create_lifecycle_publisher(self, kind, topic, profile) -> Output:
        return self.of.setdefault(topic, Output())

    def get_clock(self) -> Clock:
        return Clock()


@pytest.fixture
def motion():
    limits = SafetyLimits(LOW, HIGH, keep_out=(BOX,))
    arm = ArmController(ArmControllerConfig(safety=limits), CONTRACT)
    node = Outputs()
    markers = MotionMarkers(node, "panda_link0", arm)
    return SimpleNamespace(arm=arm, markers=markers, output=node.of["vla/markers"])


def follow(motion, step, begin: float = 0.0, cycles: int = 30):
    """Has the arm follow a chunk of equal steps from a time on, each cycle with its update."""
    if not motion.arm.safety.anchored:
        motion.arm.step(begin, panda.HOME)
    joints = motion.arm.safety.motion.positions
    position, quaternion = motion.arm.kinematics.tool_pose(joints)
    actions = np.tile([*step, 0.0, 0.0, 0.0, 1.0], (HORIZON, 1))
    actions[HORIZON // 2 :, 6] = 0.0
    chunk = ActionChunk(begin, CONTRACT.time_step, actions, position, quaternion)
    motion.arm.accept(chunk, begin)
    for cycle in range(cycles):
        now = begin + 0.02 * cycle
        command = motion.arm.step(now, motion.arm.safety.motion.positions)
        motion.markers.update(now, EXECUTING)
        assert command.executing
    return position


def drawn(motion) -> dict[str, list[Marker]]:
    """The markers of the last message by namespace, after the one that deletes those before."""
    first, *markers = motion.output.sent[-1].markers
    assert first.action == Marker.DELETEALL
    assert {marker.header.frame_id for marker in markers} == {"panda_link0"}
    names = {marker.ns for marker in markers}
    return {name: [m for m in markers if m.ns == name] for name in names}


def test_a_chunk_is_a_path_of_tool_poses_in_the_gripper_s_colour(motion):
    start = follow(motion, (0.0, 0.01, 0.0))
    shown = drawn(motion)
    (path,), (steps,), (tool,) = (shown[f"chunk {name}"] for name in ("path", "steps", "tool"))
    points = np.array([[p.x, p.y, p.z] for p in path.points])
    assert np.allclose(points[0], start) and np.allclose(points[-1], start + np.array([0, 0.16, 0]))
    assert steps.points == path.points and len(tool.points) == 2 * (HORIZON + 1)
    strokes = np.array([[p.x, p.y, p.z] for p in tool.points]).reshape(-1, 2, 3)
    assert np.allclose(strokes[:, 1], points)
    # At home the fingers point down, so a stroke comes from above.
    assert (strokes[:, 0, 2] - strokes[:, 1, 2]).min() > 0.029
    opened, closed = path.colors[HORIZON // 2], path.colors[-1]
    assert opened.b > opened.r and closed.r > closed.b
    assert opened == path.colors[0] and closed == path.colors[HORIZON // 2 + 1]


def test_the_boxes_are_those_of_the_limits_and_show_which_holds(motion):
    follow(motion, (0.0, 0.0, 0.01))
    shown = drawn(motion)
    ends = np.array([[p.x, p.y, p.z] for p in shown["workspace"][0].points])
    assert np.allclose(ends.min(axis=0), LOW) and np.allclose(ends.max(axis=0), HIGH)
    assert ends.shape == (24, 3) and len({tuple(np.round(e, 6)) for e in ends}) == 8
    (cube,) = shown["keep out"]
    assert cube.pose.position.x == pytest.approx(0.65) and cube.scale.z == pytest.approx(0.4)
    assert "limit" not in shown
    calm = shown["workspace"][0].color
    follow(motion, (0.0, 0.0, 0.04), begin=0.6, cycles=40)
    shown = drawn(motion)
    assert "workspace" in shown["limit"][0].text
    assert shown["workspace"][0].color != calm


def test_why_the_arm_holds_is_written_in_one_line(motion):
    words = "no observation\nhas come for 0.3 s: is perception running? " * 9
    motion.markers.update(
        1.0, ArmReport(executing=False, hold_reason=HoldReason.STALE_STATE, message=words)
    )
    shown = drawn(motion)
    text = shown["limit"][0].text
    assert text.startswith("no observation") and "\n" not in text and len(text) <= 120
    assert "chunk path" not in shown


def test_nothing_is_drawn_unless_somebody_looks_and_then_at_five_hertz(motion):
    motion.output.readers = 0
    follow(motion, (0.0, 0.01, 0.0))
    assert not motion.output.sent
    motion.output.readers = 1
    for cycle in range(101):
        motion.markers.update(10.0 + 0.02 * cycle, EXECUTING)
    assert len(motion.output.sent) == pytest.approx(2.0 / PERIOD, abs=2)
    for marker in motion.output.sent[-1].markers[1:]:
        assert 0 < marker.lifetime.sec + marker.lifetime.nanosec * 1e-9 < 2


def test_the_simulator_sends_its_tree_only_to_readers():
    simulator, node = TableTopSimulator(), Outputs()
    frames = SceneFrames(node, simulator)
    task = simulator.reset(5, "place")
    frames.announce(Time(sec=3))
    assert 'name="panda_hand_tcp"' in node.of["robot_description"].sent[0].data
    fixed = {t.child_frame_id: t for t in node.of["tf_static"].sent[0].transforms}
    assert fixed["camera_wrist_optical_frame"].header.frame_id == "camera_wrist_link"
    moving = node.of["tf"]
    moving.readers = 0
    frames.read(Time(sec=4), with_scene=True)
    frames.send()
    assert not moving.sent
    moving.readers = 1
    for with_scene in (False, True):
        frames.read(Time(sec=5), with_scene)
        frames.send()
    arm, again, scene = moving.sent
    assert {t.header.stamp.sec for m in moving.sent for t in m.transforms} == {5}
    assert [t.child_frame_id for t in arm.transforms[:2]] == ["panda_link1", "panda_link2"]
    assert arm == again
    target = task.target.replace(" ", "_")
    (place,) = (t.transform for t in scene.transforms if t.child_frame_id == target)
    position = simulator.object_position(task.target)
    assert np.allclose(
        [place.translation.x, place.translation.y, place.translation.z], position, atol=1e-9
    )
    (first, *shapes) = node.of["sim/scene"].sent[0].markers
    assert first.action == Marker.DELETEALL
    assert {m.ns for m in shapes} == {"panda_link0", *(t.child_frame_id for t in scene.transforms)}
    shape = next(m for m in shapes if m.ns == target)
    size = simulator.scene_objects[task.target].size
    assert shape.scale.z == pytest.approx(2 * size[-1]) and shape.frame_locked
