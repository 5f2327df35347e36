"""Benchmarks: the table top as gymnasium wants it, and an environment of somebody else's."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vla.contract.embodiment import ContractError, EmbodimentContract
from vla.envs.base import Episode, Suite, SuiteError
from vla.envs.chunked import ChunkedActions
from vla.envs.registry import make_suite, register
from vla.envs.rollout import run_episode
from vla.envs.tabletop.environment import TableTopEnv
from vla.envs.tabletop.suite import TableTop
from vla.evaluation.benchmark import evaluate, report, summarize, table

# A pendulum is to be swung up and held: a robot of one joint, no camera and one action.
PENDULUM = EmbodimentContract(
    name="pendulum",
    base_frame="pivot",
    tool_frame="tip",
    rate=20.0,
    horizon=4,
    joint_names=("pivot",),
    finger_joint_names=(),
    gripper_open_width=0.0,
    cameras=(),
    reference_camera="",
    joint_states_topic="",
    end_effector_pose_topic="",
    state_max_age=1.0,
    state_names=("x", "y", "angular_velocity"),
    action_names=("torque",),
    representation="delta",
)


@register
@dataclass(frozen=True)
class PendulumSuite(Suite):
    """gymnasium's pendulum."""

    steps_per_chunk: int = 2

    name = "pendulum"
    families = ("swing_up",)
    contract = PENDULUM

    def episodes(self, family, seeds):
        return [Episode(family, seed) for seed in seeds]

    def make(self, family, render_mode=None):
        return ChunkedActions(
            gymnasium.make("Pendulum-v1", render_mode=render_mode),
            self.contract,
            "swing the pole up and hold it",
            observe=lambda state: {"images": {}, "state": state.astype(np.float64)},
            succeeded=lambda state, reward, info: reward > -0.01,
            steps_per_chunk=self.steps_per_chunk,
        )

    def figures(self, info, said):
        return {"quick": info["seconds"] < 5.0}


class SwingUp:
    """Pumps energy into the pendulum and holds it when it is up; or does nothing."""

    contract, said, refused, window = PENDULUM, None, False, 1

    def __init__(self, strength: float):
        self.strength, self.resets = strength, []

    def reset(self, instruction, seed=None, think=False):
        self.resets.append((instruction, seed, think))

    def chunk(self, images, state, time):
        assert images == {} and state.shape == (3,)
        x, y, velocity = state
        missing = 5.0 - 5.0 * x - velocity**2 / 6.0  # energy to stand upright [J]
        if x > 0.9:
            torque = -20.0 * np.arctan2(y, x) - 4.0 * velocity
        else:
            torque = np.clip(missing, -2.0, 2.0) * np.sign(velocity or 1.0)
        return np.full((4, 1), self.strength * torque, dtype=np.float32)


def test_somebody_elses_environment_needs_no_line_but_its_suite():
    suite = make_suite("pendulum", steps_per_chunk=1)
    policy = SwingUp(1.0)
    results = evaluate(policy, suite, suite.families, range(3, 8), think=True)
    assert [result.seed for result in results] == [3, 4, 5, 6, 7]
    assert all(result.success and 0.0 < result.seconds < 10.0 for result in results), results
    assert policy.resets[0] == ("swing the pole up and hold it", 3, True)
    assert results == evaluate(policy, suite, suite.families, range(3, 8)), "seeds decide"
    idle = evaluate(SwingUp(0.0), suite, suite.families, range(3, 5))
    assert [(result.success, result.seconds) for result in idle] == [(False, 10.0)] * 2
    assert {result.failure for result in results} == {""}
    assert {result.failure for result in idle} == {"time_limit"}
    digests = [result.digest for result in results]
    assert len(set(digests)) == 5 and digests[:2] == [result.digest for result in idle]
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in digests)
    (summary,) = summarize(results + idle)
    assert summary.failures == {"time_limit": 2}
    assert table([summary]).splitlines()[-1] == "swing_up failed: 2 time limit"
    assert (summary.episodes, summary.success) == (7, 5 / 7)
    assert summary.figures == {"quick": sum(r.seconds < 5.0 for r in results) / 7}
    written = report("abc", suite, False, results)
    assert written["benchmark"] == "pendulum" and written["settings"]["steps_per_chunk"] == 1
    assert set(written["episodes"][0]) == {
        "family", "seed", "instruction", "answer", "success", "seconds", "quick", "execution",
        "failure", "digest", "subtasks", "error", "noise",
    }  # fmt: skip


def test_what_a_policy_refuses_is_a_failure_and_moves_nothing():
    policy, suite = SwingUp(1.0), make_suite("pendulum", steps_per_chunk=1)
    policy.refused = True
    for noise in (0.0, 10.0):
        refused = evaluate(policy, suite, suite.families, range(3, 5), think=True, noise=noise)
        ends = [(result.success, result.seconds, result.failure) for result in refused]
        assert ends == [(False, 0.0, "refused")] * 2


class Counting(gymnasium.Env):
    """Its observation is the number of the step; it ends with step 7."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self.count, {}

    def step(self, action):
        self.count += 1
        return self.count, 0.0, False, self.count == 7, {}


class Noting:
    """Notes the numbers of what it is shown, by observe() and by chunk()."""

    contract, said, refused = PENDULUM, None, False

    def __init__(self, window: int, due: int = 1):
        self.window, self.due, self.asked, self.between = window, due, [], []

    def reset(self, instruction, seed=None, think=False):
        pass

    def chunk(self, images, state, time):
        assert time == pytest.approx(state[0] * PENDULUM.time_step)
        self.asked.append(int(state[0]))
        return np.zeros((4, 1))

    def observe(self, images, state, time):
        assert time == pytest.approx(state[0] * PENDULUM.time_step)
        self.between.append(int(state[0]))

    def is_due(self, time):
        return round(time / PENDULUM.time_step) % self.due == 0


def test_a_policy_with_a_window_sees_every_step_and_others_only_those_of_chunks():
    def observe(number):
        read.append(number)
        return {"images": {}, "state": np.array([number, 0.0, 0.0])}

    environment = ChunkedActions(Counting(), PENDULUM, "count", observe, steps_per_chunk=3)
    for window, due, between in ((3, 1, [1, 2, 4, 5]), (3, 2, [2, 4]), (1, 1, [])):
        policy, read = Noting(window, due), []
        run_episode(environment, policy, Episode("count", 0))
        assert (policy.asked, policy.between) == ([0, 3, 6], between)
        # What nobody reads is not made; step 7 ends the episode.
        assert read == sorted({*policy.asked, *between, 7})


def test_the_table_top_shows_every_time_step_to_a_policy_with_a_window():
    contract = replace(TableTop().contract, cameras=())
    environment = TableTopEnv(contract, steps_per_chunk=3, time_limit=0.8)
    seen = []
    environment.on_observation = lambda observation, seconds: seen.append(round(seconds, 3))
    environment.reset(seed=1)
    chunk, truncated, asked = np.zeros((contract.horizon, 7)), False, [0.0]
    while not truncated:
        _, _, _, truncated, info = environment.step(chunk)
        asked.append(round(info["seconds"], 3))
    assert sorted(seen + asked) == pytest.approx(np.arange(9) / 10)
    environment.close()


def test_a_chunk_is_executed_up_to_the_steps_of_the_suite():
    environment = PendulumSuite(steps_per_chunk=3).make("swing_up")
    alone = gymnasium.make("Pendulum-v1")
    observation, info = environment.reset(seed=1)
    first, _ = alone.reset(seed=1)
    np.testing.assert_array_equal(observation["state"], first)
    assert (info["seconds"], info["success"]) == (0.0, False)
    chunk = np.array([[1.0], [-2.0], [0.5], [2.0]])
    observation, reward, terminated, truncated, info = environment.step(chunk)
    rewards = []
    for action in chunk[:3].astype(np.float32):
        state, single, *_ = alone.step(action)
        rewards.append(single)
    np.testing.assert_array_equal(observation["state"], state)
    assert reward == pytest.approx(sum(rewards)) and info["seconds"] == pytest.approx(0.15)
    assert not terminated and not truncated
    assert observation in environment.observation_space and chunk in environment.action_space


def test_suites_are_known_by_name(plugins, tmp_path):
    assert isinstance(make_suite("tabletop", wording="implied"), TableTop)
    with pytest.raises(SuiteError, match=r"unknown benchmark 'chess'; known: .*pendulum.*tabletop"):
        make_suite("chess")
    with pytest.raises(SuiteError, match="'pendulum' has no setting 'wording'"):
        make_suite("pendulum", wording="direct")
    plugins("board_games")
    with pytest.raises(SuiteError, match="VLA_PLUGINS names 'board_games': No module named"):
        make_suite("chess")
    (tmp_path / "board_games.py").write_text(
        "from test_suites import PendulumSuite\n"
        "from vla.envs.registry import register\n"
        "@register\n"
        "class Checkers(PendulumSuite):\n"
        "    name = 'checkers'\n"
    )
    assert make_suite("checkers").name == "checkers"


def test_a_policy_of_another_robot_or_an_unknown_family_is_refused(contract):
    policy = SwingUp(1.0)
    with pytest.raises(SuiteError, match="unknown family 'juggle'; known: swing_up"):
        evaluate(policy, PendulumSuite(), ["juggle"], range(1))
    policy.contract = contract
    with pytest.raises(ContractError, match="embodiment contracts differ"):
        evaluate(policy, PendulumSuite(), ["swing_up"], range(1))
    side = replace(contract, cameras=(replace(contract.cameras[0], name="side"),))
    with pytest.raises(ContractError, match="the table top has no camera 'side'"):
        TableTop().for_contract(side)
    with pytest.raises(SuiteError, match="benchmark 'pendulum' asks no questions"):
        PendulumSuite().questions(3)


@pytest.mark.slow
def test_the_page_on_adding_a_suite_works_to_the_letter(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "adding_a_suite.md").read_text()
    (contract,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "pendulum.yaml").write_text(contract)
    suite, trial = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "pendulum_suite.py").write_text(suite)
    (tmp_path / "try_pendulum.py").write_text(trial)
    command = [sys.executable, "try_pendulum.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"swing_up +10 +100%", done.stdout)


# The table top


@pytest.fixture(scope="module")
def environment(contract):
    environment = TableTopEnv(contract, render_mode="rgb_array_list")
    yield environment
    environment.close()


@pytest.mark.slow
def test_the_table_top_is_a_gymnasium_environment(environment):
    with warnings.catch_warnings():
        warnings.filterwarnings("error")
        # It has no spec, since a suite makes it; an unbounded state is as it should be.
        warnings.filterwarnings("ignore", "(?s).*(spec|minimum value|maximum value|symmetric)")
        check_env(environment)


def test_episodes_end_at_the_time_limit(contract):
    environment = TableTopEnv(replace(contract, cameras=()), time_limit=1.0, delay_steps=2)
    environment.reset(seed=0)
    still = np.zeros((contract.horizon, 7))
    steps = [environment.step(still) for _ in range(4)]
    assert [step[2:4] for step in steps] == [(False, False)] * 3 + [(False, True)]
    assert steps[-1][4]["seconds"] == pytest.approx(1.0) and not steps[-1][4]["success"]


@pytest.mark.slow
def test_frames_are_one_per_time_step(environment, contract):
    environment.reset(seed=0, options={"family": "place"})
    assert environment.render() == []
    moving = np.zeros((contract.horizon, 7))
    moving[:, 2] = -0.02
    environment.step(moving)
    frames = environment.render()
    assert len(frames) == 3 and frames[0].shape == (480, 480, 3)
    assert not np.array_equal(frames[0], frames[2]) and environment.render() == []
    present = TableTopEnv(contract, render_mode="rgb_array")
    present.reset(seed=0, options={"family": "place"})
    present.step(moving)
    assert np.abs(present.render().astype(int) - frames[2]).mean() < 0.1
    present.close()


def test_an_action_that_is_no_chunk_is_refused(environment):
    environment.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected actions \[H, 7\]"):
        environment.step(np.zeros(7))
    environment.reset(seed=0)
    with pytest.raises(ValueError, match="unknown task family 'juggle'"):
        environment.reset(seed=0, options={"family": "juggle"})
