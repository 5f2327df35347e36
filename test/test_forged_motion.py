"""Somebody forges joint states while the arm moves along the walls of its workspace.

Whatever is forged, the tool of each command lies inside of the workspace, or comes back from where
the arm truly was, and each motion starts where the arm truly is.
"""

from __future__ import annotations

import numpy as np
import pytest
from forged_world import PERIOD, Liar, World, faults_of, make_arm, play
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.control.execution import MODES
from vla.control.robots import panda
from vla.control.session import HoldReason

# Of a second publisher's name on the status, rest, and a clock that was set ahead [s].
LONGEST_RECOVERY = 4.0


@pytest.fixture(scope="module")
def arms():
    return {mode: make_arm(mode) for mode in MODES}


@pytest.mark.slow
@settings(max_examples=50)
@given(mode=st.sampled_from(MODES), seed=st.integers(0, 2**32 - 1))
def test_no_forged_state_leads_a_command_outside(arms, mode, seed):
    world = play(arms[mode], seed)
    # Whatever it was, the arm moves again when it is over.
    world.publishers = 1
    world.aim()
    limit = world.steady + LONGEST_RECOVERY
    while not world.report.executing and world.steady < limit:
        world.cycle()
    assert world.report.executing, (world.story, world.report)
    assert not faults_of(world), world.story


def moving_world(arms, mode="first") -> World:
    world = World(arms[mode], np.random.default_rng(3), panda.HOME.copy())
    world.session.start("pick", "act", world.steady, 1)
    world.aim()
    world.run(1.0)
    assert world.report.executing
    return world


def replayed(world, silence, publishers, namesakes):
    """The driver pauses, and a second publisher says all the time that the arm is elsewhere."""
    liar = Liar(world, "replay", world.joints + 0.3 * np.eye(7)[0])
    world.driver_talks = False
    world.run(silence)
    world.publishers, world.namesakes = publishers, namesakes
    for _ in range(round(1.2 / PERIOD)):
        liar.speak()
        world.cycle()


@pytest.mark.parametrize("silence", [0.0, 0.2, 0.4, 1.0])
def test_who_speaks_for_a_driver_that_pauses_is_not_believed(arms, silence):
    world = moving_world(arms)
    replayed(world, silence, publishers=2, namesakes=False)
    assert world.report.hold_reason == HoldReason.SECOND_PUBLISHER
    assert not faults_of(world) and np.abs(world.joints - panda.HOME).max() < 1.0
    world.driver_talks, world.publishers = True, 1
    world.run(2.5)
    assert world.report.executing, "it ends when its cause ends"
    assert not faults_of(world)


def test_a_driver_that_was_started_again_is_believed(arms):
    """A simulator comes back with its arm elsewhere: the motion starts there."""
    world = moving_world(arms)
    elsewhere = world.joints + 0.4 * np.sign(panda.HOME - world.joints)
    world.driver_talks, world.publishers, world.namesakes = False, 2, True
    world.run(0.5)
    world.put(elsewhere)
    world.driver_talks, world.driver_number = True, 0
    world.run(1.5)
    assert world.report.executing
    assert not faults_of(world)


def test_the_judge_finds_commands_beyond_a_wall_and_starts_elsewhere(arms):
    """A liar that nothing gives away: the driver is silent, and the graph has one publisher."""
    world = moving_world(arms)
    world.session.stop(world.steady)
    world.loop.flush()
    world.run(1.0)
    replayed(world, silence=0.4, publishers=1, namesakes=False)
    assert not faults_of(world)
    world.session.resume(world.steady)
    liar = Liar(world, "replay", world.joints + 0.3 * np.eye(7)[0])
    for _ in range(30):
        liar.speak()
        world.cycle()
    assert "rad from the arm" in " ".join(faults_of(world))
    outer = world.sent[-1]
    outer.tool[0] = world.arm.config.safety.workspace_max[0] + 0.05
    assert "50.0 mm outside" in " ".join(faults_of(world))
    world.sent[-2].velocities[0] += 5.0
    assert "velocity" in " ".join(faults_of(world))


@pytest.mark.parametrize("mode", MODES)
def test_a_start_elsewhere_waits_for_half_a_second_without_a_command(arms, mode):
    """Joints that stand still may do so since long before the last command."""
    world = moving_world(arms, mode)
    world.aim()
    world.frozen, world.can_be_told = world.joints.copy(), False
    world.run(0.5)
    assert np.abs(world.sent[-1].positions - world.frozen).max() > 0.05
    world.session.stop(world.steady)
    world.loop.flush()
    sent = 0
    while len(world.sent) > sent:
        sent = len(world.sent)
        world.cycle()
    world.session.resume(world.steady)
    world.run(1.0)
    assert len(world.sent) > sent, "the motion goes on"
    assert not faults_of(world)
