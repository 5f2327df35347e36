"""CALVIN, faked by test/fake_benchmarks: chains, actions, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_workers import calvin_data, fake_python
from linear_policy import LinearConfig, LinearModel
from scipy.spatial.transform import Rotation

from vla.contract.embodiment import ContractError, dimension_kinds
from vla.contract.normalization import measure
from vla.envs.base import Episode, SuiteError
from vla.envs.calvin.actions import relative_action, world_action
from vla.envs.calvin.suite import CalvinSuite
from vla.envs.rollout import run_robustly
from vla.evaluation.benchmark import evaluate, flat, report, summarize, table
from vla.policies.checkpoint import save_checkpoint
from vla.policies.robots import Robot
from vla_cli.parser import main

# What the fake tasks ask for: an axis and a direction of 10 cm.
MOVES = {
    "push the sliding door to the left side": (0, -1),
    "pull the handle to open the drawer": (1, -1),
    "press the button to turn on the led light": (2, -1),
    "push the sliding door to the right side": (0, 1),
    "push the handle to close the drawer": (1, 1),
}
CHAIN = ("move_slider_left", "open_drawer", "turn_on_led", "move_slider_right", "close_drawer")


class Mover:
    """Moves as the instruction says, 2 cm a step; `unable` does nothing for one of them."""

    said, refused, window = None, False, 1

    def __init__(self, contract, unable: str = "", nan_at: int = -1):
        self.contract, self.unable, self.nan_at = contract, unable, nan_at
        self.resets: list[str] = []
        self.between: list[float] = []
        self.chunks = 0

    def reset(self, instruction, seed=None, think=False):
        self.resets.append(instruction)

    def chunk(self, images, state, time):
        self.chunks += 1
        assert state.shape == (15,) and images["static"].shape == (200, 200, 3)
        actions = np.zeros((self.contract.horizon, 7))
        axis, sign = MOVES[self.resets[-1]]
        if self.resets[-1] != self.unable:
            actions[:, axis] = 0.02 * sign
        if self.chunks == self.nan_at:
            actions[0, 3] = np.nan
        return actions

    def observe(self, images, state, time):
        self.between.append(time)

    def is_due(self, time):
        return True


@pytest.fixture
def suite(tmp_path):
    def make(fault: str = "", times: int = 1, **settings) -> CalvinSuite:
        python = fake_python(tmp_path, "calvin", fault=fault, times=times)
        return CalvinSuite(python=str(python), data=str(calvin_data(tmp_path)), **settings)

    return make


def test_a_chain_is_run_task_by_task_and_the_policy_begins_anew_with_each(suite):
    benchmark = suite(steps_per_chunk=3)
    policy, instructions = Mover(benchmark.contract), list(MOVES)
    results = evaluate(policy, benchmark, ["chains"], range(2))
    assert [result.seed for result in results] == [0, 1]
    assert policy.resets == [*MOVES, *instructions[1:], instructions[0]]
    # Five tasks of five steps each at 30 Hz. A chunk is left when its task is done.
    assert all(r.success and r.seconds == pytest.approx(25 / 30) for r in results), results
    assert policy.chunks == 2 * 5 * 2
    assert results[0].subtasks == dict.fromkeys(CHAIN, True)
    assert results[0].digest == results[1].digest != "" and not results[0].error


def test_a_chain_ends_with_the_first_failure_and_everything_is_counted(suite):
    benchmark = suite(steps_per_task=7)
    policy = Mover(benchmark.contract, unable="press the button to turn on the led light")
    results = evaluate(policy, benchmark, ["chains"], range(5))
    # The task stands third, second, first, fifth and fourth.
    assert [result.figures["length"] for result in results] == [2, 1, 0, 4, 3]
    assert [result.failure for result in results] == ["time_limit"] * 5
    assert results[0].seconds == pytest.approx((2 * 5 + 7) / 30)
    (summary,) = summarize(results)
    assert summary.success == 0.0 and summary.errors == 0 and summary.episodes == 5
    assert summary.figures == {
        "first": 0.8, "second": 0.6, "third": 0.4, "fourth": 0.2, "fifth": 0.0, "length": 2.0,
    }  # fmt: skip
    assert summary.subtasks["turn_on_led"] == (0, 5)
    assert summary.subtasks["open_drawer"] == (4, 4)
    shown = table([summary], benchmark.counted_figures)
    assert "2.00" in shown and "turn on led 0/5" in shown
    json.dumps(report("id", benchmark, False, results), allow_nan=False)


def test_ensembles_and_windows_see_each_task_apart(suite):
    benchmark = suite()
    policy = Mover(benchmark.contract)
    policy.window = 4
    (result,) = evaluate(policy, benchmark, ["chains"], range(1), execution="chunk:4")
    assert result.success and policy.chunks == 10
    # After each step but the last of a chunk: steps 1, 2, 3, then 6, 7, 8, ...
    steps = [round(time * 30) for time in policy.between]
    assert steps == [s for first in range(0, 25, 5) for s in range(first + 1, first + 4)]
    (result,) = evaluate(policy, benchmark, ["chains"], range(1), execution="ensemble:uniform")
    # Without what the chunks of the task before said, each task takes its five steps.
    assert result.success and result.seconds == pytest.approx(25 / 30)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill step", "raise reset", "exit step", "kill open"])
def test_an_episode_is_repeated_when_the_process_dies(suite, fault):
    benchmark = suite(fault=fault)
    results = evaluate(Mover(benchmark.contract), benchmark, ["chains"], range(2))
    assert [(result.success, result.error) for result in results] == [(True, "")] * 2


@pytest.mark.slow
def test_a_process_that_dies_twice_is_an_error_and_no_failure(suite):
    benchmark = suite(fault="kill step", times=2)
    results = evaluate(Mover(benchmark.contract), benchmark, ["chains"], range(3))
    assert [result.success for result in results] == [False, True, True]
    assert "'calvin' ended while it was asked for 'step', by signal SIGKILL" in results[0].error
    assert "about to die" in results[0].error
    assert results[0].failure == "" and results[0].figures == {}
    (summary,) = summarize(results)
    assert (summary.episodes, summary.errors, summary.success) == (2, 1, 1.0)
    assert summary.figures["length"] == 5.0
    assert "chains errors: 1 further episodes" in table([summary], benchmark.counted_figures)
    json.dumps([flat(entry) for entry in (*results, summary)], allow_nan=False)
    (only_errors,) = summarize(results[:1])
    assert (only_errors.episodes, only_errors.errors) == (0, 1) and table([only_errors])


def test_a_silent_process_is_ended_and_the_episode_repeated(suite):
    benchmark = suite(fault="stop step", answer_seconds=3.0)
    (result,) = evaluate(Mover(benchmark.contract), benchmark, ["chains"], range(1))
    assert result.success and not result.error


def test_a_process_killed_from_outside_in_an_episode_is_started_again(suite):
    benchmark = suite()
    environment = benchmark.make("chains")
    policy, killed = Mover(benchmark.contract), []

    def kill_once(env):
        if not killed:
            killed.append(env.unwrapped.worker.pid)
            os.kill(killed[0], signal.SIGKILL)

    episode = Episode("chains", 3, {"chain": 3})
    rollout = run_robustly(environment, policy, episode, False, kill_once)
    assert rollout.success and environment.unwrapped.worker.pid != killed[0]
    environment.close()
    assert environment.unwrapped.worker.pid is None


def test_actions_that_are_not_finite_fail_the_policy_and_never_reach_the_simulator(suite):
    benchmark = suite()
    results = evaluate(Mover(benchmark.contract, nan_at=8), benchmark, ["chains"], range(2))
    assert [(r.success, r.failure, r.error) for r in results] == [
        (False, "not_finite", ""),
        (True, "", ""),
    ]
    assert results[0].subtasks == {"move_slider_left": True, "open_drawer": False}


def test_chains_have_numbers_and_policies_contracts(suite, contract):
    benchmark = suite()
    assert len(list(benchmark.episodes("chains", range(990, 1010)))) == 10
    with pytest.raises(SuiteError, match="CALVIN has the chains 0 to 999; give seeds below 1000"):
        list(benchmark.episodes("chains", range(1000, 1001)))
    with pytest.raises(ContractError, match="contract 'calvin' has no camera 'front'"):
        benchmark.for_contract(contract)
    with pytest.raises(
        ContractError, match=r"differ .*rate: the benchmark's 30.0, the policy's 10.0"
    ):
        benchmark.for_contract(replace(benchmark.contract, rate=10.0))
    with pytest.raises(SuiteError, match="unknown frame 'base'; known: world, tool"):
        CalvinSuite(frame="base")
    small = replace(benchmark.contract.camera("static"), width=50, height=50)
    policy = Mover(replace(benchmark.contract, horizon=4, cameras=(small,)))
    policy.chunk = lambda images, state, time: (
        np.zeros((4, 7)) if images["static"].shape == (50, 50, 3) else None
    )
    environment = benchmark.for_contract(policy.contract).make("chains", "rgb_array_list")
    observation, _ = environment.reset(options={"chain": 0})
    assert observation in environment.observation_space
    environment.step(np.zeros((4, 7)))
    assert [frame.shape for frame in environment.render()] == [(50, 50, 3)]
    assert environment.render() == []
    environment.close()


@pytest.mark.slow
def test_chains_are_drawn_once_and_kept_whole(suite, tmp_path):
    benchmark = suite()
    evaluate(Mover(benchmark.contract), benchmark, ["chains"], range(1))
    (kept,) = (tmp_path / "cache" / "vla_ros").iterdir()
    drawn = json.loads(kept.read_text())
    assert len(drawn) == 1000 and drawn[1] == [{"slider": "left", "led": 1}, [*CHAIN[1:], CHAIN[0]]]
    # What is kept is read: chain 0 has one task only now.
    kept.write_text(json.dumps([[drawn[0][0], ["open_drawer"]], *drawn[1:]]))
    (result,) = evaluate(Mover(benchmark.contract), benchmark, ["chains"], range(1))
    assert result.success and result.subtasks == {"open_drawer": True}
    # A damaged file is replaced.
    kept.write_text('[["half')
    (result,) = evaluate(Mover(benchmark.contract), benchmark, ["chains"], range(1))
    assert result.success and json.loads(kept.read_text()) == drawn


# The command line


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A checkpoint of CALVIN's contract that hardly moves."""
    contract = CalvinSuite().contract
    weights = {
        name: torch.zeros_like(value)
        for name, value in LinearModel(LinearConfig(), contract).state_dict().items()
    }
    kinds, generator = dimension_kinds(contract), np.random.default_rng(0)
    actions = generator.normal(0.0, 1e-4, (50, 7))
    actions[:, 6] = generator.random(50) > 0.5
    stats = {
        "state": measure(generator.normal(size=(50, 15)), contract.state_names, kinds["state"]),
        "action": measure(actions, contract.action_names, kinds["action"]),
    }
    robots = [Robot(contract, stats)]
    folder = tmp_path_factory.mktemp("still")
    save_checkpoint(folder, LinearConfig(), weights, robots, None)
    return folder


def run_eval(still, *arguments: str) -> int:
    return main(["eval", "--benchmark", "calvin", "--checkpoint", str(still), *arguments])


def test_eval_without_the_environment_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("VLA_CALVIN_PYTHON", raising=False)
    monkeypatch.setattr("vla.envs.worker.process.MADE", tmp_path)
    assert main(["eval", "--benchmark", "calvin"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "which is not there: run `make calvin`" in error


@pytest.mark.slow
def test_eval_runs_chains_and_its_status_tells_errors(still, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VLA_CALVIN_DATA", str(calvin_data(tmp_path)))
    monkeypatch.setenv("VLA_CALVIN_PYTHON", str(fake_python(tmp_path, "calvin")))
    written, settings = tmp_path / "eval.json", ("--set", "steps_per_task=4", "--seeds", "998:1002")
    assert run_eval(still, "--json", str(written), *settings) == 0
    out = capsys.readouterr().out
    assert "first  second  third  fourth  fifth  length" in out and "0.00" in out
    episodes = json.loads(written.read_text())["episodes"]
    assert [(e["seed"], e["failure"], e["length"]) for e in episodes] == [
        (998, "time_limit", 0.0),
        (999, "time_limit", 0.0),
    ]
    dying = fake_python(tmp_path, "calvin", fault="kill step", times=2)
    monkeypatch.setenv("VLA_CALVIN_PYTHON", str(dying))
    assert run_eval(still, "--json", str(written), *settings) == 1
    shown = capsys.readouterr()
    assert "chains errors: 1 further episodes, in which the benchmark itself failed" in shown.out
    assert "the first of 1 errors: benchmark 'calvin' ended while" in shown.err
    (summary,) = json.loads(written.read_text())["summary"]
    assert (summary["episodes"], summary["errors"]) == (1, 1)


def test_the_same_on_another_python(suite, tmp_path):
    """On Python 3.8, where this machine has one with numpy; see docs/benchmarks.md."""
    python = os.environ.get("VLA_TEST_PYTHON38", "")
    if not python:
        pytest.skip("VLA_TEST_PYTHON38 names no Python 3.8 with numpy")
    benchmark = replace(suite(), python=str(fake_python(tmp_path, "calvin", python=python)))
    (result,) = evaluate(Mover(benchmark.contract), benchmark, ["chains"], range(1))
    assert result.success


# Actions


def test_relative_actions_are_scaled_clipped_and_their_gripper_is_binary():
    state = np.zeros(15)
    action = np.array([0.01, -0.02, 0.05, 0.025, -0.1, 0.0, 0.51])
    taken = relative_action(action, state)
    np.testing.assert_allclose(taken, [0.5, -1.0, 1.0, 0.5, -1.0, 0.0, 1.0])
    assert relative_action(np.append(np.zeros(6), 0.5), state)[6] == -1.0


@pytest.mark.parametrize("seed", range(20))
def test_tool_frame_actions_undo_how_they_are_made(seed):
    generator = np.random.default_rng(seed)
    euler = generator.uniform(-3.0, 3.0, 3) * [1.0, 0.45, 1.0]
    world = generator.uniform(-1.0, 1.0, 6)
    # As RoboVLMs makes them, written down from its world_to_tcp_frame.
    old = Rotation.from_euler("XYZ", euler).as_matrix()
    new = Rotation.from_euler("XYZ", euler + 0.01 * world[3:]).as_matrix()
    seen = Rotation.from_matrix(np.linalg.inv(new) @ old).as_euler("XYZ") * 100.0
    tool = np.concatenate([old.T @ world[:3], seen])
    np.testing.assert_allclose(world_action(tool, euler), world, atol=1e-6)
    action = np.concatenate([tool[:3] * 0.02, tool[3:] * 0.05, [1.0]])
    state = np.concatenate([np.zeros(3), euler, np.zeros(9)])
    taken = relative_action(action, state, "tool")
    np.testing.assert_allclose(taken[:6], np.clip(world, -1, 1), atol=1e-6)
