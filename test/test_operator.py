"""The scripted operator, on a simulator that it sees from outside only."""

from __future__ import annotations

import numpy as np
import pytest

from vla.envs.tabletop.operator import ScriptedOperator
from vla.envs.tabletop.simulator import TableTopSimulator


@pytest.fixture(scope="module")
def operator(contract):
    return ScriptedOperator(contract)


def drive(operator, simulator, seconds, late=0, on_command=lambda command: None):
    """Runs the simulator as the node does: joints at 100 Hz, its configuration at 10 Hz.

    late: joint states that come between a configuration's moment and its message; -1: it comes
    before the joint state of its moment.
    """
    waiting: list[tuple[int, np.ndarray]] = []
    for tick in range(round(seconds * 100)):
        if tick % 10 == 0:
            waiting.append((tick + max(late, 0), simulator.qpos))
        if late < 0 and waiting:
            operator.take_configuration(waiting.pop(0)[1])
        command = operator.take_joints(100.0 + simulator.time, simulator.joint_positions)
        while waiting and waiting[0][0] <= tick:
            operator.take_configuration(waiting.pop(0)[1])
        if command is not None:
            on_command(command)
            simulator.command(command.joint_positions, command.gripper_width)
        simulator.step(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "late"), [("store", 0), ("place", 2), ("open_drawer", -1)])
def test_it_solves_a_task_whatever_the_order_of_the_messages(operator, simulator, family, late):
    task = simulator.reset(4, family)
    assert operator.begin(4, family) == task
    commands = []
    drive(operator, simulator, 8.0, late, commands.append)
    assert simulator.check(task).success
    assert len(commands) == pytest.approx(400, abs=2), "50 commands a second"
    assert sum(command.executing for command in commands) > 390


def test_it_does_nothing_before_it_begins_and_after_it_ended(operator, simulator):
    simulator.reset(4, "pick")
    operator.end()
    operator.take_configuration(simulator.qpos)
    assert operator.take_joints(0.0, simulator.joint_positions) is None
    operator.begin(4, "pick")
    first = operator.take_joints(0.0, simulator.joint_positions)
    assert not first.executing, "it keeps the arm where it is"
    np.testing.assert_array_equal(first.joint_positions, simulator.joint_positions)
    operator.end()
    assert operator.take_joints(1.0, simulator.joint_positions) is None


def test_it_holds_when_the_scene_is_not_seen_any_more(operator, simulator):
    simulator.reset(4, "pick")
    operator.begin(4, "pick")
    drive(operator, simulator, 1.0)
    commands = []
    for tick in range(200):
        stamp = 101.0 + 0.01 * tick
        if command := operator.take_joints(stamp, simulator.joint_positions):
            commands.append(command)
            simulator.command(command.joint_positions, command.gripper_width)
        simulator.step(0.01)
    assert commands[0].executing and not commands[-1].executing
    held = [command.joint_positions for command in commands if not command.executing][15:]
    assert len(held) > 20 and all(np.array_equal(joints, held[0]) for joints in held)


def test_another_scene_s_configuration_is_refused(operator):
    operator.begin(4, "pick")
    with pytest.raises(ValueError, match="values, got 7: are simulator and operator"):
        operator.take_configuration(np.zeros(7))
    with pytest.raises(ValueError, match="unknown task family 'juggle'"):
        operator.begin(4, "juggle")


def test_the_mirror_shows_what_the_simulator_does(operator):
    simulator = TableTopSimulator()
    task = simulator.reset(6, "store")
    operator.begin(6, "store")
    drive(operator, simulator, 3.01)
    np.testing.assert_allclose(operator.mirror.qpos, simulator.qpos, atol=0.01)
    for name in simulator.objects():
        np.testing.assert_allclose(
            operator.mirror.object_position(name), simulator.object_position(name), atol=0.01
        )
    assert operator.mirror.scene_objects == simulator.scene_objects
    assert operator.task == task
    simulator.close()
