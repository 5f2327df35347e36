"""The old chunk seen from a new observation, and a new chunk that begins with it."""

import numpy as np
import pytest

from vla.control.chunk import ActionChunk, ChunkTrajectory
from vla.control.committed import CommittedActions, committed_actions, join
from vla.core.rotations import difference, from_rotation_vector, multiply

STEP, HORIZON = 0.1, 16


def random_chunk(generator, stamp=10.0):
    actions = generator.normal(0.0, 0.02, (HORIZON, 7))
    actions[:, 6] = generator.integers(0, 2, HORIZON)
    turn = from_rotation_vector(generator.normal(0.0, 1.0, 3))
    return ActionChunk(stamp, STEP, actions, generator.normal(0.0, 0.3, 3), turn)


def somewhere_near(generator, trajectory, stamp):
    """A tool pose that is a little off the path, as an arm's is."""
    target = trajectory.target(stamp)
    turned = multiply(from_rotation_vector(generator.normal(0.0, 0.05, 3)), target.quaternion)
    return target.position + generator.normal(0.0, 0.02, 3), turned


def as_chunk(actions, stamp, pose):
    padded = np.zeros((HORIZON, 7))
    padded[: len(actions)] = actions
    return ChunkTrajectory(ActionChunk(stamp, STEP, padded, *pose))


@pytest.mark.parametrize("seed", range(8))
def test_from_a_new_observation_the_targets_are_the_same(seed):
    """For any pose and any time between the steps."""
    generator = np.random.default_rng(seed)
    old = random_chunk(generator)
    path = ChunkTrajectory(old)
    stamp = old.stamp + generator.uniform(0.0, 1.3)
    pose = somewhere_near(generator, path, stamp)
    before = committed_actions(old, stamp, *pose, delay=0.25, soft_steps=HORIZON)
    assert before.committed == 3
    again = as_chunk(before.actions, stamp, pose)
    for index in range(1, len(before.actions) + 1):
        wanted, found = (way.target(stamp + index * STEP) for way in (path, again))
        np.testing.assert_allclose(found.position, wanted.position, atol=1e-9)
        assert np.abs(difference(found.quaternion, wanted.quaternion)).max() < 1e-6
        middle = stamp + (index - 0.5) * STEP
        assert again.target(middle).gripper == path.target(middle).gripper


def test_on_the_path_and_on_a_step_they_are_the_old_actions_shifted():
    old = random_chunk(np.random.default_rng(1))
    path = ChunkTrajectory(old)
    stamp = old.stamp + 3 * STEP
    here = path.target(stamp)
    before = committed_actions(old, stamp, here.position, here.quaternion, 0.2, soft_steps=5)
    assert before.committed == 2 and len(before.actions) == 7
    np.testing.assert_allclose(before.actions, old.actions[3:10], atol=1e-7)


def test_nothing_is_left_of_a_chunk_that_is_over_or_of_a_later_observation():
    old = random_chunk(np.random.default_rng(2))
    pose = (old.reference_position, old.reference_quaternion)
    assert committed_actions(old, old.stamp + HORIZON * STEP, *pose, 0.1) is None
    assert committed_actions(old, old.stamp - 0.01, *pose, 0.1) is None
    last = committed_actions(old, old.stamp + (HORIZON - 1) * STEP, *pose, 0.1)
    assert last.committed == 1


@pytest.mark.parametrize("begun_late", [False, True])
def test_the_observation_tells_whether_a_late_chunk_was_begun_late(begun_late):
    """It was when the arm stood still until it came."""
    actions = np.zeros((HORIZON, 7))
    actions[:, 1] = 0.02
    pose = (np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
    old, late = ActionChunk(10.0, STEP, actions, *pose), 0.7
    path = ChunkTrajectory(old, 10.0 + late * begun_late)
    stamp = 11.0
    here = path.target(stamp)
    before = committed_actions(old, stamp, here.position + 0.002, here.quaternion, 0.2, late=late)
    assert before.committed == 2
    np.testing.assert_allclose(before.actions[0, :3], [-0.002, 0.018, -0.002], atol=1e-9)
    np.testing.assert_allclose(before.actions[1, :3], [0.0, 0.02, 0.0], atol=1e-9)


def test_past_the_end_of_the_old_chunk_the_arm_waits_where_it_has_ended():
    old = random_chunk(np.random.default_rng(4))
    path = ChunkTrajectory(old)
    stamp = path.end - 3 * STEP
    here = path.target(stamp)
    before = committed_actions(old, stamp, here.position, here.quaternion, delay=0.5)
    assert before.committed == len(before.actions) == 5
    np.testing.assert_allclose(before.actions[:3], old.actions[-3:], atol=1e-7)
    np.testing.assert_allclose(before.actions[3:, :6], 0.0, atol=1e-9)
    assert (before.actions[3:, 6] == old.actions[-1, 6]).all()


# Joining


def straight(speed, grippers=1.0):
    """A chunk along x, `speed` metres a step."""
    actions = np.zeros((HORIZON, 7))
    actions[:, 0] = speed
    actions[:, 6] = grippers
    return actions


def committed(actions, count):
    return CommittedActions(actions[:count], count)


@pytest.mark.parametrize("seed", range(4))
def test_a_joined_chunk_begins_with_the_committed_steps_exactly(seed):
    generator = np.random.default_rng(seed)
    old, new = (random_chunk(generator).actions for _ in range(2))
    joined = join(committed(old, 5), new)
    np.testing.assert_array_equal(joined[:5], old[:5])
    assert joined.shape == new.shape and np.isfinite(joined).all()


def test_without_committed_steps_a_chunk_is_as_the_model_made_it():
    new = random_chunk(np.random.default_rng(5)).actions
    np.testing.assert_array_equal(join(committed(straight(0.01), 0), new), new)


def test_a_chunk_that_agrees_with_the_committed_steps_stays_as_it_is():
    new = random_chunk(np.random.default_rng(6)).actions
    np.testing.assert_allclose(join(committed(new, 6), new), new, atol=1e-7)


def test_what_the_new_observation_corrects_is_made_up_for_after_the_committed_steps():
    """The new chunk goes the same way 2 cm beside the old one."""
    old, new = straight(0.02), straight(0.02)
    new[0, 1] = 0.02
    path = join(committed(old, 5), new)[:, :3].cumsum(axis=0)
    beside = path[:, 1]
    np.testing.assert_allclose(beside[:5], 0.0, atol=1e-12)
    assert (np.diff(beside[4:9]) > 0).all()
    np.testing.assert_allclose(beside[8:], 0.02, atol=1e-12)


def test_an_arm_that_is_behind_the_plan_closes_the_gripper_in_the_same_place():
    """The plan goes 8 steps ahead and closes the gripper; the committed steps stand for 4."""
    plan = straight(0.02)
    plan[8:, 0] = 0.0
    plan[8:, 6] = 0.0
    waiting = straight(0.0)
    joined = join(committed(waiting, 4), plan)
    closes = int(np.argmax(joined[:, 6] < 0.5))
    assert closes == 12
    assert joined[:closes, 0].sum() == pytest.approx(0.16)
    path = joined[4:, 0]
    assert np.abs(np.diff(path[:8])).max() < 1e-9, "nothing is skipped, nothing is made up for"


def test_an_arm_whose_gripper_is_already_closed_does_not_open_it_again():
    """The plan approaches and closes at its fifth step, the committed ones have done so."""
    plan = straight(0.0, grippers=np.r_[np.ones(4), np.zeros(HORIZON - 4)])
    joined = join(committed(straight(0.0, grippers=0.0), 3), plan)
    assert (joined[:, 6] == 0).all()


def test_turns_are_made_up_for_too():
    old, new = straight(0.01), straight(0.01)
    new[0, 5] = 0.2
    joined = join(committed(old, 5), new)
    way = ChunkTrajectory(ActionChunk(0.0, STEP, joined, np.zeros(3), np.array([0, 0, 0, 1.0])))
    turned = difference(way.target(HORIZON * STEP).quaternion, np.array([0, 0, 0, 1.0]))
    np.testing.assert_allclose(turned, [0, 0, 0.2], atol=1e-6)
