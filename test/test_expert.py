"""The scripted expert, episodes in process, and the demonstrations made from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla.control.arm import ArmController, ArmControllerConfig
from vla.datasets.frames import read_dataset
from vla.envs.tabletop.demonstrations import (
    FIRST_TRAINING_SEED,
    DemonstrationConfig,
    make_demonstrations,
    make_shard,
    observation_of,
)
from vla.envs.tabletop.expert import MAX_STEP, plan_chunk
from vla.envs.tabletop.rollout import run_episode
from vla.envs.tabletop.tasks import ALL_FAMILIES, task_of_answer


def expert(simulator, task):
    return plan_chunk(simulator, task, 16)


@pytest.fixture(scope="module")
def arm(contract):
    return ArmController(ArmControllerConfig(), contract)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_expert_solves_every_family(simulator, arm, family):
    results = []
    for seed in range(2):
        task = simulator.reset(seed, family)
        results.append(run_episode(simulator, arm, expert, task))
    assert all(result.success and not result.wrong_object for result in results), results
    assert all(1.0 < result.seconds < 10.0 for result in results)


def test_plans_move_in_small_steps(simulator):
    task = simulator.reset(1, "place")
    chunk = plan_chunk(simulator, task, 16)
    assert chunk.shape == (16, 7) and np.isfinite(chunk).all()
    assert np.linalg.norm(chunk[:, :3], axis=1).max() <= MAX_STEP + 1e-9
    assert set(chunk[:, 6]) <= {0.0, 1.0}
    np.testing.assert_array_equal(chunk, plan_chunk(simulator, task, 16), "it keeps no memory")


def test_delay_is_real_and_the_expert_lives_with_it(simulator, arm):
    task = simulator.reset(0, "pick")
    moments = []

    def policy(simulator, task):
        moments.append(simulator.time)
        return expert(simulator, task)

    at_first = simulator.joint_positions
    positions = []
    result = run_episode(
        simulator, arm, policy, task, delay_steps=2,
        on_step=lambda simulator: positions.append(simulator.joint_positions),
    )  # fmt: skip
    assert result.success
    np.testing.assert_allclose(np.diff(moments), 0.3, atol=1e-6)
    still = [np.abs(joints - at_first).max() < 0.01 for joints in positions[:4]]
    assert still == [True, True, False, False], "two steps pass before the first chunk arrives"


def test_a_policy_that_does_nothing_fails_at_the_time_limit(simulator, arm):
    task = simulator.reset(0, "pick")
    result = run_episode(simulator, arm, lambda *_: np.zeros((16, 7)), task, time_limit=1.0)
    assert not result.success and result.seconds == pytest.approx(1.0, abs=0.11)


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
