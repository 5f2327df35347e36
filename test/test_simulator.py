"""The simulated table: scenes by seed, images, commands and verdicts."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from vla.control.robots import panda
from vla.envs.tabletop.simulator import DRAWER_OPEN, LIFT_HEIGHT, TableTopSimulator
from vla.envs.tabletop.tasks import FAMILIES, Task, parse_task


def move_object(simulator, name, position) -> None:
    """Puts a block or can somewhere, at rest."""
    joint = simulator.model.joint(simulator.scene_objects[name].body)
    qpos = simulator.qpos
    qpos[joint.qposadr[0] : joint.qposadr[0] + 3] = position
    simulator.data.qvel[joint.dofadr[0] : joint.dofadr[0] + 6] = 0.0
    simulator.set_qpos(qpos)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_is_a_scene(simulator, family):
    first = simulator.reset(7, family), simulator.qpos, simulator.render("front")
    simulator.reset(2, "pick")
    other = simulator.reset(8, family), simulator.qpos
    again = simulator.reset(7, family), simulator.qpos, simulator.render("front")
    assert first[0] == again[0] and first[0].family == family
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(first[2], again[2])
    assert not np.array_equal(first[1], other[1])


def test_scenes_hold_distinct_objects_apart_from_each_other(simulator):
    counts = set()
    for seed in range(12):
        simulator.reset(seed, "pick")
        names = simulator.objects()
        counts.add(len(names))
        assert len(set(names)) == len(names)
        places = np.array([simulator.object_position(name)[:2] for name in names])
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(len(names))
        assert gaps.min() > 0.06
        assert (places > [0.3, -0.36]).all() and (places < [0.7, 0.16]).all()
        assert all(abs(simulator.lift(name)) < 0.002 for name in names)
    assert counts == {2, 3, 4}


def test_images_show_the_scene(simulator):
    simulator.reset(1, "pick")
    for camera in simulator.camera_names:
        image = simulator.render(camera)
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        assert image.std() > 10
    before = simulator.render("front")
    name = simulator.objects()[0]
    move_object(simulator, name, [-2.0, 0.0, -0.5])
    changed = np.abs(simulator.render("front").astype(int) - before).max(axis=2) > 40
    assert 4 < changed.sum() < 1000, "taking an object away changes its part of the image"
    assert simulator.render("overview", 64).shape == (64, 64, 3)


def test_camera_matrix_maps_a_point_to_its_pixel(simulator):
    simulator.reset(1, "pick")
    name = simulator.objects()[0]
    camera = simulator.data.camera("front")
    axes = camera.xmat.reshape(3, 3)  # right, up, backward
    x, y, z = axes.T @ (simulator.object_position(name) - camera.xpos)
    column, row, depth = simulator.camera_matrix("front") @ np.array([x, -y, -z])
    column, row = column / depth, row / depth
    before = simulator.render("front").astype(int)
    move_object(simulator, name, [-2.0, 0.0, -0.5])
    changed = np.abs(simulator.render("front") - before).max(axis=2) > 40
    rows, columns = np.nonzero(changed)
    assert abs(columns.mean() - column) < 4 and abs(rows.mean() - row) < 4


def test_state_is_that_of_the_arm(simulator):
    simulator.reset(3, "pick")
    position, quaternion = simulator.end_effector_pose()
    assert simulator.time == 0.0
    assert simulator.joint_positions.shape == simulator.joint_velocities.shape == (7,)
    assert np.linalg.norm(quaternion) == pytest.approx(1.0)
    assert 0.2 < position[0] < 0.7 and 0.1 < position[2] < 0.7
    assert simulator.gripper_width == pytest.approx(panda.OPEN_WIDTH, abs=2e-3)
    assert simulator.finger_positions.sum() == pytest.approx(simulator.gripper_width)


def test_the_arm_goes_where_it_is_told_and_the_gripper_closes(simulator):
    simulator.reset(3, "pick")
    target = simulator.joint_positions + np.array([0.2, 0, 0, 0, 0, 0, -0.2])
    simulator.command(target, 0.0)
    simulator.step(1.5)
    assert simulator.time == pytest.approx(1.5)
    np.testing.assert_allclose(simulator.joint_positions, target, atol=0.02)
    assert np.abs(simulator.joint_velocities).max() < 0.05
    assert simulator.gripper_width < 0.004


def test_commands_beyond_the_joints_are_cut_and_broken_ones_refused(simulator):
    simulator.reset(3, "pick")
    simulator.command(np.full(7, 9.0), 1.0)
    np.testing.assert_array_equal(simulator.data.ctrl[:7], panda.JOINT_UPPER)
    simulator.command(panda.HOME, 0.08)
    for joints, width in (
        (np.zeros(6), 0.0),
        (np.full(7, np.nan), 0.0),
        (np.zeros(7), np.inf),
    ):
        with pytest.raises(ValueError, match="7 finite joint positions"):
            simulator.command(joints, width)
        np.testing.assert_array_equal(simulator.data.ctrl[:7], panda.HOME)


def test_picking_is_done_once_the_object_is_held_high(simulator):
    task = simulator.reset(2, "pick")
    assert not simulator.check(task).success
    tool, _ = simulator.end_effector_pose()
    move_object(simulator, task.target, tool)
    assert simulator.lift(task.target) > LIFT_HEIGHT
    assert not simulator.check(task).success, "high, but no finger touches it"
    simulator.command(simulator.joint_positions, 0.0)
    for _ in range(20):  # held up until the fingers have it
        move_object(simulator, task.target, tool)
        simulator.step(0.02)
    simulator.step(0.2)
    status = simulator.check(task)
    assert status.success and not status.wrong_object
    other = next(name for name in simulator.objects() if name != task.target)
    status = simulator.check(Task("pick", other))
    assert not status.success and status.wrong_object, "the first one was not asked for"
    simulator.command(simulator.joint_positions, panda.OPEN_WIDTH)
    simulator.step(0.8)
    assert not simulator.check(task).success, "dropped again"
    simulator.reset(2, "pick")
    assert not simulator.check(Task("pick", other)).wrong_object, "a reset forgets"


@pytest.mark.parametrize("destination", ["bowl", "plate"])
def test_placing_is_done_once_the_object_rests_there(simulator, destination):
    simulator.reset(5, "place")
    task = Task("place", simulator.objects()[0], destination)
    other = Task("place", task.target, "plate" if destination == "bowl" else "bowl")
    assert not simulator.check(task).success
    place = simulator.place_position(destination)
    move_object(simulator, task.target, place + np.array([0, 0, 0.25]))
    assert not simulator.check(task).success, "above it"
    move_object(simulator, task.target, place + np.array([0, 0, 0.06]))
    simulator.step(0.6)
    assert simulator.check(task).success
    assert not simulator.check(other).success


def test_drawer_verdicts_follow_its_opening(simulator):
    opening, closing = Task("open_drawer", "drawer"), Task("close_drawer", "drawer")
    for family, expected in (("open_drawer", (False, True)), ("close_drawer", (True, False))):
        simulator.reset(6, family)
        assert (simulator.check(opening).success, simulator.check(closing).success) == expected
    qpos = simulator.qpos
    qpos[simulator.model.joint("drawer").qposadr[0]] = DRAWER_OPEN / 2
    simulator.set_qpos(qpos)
    assert simulator.drawer_opening == pytest.approx(DRAWER_OPEN / 2)
    assert not simulator.check(opening).success and not simulator.check(closing).success


def test_tasks_about_absent_things_are_refused(simulator):
    simulator.reset(0, "pick")
    name = simulator.objects()[0]
    assert simulator.parse_task(f"pick/{name}") == parse_task(f"pick/{name}")
    colors = {"red", "green", "blue", "yellow", "purple"}
    absent = next(f"{c} block" for c in colors if f"{c} block" not in simulator.objects())
    with pytest.raises(ValueError, match=f"there is no {absent}; there are: .*{name}"):
        simulator.parse_task(f"pick/{absent}")
    with pytest.raises(ValueError, match="unknown task family"):
        simulator.reset(0, "throw")
    with pytest.raises(ValueError, match=r"expected \d+ values, got 3"):
        simulator.set_qpos(np.zeros(3))


@pytest.mark.slow
def test_a_simulator_that_nobody_holds_goes():
    simulator = TableTopSimulator(32)
    simulator.render("front")
    simulator.close()
    assert simulator.render("front").shape == (32, 32, 3), "drawing works again after close()"
    gone = weakref.ref(simulator)
    del simulator
    gc.collect()
    assert gone() is None
