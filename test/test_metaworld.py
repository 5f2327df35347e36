"""MetaWorld, faked by test/fake_benchmarks: tasks, axes, images, figures, and what goes wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_workers import fake_python
from hypothesis import given
from hypothesis import strategies as st
from linear_policy import LinearConfig, LinearModel

from vla.contract.embodiment import ContractError, dimension_kinds, load_contract
from vla.contract.normalization import ABSOLUTE, RELATIVE, measure
from vla.core.resources import contract_path
from vla.envs.base import SuiteError
from vla.envs.metaworld.environment import from_metaworld, to_metaworld, turned
from vla.envs.metaworld.suite import MetaWorldSuite
from vla.envs.metaworld.tasks import GROUPS, INSTRUCTIONS
from vla.envs.rollout import run_episode
from vla.evaluation.benchmark import evaluate, group_line, group_means, report, summarize, table
from vla.policies.checkpoint import save_checkpoint
from vla.policies.robots import Robot
from vla_cli.parser import main

# Where the fake hand begins, x forward, y left, z up.
START = np.array([0.6, 0.0, 0.2])


def goal_of(seed: int) -> np.ndarray:
    """Where the fake task of a seed has its goal, x forward, y left, z up."""
    return START + turned(np.random.default_rng(seed).uniform(-0.1, 0.1, 3))


class Seeker:
    """Goes to the goal of the fake task at half of the full speed, and closes the fingers."""

    said, refused, window = None, False, 1

    def __init__(self, contract, effort: float = 0.3, speed: float = 0.005):
        self.contract, self.effort, self.speed = contract, effort, speed
        self.states: list[np.ndarray] = []
        self.images: list[np.ndarray] = []
        self.instructions: list[str] = []

    def reset(self, instruction, seed=None, think=False):
        self.instructions.append(instruction)
        self.goal = goal_of(4042 + seed)

    def chunk(self, images, state, time):
        self.states.append(state)
        self.images.append(images["corner2"])
        place, actions = state[:3].copy(), []
        for _ in range(self.contract.horizon):
            move = np.clip(self.goal - place, -self.speed, self.speed)
            place += move
            actions.append([*move, self.effort])
        return np.array(actions)


@pytest.fixture
def suite(tmp_path):
    def make(fault: str = "", times: int = 1, **settings) -> MetaWorldSuite:
        python = fake_python(tmp_path, "metaworld", fault=fault, times=times)
        return MetaWorldSuite(python=str(python), **settings)

    return make


# Tasks


def test_fifty_tasks_have_instructions_and_groups_of_the_published_sizes():
    assert len(INSTRUCTIONS) == 50 and len(set(INSTRUCTIONS.values())) == 50
    assert {name: len(tasks) for name, tasks in GROUPS.items()} == {
        "easy": 28,
        "medium": 11,
        "hard": 6,
        "very_hard": 5,
    }
    assert sorted(task for tasks in GROUPS.values() for task in tasks) == sorted(INSTRUCTIONS)
    corrected = {
        "door-open": "easy",
        "assembly": "hard",
        "disassemble": "very_hard",
        "sweep-into": "medium",
        "peg-insert-side": "medium",
    }
    assert all(task in GROUPS[group] for task, group in corrected.items())


def test_tasks_are_chosen_by_name_and_by_group():
    suite = MetaWorldSuite()
    assert suite.chosen_families(()) == list(INSTRUCTIONS)
    assert suite.chosen_families(["very_hard", "reach", "reach"]) == [*GROUPS["very_hard"], "reach"]
    with pytest.raises(SuiteError, match="unknown family 'nut-assembly'; known: assembly, "):
        suite.chosen_families(["easy", "nut-assembly"])


# Axes and units


def test_forward_left_and_up_are_metaworlds_y_minus_x_and_z():
    assert turned(np.array([0.1, 0.7, 0.3])).tolist() == [0.7, -0.1, 0.3]
    forward, left, up = np.eye(3) * 0.01
    assert to_metaworld(np.array([*forward, 0.0])).tolist() == [0, 1, 0, 0]
    assert to_metaworld(np.array([*left, -1.0])).tolist() == [-1, 0, 0, -1]
    assert to_metaworld(np.array([*up, 1.0])).tolist() == [0, 0, 1, 1]
    assert to_metaworld(np.array([0.02, 0.0, -0.5, 3.0])).tolist() == [0, 1, -1, 1], "cut at one"


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_an_action_comes_back_as_it_was(action):
    np.testing.assert_allclose(to_metaworld(from_metaworld(np.array(action))), action, atol=1e-12)


def test_the_effort_of_the_gripper_is_no_binary_command():
    contract = MetaWorldSuite().contract
    kinds = dimension_kinds(contract)["action"]
    assert kinds == (RELATIVE, RELATIVE, RELATIVE, ABSOLUTE)
    efforts = np.linspace(-1, 1, 201)
    values = np.column_stack([np.zeros((201, 3)), efforts])
    stats = measure(values, contract.action_names, kinds, 0.02)
    there_and_back = stats.denormalize(stats.normalize(values))[:, 3]
    np.testing.assert_allclose(there_and_back, np.clip(efforts, -0.98, 0.98), atol=1e-6)


# Episodes


def test_an_episode_ends_with_success_at_any_step(suite):
    benchmark = suite()
    policy = Seeker(benchmark.contract)
    done = evaluate(policy, benchmark, ["reach", "drawer-open"], range(3))
    assert all(result.success and not result.error for result in done)
    assert policy.instructions == ["Reach a goal position"] * 3 + ["Open a drawer"] * 3
    distances = [np.abs(goal_of(4042 + seed) - START).max() for seed in range(3)]
    for result, far in zip(done, distances * 2, strict=True):
        assert result.seconds * 80 == pytest.approx(round(result.seconds * 80)), "steps of 12.5 ms"
        assert result.seconds <= np.ceil(far / 0.005) / 80
    assert len({result.digest for result in done[:3]}) == 3
    # What is seen first, after a step without a motion, which does not count.
    np.testing.assert_allclose(policy.states[0], [*START, 1.0], atol=1e-12)


def test_fifteen_steps_of_a_chunk_are_executed_and_one_image_is_drawn_for_them(suite):
    benchmark = suite()
    policy = Seeker(benchmark.contract, effort=-0.5)
    environment = benchmark.make("push")
    calls: list[str] = []
    worker = environment.unwrapped.worker
    ask = worker.call
    worker.call = lambda name, *rest: (calls.append(name), ask(name, *rest))[1]
    (episode,) = benchmark.episodes("push", range(1))
    rollout = run_episode(environment, policy, episode)
    environment.close()
    assert (rollout.success, rollout.failure, rollout.seconds) == (False, "time_limit", 5.0)
    assert calls.count("step") == 400
    assert len(policy.states) == 27, "400 steps, 15 of each chunk"
    assert calls.count("image") == 27 + 1, "one for each chunk, and one of the end"


@pytest.mark.slow
def test_the_policy_sees_the_middle_turned_by_half_a_circle(suite, monkeypatch):
    benchmark = suite()
    policy = Seeker(benchmark.contract)
    evaluate(policy, benchmark, ["reach"], range(1))
    first = policy.images[0]
    assert first.shape == (96, 96, 3) and first.dtype == np.uint8
    assert (first[48:, 48:] == [200, 0, 0]).all(), "what was in the upper left"
    assert (first[1:48, 1:48] == 0).all(), "no shadows"
    # tan(42.1 / 2 degrees) is two thirds of tan(60 / 2 degrees).
    drawn = MetaWorldSuite(python=benchmark.python).environment("reach")
    drawn.reset(options={"seed": 4042})
    _, arrays = drawn.worker.call("image", {"size": 64})
    drawn.close()
    assert arrays["image"].shape == (64, 64, 3) and arrays["image"][0, 0, 1] == 42
    monkeypatch.setenv("FAKE_SHADOWS", "yes")
    shadowy = suite(shadows=True)
    policy = Seeker(shadowy.contract)
    evaluate(policy, shadowy, ["reach"], range(1))
    assert (policy.images[0][1:48, 1:48] == 80).all()


def test_images_have_the_size_of_the_policys_contract(suite):
    benchmark = suite()
    (camera,) = benchmark.contract.cameras
    theirs = replace(
        benchmark.contract, cameras=(replace(camera, width=224, height=160),), horizon=50
    )
    policy = Seeker(theirs)
    (result,) = evaluate(policy, benchmark, ["reach"], range(1), render_mode="rgb_array_list")
    assert result.success and policy.images[0].shape == (160, 224, 3)
    with pytest.raises(ContractError, match=r"rate: the benchmark's 80.0, the policy's 10.0"):
        benchmark.for_contract(replace(theirs, rate=10.0))


def test_the_object_is_in_the_state_only_where_that_is_asked_for(suite):
    told = load_contract(contract_path("metaworld_privileged"))
    with pytest.raises(SuiteError, match="reads the object's position: evaluate it with --set pri"):
        suite().for_contract(told)
    benchmark = suite(privileged=True)
    policy = Seeker(told)
    (result,) = evaluate(policy, benchmark, ["reach"], range(1))
    assert result.success and report("id", benchmark, False, [result])["settings"]["privileged"]
    np.testing.assert_allclose(policy.states[0], [*START, 1.0, 0.7, -0.1, 0.02, 0.5], atol=1e-12)
    with pytest.raises(ContractError, match="state_names: the benchmark's"):
        benchmark.for_contract(suite().contract)


def test_efforts_between_open_and_closed_arrive(suite):
    benchmark = suite()
    policy = Seeker(benchmark.contract, effort=0.1, speed=0.001)
    evaluate(policy, benchmark, ["reach"], range(1))
    # The fake fingers close by a fifth of the effort in each step.
    assert policy.states[1][3] == pytest.approx(1 - 15 * 0.2 * 0.1)


# Figures


@pytest.mark.slow
def test_the_mean_over_groups_is_not_that_over_tasks(suite):
    benchmark = suite()
    easy = evaluate(Seeker(benchmark.contract), benchmark, ["reach", "drawer-open"], range(2))
    hard = evaluate(Seeker(benchmark.contract, effort=-1), benchmark, ["assembly"], range(1))
    summaries = summarize(easy + hard)
    (means,) = group_means(summaries, benchmark.groups)
    assert means.groups == {"easy": 1.0, "hard": 0.0} and means.families == {"easy": 2, "hard": 1}
    assert means.mean_of_groups == 0.5 and means.mean_of_families == pytest.approx(2 / 3)
    text = group_line(means)
    assert text == (
        "success by group: easy 100.0% of 2, hard 0.0% of 1 tasks; mean of these groups 50.0%, of "
        "all tasks 66.7%"
    )
    assert table(summaries).splitlines()[1].startswith("reach                 2     100%")
    written = report("id", benchmark, False, easy + hard)
    assert written["groups"][0]["mean_of_groups"] == 0.5
    noisy = summarize(easy + [replace(result, noise=20.0, success=False) for result in easy])
    quiet, disturbed = group_means(noisy, benchmark.groups)
    assert (quiet.noise, quiet.mean_of_groups) == (0.0, 1.0)
    assert (disturbed.noise, disturbed.mean_of_groups) == (20.0, 0.0)
    assert group_line(disturbed).startswith("success by group with noise 20: easy 0.0%")
    failed = [replace(result, error="gone") for result in easy]
    assert group_means(summarize(failed), benchmark.groups) == [], "nothing was measured"


@pytest.mark.slow
def test_an_error_of_the_benchmark_is_no_failure_of_the_policy(suite):
    once = suite(fault="kill step")
    (result,) = evaluate(Seeker(once.contract), once, ["reach"], range(1))
    assert result.success and not result.error
    twice = suite(fault="kill image", times=2)
    results = evaluate(Seeker(twice.contract), twice, ["reach", "push"], range(1))
    assert results[0].error.startswith("benchmark 'metaworld' ended while it was asked for 'image'")
    assert results[1].success
    (means,) = group_means(summarize(results), twice.groups)
    assert means.families == {"hard": 1} and means.mean_of_groups == 1.0


# What is not there


def test_a_task_that_metaworld_lacks_and_steps_that_it_refuses_are_named(suite):
    (result,) = evaluate(Seeker(suite().contract), suite(), ["hammer"], range(1))
    assert "failed at 'reset': KeyError: 'hammer-v3'" in result.error
    for steps in (0, 500):
        with pytest.raises(SuiteError, match=f"steps must be 1 to 499, got {steps}"):
            MetaWorldSuite(steps=steps)


def test_another_mujoco_is_refused_in_a_sentence(suite, monkeypatch):
    monkeypatch.setenv("FAKE_MUJOCO", "4.0.0")
    benchmark = suite()
    with pytest.raises(SuiteError) as caught:
        evaluate(Seeker(benchmark.contract), benchmark, ["reach"], range(1))
    assert str(caught.value) == (
        f"benchmark 'metaworld' is not installed for {benchmark.python} (ImportError: it has "
        "MuJoCo 4.0.0, and MetaWorld runs on 3.3.0 alone): run `make metaworld` "
        "(docs/benchmarks.md)"
    )


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_from_the_command_line(suite, tmp_path, capsys):
    benchmark = suite()
    contract, generator = benchmark.contract, np.random.default_rng(0)
    kinds = dimension_kinds(contract)
    stats = {
        vector: measure(generator.normal(size=(50, 4)), names, kinds[vector])
        for vector, names in (("state", contract.state_names), ("action", contract.action_names))
    }
    torch.manual_seed(0)
    weights = LinearModel(LinearConfig(), contract).state_dict()
    save_checkpoint(
        tmp_path / "checkpoint", LinearConfig(), weights, [Robot(contract, stats)], None
    )
    command = ["eval", "--benchmark", "metaworld", "--checkpoint", str(tmp_path / "checkpoint")]
    command += ["--set", f"python={benchmark.python}", "steps=30"]
    file = tmp_path / "result.json"
    assert main([*command, "--tasks", "reach", "push", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "reach                10" in printed and "success by group: easy" in printed
    written = json.loads(file.read_text())
    assert [entry["episodes"] for entry in written["summary"]] == [10, 10]
    assert written["settings"]["steps_per_chunk"] == 15
    assert main([*command, "--tasks", "nut-assembly"]) == 2
    assert "unknown family 'nut-assembly'" in capsys.readouterr().err
