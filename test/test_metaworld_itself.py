"""MetaWorld itself, where `make metaworld` has installed it: scenes, axes, images, policies."""

from __future__ import annotations

import numpy as np
import pytest

from vla.envs.base import SuiteError
from vla.envs.metaworld.suite import MetaWorldSuite
from vla.envs.rollout import observation_digest


@pytest.fixture
def opened():
    """Opens tasks, each in a process of its own."""
    suite, environments = MetaWorldSuite(), []
    try:
        suite.require_installed()
    except SuiteError as error:
        pytest.skip(str(error))

    def make(task: str):
        environments.append(suite.environment(task))
        return environments[-1]

    yield make
    for environment in environments:
        environment.close()


def first_digest(environment, number: int) -> str:
    observation, _ = environment.reset(options={"seed": 4042 + number})
    return observation_digest(environment.seen(observation))


def test_a_scene_is_the_same_in_two_processes_and_after_other_episodes(opened):
    one, other = opened("push"), opened("push")
    digests = [first_digest(one, number) for number in range(3)]
    assert len(set(digests)) == 3
    assert first_digest(other, 2) == digests[2]
    for _ in range(40):
        other.step(other.expert_action())
    assert first_digest(other, 0) == digests[0]


def test_the_hand_moves_along_our_axes(opened):
    environment = opened("reach")
    for axis in range(3):
        observation, _ = environment.reset(options={"seed": 4042})
        begin = observation["state"]
        action = np.zeros(4)
        action[axis] = 0.01
        for _ in range(8):
            observation, *_ = environment.step(action)
        moved = observation["state"][:3] - begin[:3]
        assert moved[axis] > 0.02 and np.abs(np.delete(moved, axis)).max() < 0.01
        # The arm reaches over the table, which begins 20 cm before its base.
        assert begin[0] > 0.5 and abs(begin[1]) < 0.05
    images = environment.seen(observation)["images"]["corner2"]
    assert images.shape == (96, 96, 3)
    red = (images[..., 0] > 100) & (images[..., 1] < 60)
    rows, columns = np.nonzero(red)
    # The red arm stands in the left half, upright.
    assert len(rows) > 300 and columns.mean() < 48
    assert rows[columns < 16].min() < rows[columns < 16].max() - 30


@pytest.mark.parametrize("task", ["drawer-open", "pick-place"])
def test_the_scripted_policy_succeeds_through_our_axes(opened, task):
    environment = opened(task)
    _, info = environment.reset(options={"seed": 4042})
    truncated = False
    while not (info["success"] or truncated):
        _, _, _, truncated, info = environment.step(environment.expert_action())
    assert info["success"]
