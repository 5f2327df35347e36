"""The scripted expert, episodes in process, and the demonstrations made from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla.datasets.frames import read_dataset
from vla.envs.base import Episode
from vla.envs.rollout import run_episode
from vla.envs.tabletop.demonstrations import (
    FIRST_TRAINING_SEED,
    DemonstrationConfig,
    make_demonstrations,
    make_shard,
)
from vla.envs.tabletop.environment import TableTopEnv, observation_of
from vla.envs.tabletop.expert import plan_chunk
from vla.envs.tabletop.expert_policy import ExpertPolicy
from vla.envs.tabletop.motion import MAX_STEP
from vla.envs.tabletop.tasks import ALL_FAMILIES, task_of_answer


@pytest.fixture(scope="module")
def blind(contract):
    """A contract without cameras, since the expert looks at the truth."""
    return replace(contract, cameras=())


def pick(seed):
    return Episode("pick", seed, {"family": "pick"})


@pytest.mark.slow
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_expert_solves_every_family(blind, family):
    environment = TableTopEnv(blind)
    expert = ExpertPolicy(environment)
    rollouts = [
        run_episode(environment, expert, Episode(family, seed, {"family": family}))
        for seed in range(2)
    ]
    assert all(rollout.success for rollout in rollouts), rollouts
    assert not any(rollout.info["wrong_object"] for rollout in rollouts)
    assert all(1.0 < rollout.seconds < 10.0 for rollout in rollouts)


def test_plans_move_in_small_steps(simulator):
    task = simulator.reset(1, "place")
    chunk = plan_chunk(simulator, task, 16)
    assert chunk.shape == (16, 7) and np.isfinite(chunk).all()
    assert np.linalg.norm(chunk[:, :3], axis=1).max() <= MAX_STEP + 1e-9
    assert set(chunk[:, 6]) <= {0.0, 1.0}
    np.testing.assert_array_equal(chunk, plan_chunk(simulator, task, 16), "it keeps no memory")


@pytest.mark.slow
def test_delay_is_real_and_the_expert_lives_with_it(blind):
    environment = TableTopEnv(blind, steps_per_chunk=1, delay_steps=2)
    environment.reset(seed=0)
    at_first = environment.simulator.joint_positions
    positions = []
    rollout = run_episode(
        environment, ExpertPolicy(environment), pick(0),
        on_step=lambda environment: positions.append(environment.simulator.joint_positions),
    )  # fmt: skip
    assert rollout.success
    still = [np.abs(joints - at_first).max() < 0.01 for joints in positions[:4]]
    assert still == [True, True, False, False], "two steps pass before the first chunk arrives"


def test_observations_are_what_perception_gives(simulator, contract):
    simulator.reset(0, "pick")
    images, state = observation_of(simulator, contract)
    assert set(images) == {"front", "wrist"}
    assert all(image.shape == (96, 96, 3) for image in images.values())
    position, _ = simulator.end_effector_pose()
    np.testing.assert_array_equal(state[:3], position)
    assert state[9] == simulator.gripper_width


def test_demonstrations_are_complete_and_finite(shards, contract):
    for shard in shards:
        count = len(shard)
        assert count > 0 and set(shard.images) == {"front", "wrist"}
        for images in shard.images.values():
            assert images.shape == (count, 96, 96, 3) and images.dtype == np.uint8
            assert images.std() > 10
        assert shard.state.shape == (count, 10) and np.isfinite(shard.state).all()
        assert shard.action.shape == (count, contract.horizon, 7)
        assert np.isfinite(shard.action).all()
        assert np.linalg.norm(shard.action[..., :3], axis=-1).max() <= MAX_STEP + 1e-6
        assert len(shard.drawer_opening) == len(shard.held) == len(shard.episode) == count
        assert set(shard.episode) == set(range(len(shard.episodes)))
        for words in shard.episodes:
            assert task_of_answer(words.family, words.answer).family == words.family
            assert words.instruction and 2 <= len(words.objects) <= 4


@pytest.mark.slow
def test_failed_episodes_leave_no_trace(tmp_path, contract):
    """There is time enough for picking, and too little for placing."""
    config = DemonstrationConfig(
        episodes=4,
        episodes_per_shard=4,
        shares={"pick": 0.5, "place": 0.5},
        time_limit=3.4,
        tail_steps=1,
        noise_share=0.0,
        detour_share=0.0,
        frame_stride=6,
    )
    failures = make_shard((0, str(tmp_path), contract, config))
    assert 0 < failures < 4
    (shard,) = read_dataset(tmp_path, contract)
    assert len(shard.episodes) == 4 - failures
    assert {words.family for words in shard.episodes} == {"pick"}
    assert set(shard.episode) == set(range(4 - failures))
    assert make_shard((0, str(tmp_path), contract, config)) == 0, "what is there is kept"


@pytest.mark.slow
def test_shards_depend_on_the_seed_alone_and_workers_make_the_same(tmp_path, contract):
    config = DemonstrationConfig(
        episodes=1, episodes_per_shard=1, shares={"close_drawer": 1.0}, tail_steps=1
    )
    done = []
    make_demonstrations(
        tmp_path / "worker", contract, config, 1, lambda *counts: done.append(counts)
    )
    assert done == [(1, 1)]
    make_shard((0, str(tmp_path / "here"), contract, config))
    make_shard(
        (0, str(tmp_path / "other"), contract, replace(config, seed=FIRST_TRAINING_SEED + 9))
    )
    worker, here, other = (
        read_dataset(tmp_path / name, contract)[0] for name in ("worker", "here", "other")
    )
    np.testing.assert_array_equal(worker.action, here.action)
    np.testing.assert_array_equal(worker.images["wrist"], here.images["wrist"])
    assert not np.array_equal(here.action[0], other.action[0])
