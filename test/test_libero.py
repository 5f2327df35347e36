"""LIBERO, faked by test/fake_benchmarks: episodes, actions, state, images, and what goes wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_workers import fake_python
from scipy.spatial.transform import Rotation

from vla.contract.embodiment import ContractError, load_contract
from vla.core.resources import contract_path
from vla.envs.base import SuiteError
from vla.envs.libero.environment import axis_angle, to_libero
from vla.envs.libero.protocols import as_in_the_data, middle
from vla.envs.libero.suite import SUITES, LiberoSuite
from vla.evaluation.benchmark import evaluate, summarize


class Lifter:
    """Lifts by 2 cm a step, turns a little, and closes the gripper after some steps, if ever."""

    said, refused, window = None, False, 1

    def __init__(self, contract, closes: bool = True):
        self.contract, self.closes = contract, closes
        self.instructions: list[str] = []
        self.states: list[np.ndarray] = []
        self.images: list[dict[str, np.ndarray]] = []

    def reset(self, instruction, seed=None, think=False):
        self.instructions.append(instruction)

    def chunk(self, images, state, time):
        self.states.append(state)
        self.images.append(images)
        actions = np.zeros((self.contract.horizon, 7))
        actions[:, 2], actions[:, 5], actions[:, 6] = 0.02, 0.01, 1.0
        if self.closes:
            actions[6:, 6] = 0.0
        return actions


@pytest.fixture
def suite(tmp_path):
    def make(fault: str = "", times: int = 1, **settings) -> LiberoSuite:
        python = fake_python(tmp_path, "libero", fault=fault, times=times)
        return LiberoSuite(python=str(python), **settings)

    return make


def test_a_hundred_episodes_are_ten_of_each_task():
    suite = LiberoSuite()
    assert suite.families == ("spatial", "object", "goal", "long") and suite.usual_episodes == 100
    episodes = list(suite.episodes("long", range(100)))
    assert {episode.options["suite"] for episode in episodes} == {"libero_10"}
    pairs = {(episode.options["task"], episode.options["state"]) for episode in episodes}
    assert pairs == {(task, state) for task in range(10) for state in range(10)}
    assert len(list(suite.episodes("goal", range(490, 600)))) == 10
    with pytest.raises(SuiteError, match="goal has the episodes 0 to 499; give lower seeds"):
        list(suite.episodes("goal", range(500, 510)))


def test_actions_are_in_liberos_units_and_the_gripper_is_turned_round():
    action = np.array([0.05, -0.025, 0.2, 0.25, -0.5, -2.0, 1.0])
    assert to_libero(action).tolist() == [1, -0.5, 1, 0.5, -1, -1, -1]
    for opening, told in ((0.0, 1), (0.5, 1), (0.51, -1), (1.0, -1)):
        assert to_libero(np.array([0, 0, 0, 0, 0, 0, opening]))[6] == told


def test_the_rotation_vector_does_not_jump_where_the_tool_points_down():
    for angle in (-0.02, 0.02):
        turn = Rotation.from_rotvec([np.pi + angle, 0, 0])
        quaternion = np.array([np.cos(angle / 2), 0, 0, -np.sin(angle / 2)])
        assert (Rotation.from_quat(quaternion) * turn.inv()).magnitude() < 1e-9
        np.testing.assert_allclose(axis_angle(quaternion), [np.pi + angle, 0, 0], atol=1e-9)
    assert axis_angle(np.array([0.0, 0.0, 0.0, 1.0])).tolist() == [0, 0, 0]
    assert axis_angle(np.array([0.0, 0.0, 0.0, -1.0])).tolist() == [0, 0, 0]


def test_an_episode_ends_with_success_and_is_counted_by_task(suite):
    benchmark = suite()
    policy = Lifter(benchmark.contract)
    results = evaluate(policy, benchmark, ["spatial"], range(9, 12))
    assert all(result.success and not result.error for result in results)
    assert policy.instructions == [f"do task {task} of libero_spatial" for task in (9, 0, 1)]
    (summary,) = summarize(results)
    names = [f"libero_spatial_task_{task}" for task in (0, 1, 9)]
    assert summary.subtasks == dict.fromkeys(names, (1, 1))
    # Six steps open, and four to close the fingers.
    assert [result.seconds for result in results] == [pytest.approx(0.5)] * 3
    state = policy.states[0]
    np.testing.assert_allclose(state, [0, 0, 1, np.pi, 0, 0, 0.04, -0.04], atol=1e-9)
    assert policy.states[1][1] == pytest.approx(0.01), "the second initial state of task 0"
    seen = policy.images[0]
    assert {name: image.shape for name, image in seen.items()} == dict.fromkeys(
        ("agentview", "wrist"), (224, 224, 3)
    )
    assert seen["agentview"][112:, 112:].min() == 200 and not seen["agentview"][:, :112].any()
    assert seen["wrist"][112:, :112].min() == 200 and not seen["wrist"][:, 112:].any()


@pytest.mark.slow
@pytest.mark.parametrize(("family", "steps", "chunks"), [("goal", 350, 25), ("long", 1330, 95)])
def test_fourteen_steps_of_each_chunk_are_executed_until_the_time_is_up(
    suite, family, steps, chunks
):
    benchmark = suite()
    policy = Lifter(benchmark.contract, closes=False)
    (result,) = evaluate(policy, benchmark, [family], range(1))
    assert (result.failure, len(policy.states)) == ("time_limit", chunks)
    assert result.seconds == pytest.approx(steps / 20)
    np.testing.assert_allclose(policy.states[1][2], 1.0 + 14 * 0.02)
    turn = Rotation.from_rotvec(policy.states[1][3:6]) * Rotation.from_rotvec([np.pi, 0, 0]).inv()
    np.testing.assert_allclose(turn.as_rotvec(), [0, 0, 14 * 0.01], atol=1e-9)


# As InstructVLA evaluates


@pytest.mark.slow
def test_instructvla_runs_fifty_episodes_of_each_task_in_fewer_steps(suite):
    benchmark = suite(protocol="instructvla")
    assert benchmark.usual_episodes == 500 and suite().usual_episodes == 100
    assert "usual_episodes" not in benchmark.settings()
    small = [replace(camera, width=32, height=32) for camera in benchmark.contract.cameras]
    policy = Lifter(replace(benchmark.contract, cameras=tuple(small)), closes=False)
    (result,) = evaluate(policy, benchmark, ["spatial"], range(1))
    assert (result.failure, len(policy.states)) == ("time_limit", 220), "a chunk for every step"
    # A step is the mean of what eight chunks say, and these all say the same.
    np.testing.assert_allclose(policy.states[1][2], 1.02)
    with pytest.raises(SuiteError, match="unknown protocol 'pi0'; known: la4vla, instructvla"):
        LiberoSuite(protocol="pi0")


def test_steps_of_a_chunk_that_are_asked_for_replace_its_mean(suite):
    benchmark = suite(protocol="instructvla", steps_per_chunk=10)
    policy = Lifter(benchmark.contract)
    (result,) = evaluate(policy, benchmark, ["object"], range(1))
    assert result.success and len(policy.states) == 1


def test_its_mean_over_chunks_compares_actions_in_liberos_units(suite):
    benchmark = suite(protocol="instructvla")
    environment = benchmark.make("goal")
    (episode,) = benchmark.episodes("goal", range(1))
    environment.reset(seed=0, options=episode.options)
    worker, sent = environment.unwrapped.worker, []
    call = worker.call
    worker.call = lambda name, fields, arrays: (
        sent.append(arrays["action"]),
        call(name, fields, arrays),
    )[1]
    chunks = np.random.default_rng(5).uniform(-1.0, 1.0, (3, 16, 7))
    chunks[..., 6] = chunks[..., 6] > 0
    units = np.array([0.05] * 3 + [0.5] * 3 + [1.0])
    for chunk in chunks:
        environment.step(chunk * units)
    said = np.stack([chunks[0, 2], chunks[1, 1], chunks[2, 0]])
    cosines = said @ said[2] / (np.linalg.norm(said, axis=1) * np.linalg.norm(said[2]) + 1e-7)
    mean = np.exp(0.1 * cosines) / np.exp(0.1 * cosines).sum() @ said
    np.testing.assert_allclose(sent[2][:6], mean[:6], atol=1e-12)
    assert sent[2][6] == (-1.0 if mean[6] > 0.5 else 1.0)
    environment.close()


def test_its_images_are_the_middle_of_what_the_data_show():
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, 128:], image[64:192, 64:192, 1] = 180, 90
    (camera, _) = LiberoSuite().contract.cameras
    seen = as_in_the_data(image, camera)
    assert seen.shape == (224, 224, 3) and seen.dtype == np.uint8
    edges = np.flatnonzero(np.abs(np.diff(seen[112, :, 1].astype(int))) > 20)
    # 56 of 224 pixels are outside, and the cut takes 0.0257 of the width on each side of it.
    start = (56 - 0.5 - 0.02566 * 223) / 0.94868
    assert abs(edges[0] - start) < 2 and abs(edges[-1] - (223 - start)) < 2
    flat = np.full((40, 30, 3), 217, np.uint8)
    assert (middle(flat, 0.9) == 217).all()
    ramp = np.tile(np.arange(101, dtype=np.uint8)[None, :, None], (5, 1, 3))
    np.testing.assert_array_equal(middle(ramp, 1.0), ramp)
    np.testing.assert_array_equal(middle(ramp, 0.25)[2, ::50, 0], [25, 50, 75])


@pytest.mark.slow
def test_an_episode_is_repeated_when_the_process_dies_and_else_an_error(suite):
    once = suite(fault="kill step")
    (result,) = evaluate(Lifter(once.contract), once, ["object"], range(1))
    assert result.success
    twice = suite(fault="raise reset", times=2)
    (result,) = evaluate(Lifter(twice.contract), twice, ["object"], range(1))
    assert result.error.startswith(
        "benchmark 'libero' failed at 'reset': RuntimeError: the physics"
    )


def test_contracts_of_other_robots_are_refused():
    suite = LiberoSuite()
    assert not suite.contract.is_of_tool
    with pytest.raises(ContractError, match="has no camera 'front'"):
        suite.for_contract(load_contract(contract_path("sim_panda")))
    (first, _) = suite.contract.cameras
    one = replace(suite.contract, cameras=(replace(first, width=448, height=448),), horizon=50)
    assert suite.for_contract(one).contract == one
    assert set(SUITES) == set(suite.families)
