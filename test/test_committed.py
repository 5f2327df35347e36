"""The old chunk seen from a new observation, and a new chunk that begins with it."""

import numpy as np
import pytest

from vla.control.chunk import ActionChunk, ChunkTrajectory
from vla.control.committed import committed_actions
from vla.rotations import difference, from_rotation_vector, multiply

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
        assert again.action(middle)[6] == path.action(middle)[6]


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
