"""How an episode follows chunks: each mode against a computation by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from test_suites import PENDULUM, PendulumSuite, SwingUp

from vla.contract.dimensions import Dimension
from vla.envs.base import Episode, SuiteError
from vla.envs.chunked import ChunkedActions
from vla.envs.execution import Execution, parse_execution
from vla.envs.rollout import run_episode
from vla.envs.tabletop.environment import TableTopEnv
from vla.envs.tabletop.expert_policy import ExpertPolicy
from vla.envs.tabletop.suite import TableTop
from vla.evaluation.benchmark import evaluate
from vla.policies.history import History
from vla_cli.parser import main

# One motion and one gripper, at 20 Hz, in chunks of four.
HAND = replace(
    PENDULUM,
    name="hand",
    action_names=("move", "gripper"),
    action_dimensions=(
        Dimension("move", "position_delta", "m"),
        Dimension("gripper", "gripper"),
    ),
)
STEPS = 9


class Noting(gymnasium.Env):
    """Notes the actions of an episode of nine steps."""

    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        self.actions = []
        return 0, {}

    def step(self, action):
        self.actions.append(action)
        return len(self.actions), 0.0, False, len(self.actions) == STEPS, {}


class Numbered:
    """The chunk of step n says n, n + 0.1, n + 0.2, n + 0.3, and to open where n is even."""

    contract, said, refused, window = HAND, None, False, 1

    def reset(self, instruction, seed=None, think=False):
        self.asked = []

    def chunk(self, images, state, time):
        number = int(state[0])
        self.asked.append(number)
        return np.array([[number + k / 10, float(number % 2 == 0)] for k in range(4)])


def followed(execution: str) -> tuple[list[int], np.ndarray]:
    """The steps at which a chunk was asked for, and the actions [9, 2] that were executed."""

    def observe(number):
        return {"images": {}, "state": np.array([number, 0.0, 0.0])}

    environment = ChunkedActions(Noting(), HAND, "count", observe, steps_per_chunk=2)
    if execution:
        environment.set_wrapper_attr("execution", parse_execution(execution))
    policy = Numbered()
    run_episode(environment, policy, Episode("count", 0))
    first = np.array(environment.unwrapped.actions)
    run_episode(environment, policy, Episode("count", 0))
    np.testing.assert_array_equal(environment.unwrapped.actions, first, "each begins anew")
    return policy.asked, first


@pytest.mark.parametrize(
    ("execution", "each"), [("", 2), ("chunk", 4), ("chunk:3", 3), ("chunk:1", 1), ("first", 1)]
)
def test_so_many_steps_of_each_chunk_are_followed(execution, each):
    asked, actions = followed(execution)
    assert asked == list(range(0, STEPS, each))
    expected = [n - n % each + (n % each) / 10 for n in range(STEPS)]
    np.testing.assert_allclose(actions[:, 0], expected)


@pytest.mark.parametrize("weights", ["uniform", "exponential", "cosine"])
def test_an_ensemble_is_the_weighted_mean_of_what_the_last_chunks_say(weights):
    asked, actions = followed(f"ensemble:{weights}")
    assert asked == list(range(STEPS))
    for step in range(STEPS):
        # Chunks of four steps: those asked for at the last four steps speak, the oldest first.
        said = [(n + (step - n) / 10, float(n % 2 == 0)) for n in range(max(0, step - 3), step + 1)]
        moves, opens = np.array(said).T
        if weights == "uniform":
            weight = np.ones(len(said))
        elif weights == "exponential":
            weight = np.exp(-0.01 * np.arange(len(said)))
        else:
            newest = np.array(said[-1])
            norms = np.linalg.norm(said, axis=1) * np.linalg.norm(newest) + 1e-7
            weight = np.exp(0.1 * (np.array(said) @ newest) / norms)
        weight = weight / weight.sum()
        assert actions[step, 0] == pytest.approx(weight @ moves, abs=1e-9)
        share = weight @ opens
        vote = opens[-1] if abs(share - 0.5) < 1e-9 else float(share > 0.5)
        assert actions[step, 1] == vote, "one of the two, never a mean"


def test_an_ensemble_of_few_chunks_keeps_no_more():
    asked, actions = followed("ensemble:uniform:2")
    means = [asked[0], *((now + (before + 0.1)) / 2 for before, now in pairwise(asked))]
    np.testing.assert_allclose([action[0] for action in actions], means)
    assert {action[1] for action in actions} == {0.0, 1.0}, "the gripper is voted on"
    assert parse_execution("ensemble:cosine:7") == Execution(1, "cosine", 7)


def test_without_weights_an_ensemble_is_as_on_the_robot():
    assert parse_execution("ensemble") == parse_execution("ensemble:cosine")


@pytest.mark.parametrize(
    "text", ["", "chunks", "chunk:", "chunk:0", "chunk:-1", "chunk:x", "chunk:1:2", "first:1",
             "ensemble:", "ensemble:mean", "chunk:99999999",
             "ensemble:7", "ensemble:cosine:0", "ensemble:cosine:65", "ensemble:cosine:2:1"]
)  # fmt: skip
def test_another_word_is_refused_in_one_sentence(text):
    with pytest.raises(SuiteError, match="--execution takes chunk, chunk:STEPS, first"):
        parse_execution(text)


def test_more_steps_than_a_chunk_has_are_refused():
    with pytest.raises(SuiteError, match="asks for 5 steps of each chunk, but a chunk of 4 has 4"):
        evaluate(SwingUp(1.0), PendulumSuite(), ["swing_up"], range(1), execution="chunk:5")


def test_an_environment_that_follows_chunks_in_its_own_way_is_refused():
    class Plain(PendulumSuite):
        def make(self, family, render_mode=None):
            return gymnasium.make("Pendulum-v1")

    with pytest.raises(SuiteError, match="benchmark 'pendulum' follows chunks in its own way only"):
        evaluate(SwingUp(1.0), Plain(), ["swing_up"], range(1), execution="first")


def test_the_command_refuses_what_cannot_be(capsys):
    for arguments, says in (
        (["--execution", "all"], "--execution takes chunk"),
        (["--execution", "first", "--steps-per-chunk", "2"], "not both"),
        (["--set", "time_limit=soon"], "time_limit must be a number"),
        (["--set", "speed=2"], "benchmark 'tabletop' has no setting 'speed'"),
        (["--set", "speed"], "--set takes NAME=VALUE"),
    ):
        assert main(["eval", *arguments]) == 2
        assert says in capsys.readouterr().err


# The table top, where the arm controller follows the chunks


@pytest.fixture(scope="module")
def blind(contract):
    return TableTop(contract=replace(contract, cameras=()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("execution", "delay", "each"),
    [("chunk", 2, 14), ("chunk", 0, 16), ("chunk:5", 2, 5), ("first", 2, 1), ("ensemble", 2, 1)],
)
def test_the_table_top_asks_as_often_and_the_expert_succeeds(blind, execution, delay, each):
    suite = replace(blind, delay_steps=delay)
    environment = suite.make("pick")
    environment.execution = parse_execution(execution)
    asked = []

    class Expert(ExpertPolicy):
        def chunk(self, images, state, time):
            asked.append(time)
            return super().chunk(images, state, time)

    rollout = run_episode(environment, Expert(environment), Episode("pick", 3, {"family": "pick"}))
    assert rollout.success, (execution, rollout.failure)
    assert np.diff(asked) == pytest.approx(np.full(len(asked) - 1, each / 10), abs=0.021)
    used = environment.controller.config.execution
    assert used.mode == ("ensemble" if execution == "ensemble" else "first")
    assert used.max_chunk_age >= 1.6, "a chunk is followed to its end"


def test_a_chunk_that_arrives_after_its_end_is_refused(blind):
    environment = replace(blind, delay_steps=16).make("pick")
    with pytest.raises(SuiteError, match="a chunk of 16 has 0 left when it arrives 16 steps late"):
        environment.execution = Execution(1)


def test_the_usual_way_can_be_had_back(blind):
    environment = blind.make("pick")
    usual = environment.controller.config
    environment.execution = parse_execution("ensemble")
    assert environment.controller.config != usual
    environment.execution = None
    assert environment.controller.config == usual


# What is rendered


@pytest.mark.slow
def test_only_what_a_window_reads_is_rendered(contract, monkeypatch):
    """No more than the frames that a policy keeps, each 0.3 s, and those of its chunks."""
    environment = TableTopEnv(contract, steps_per_chunk=5, time_limit=2.95)
    rendered = []
    render = environment.simulator.render
    monkeypatch.setattr(
        environment.simulator,
        "render",
        lambda camera, *rest: rendered.append(environment.simulator.time) or render(camera, *rest),
    )

    class Remembering:
        said, refused, window = None, False, 8

        def __init__(self, asks: bool):
            self.contract, self.asks = contract, asks
            self.history, self.kept = History(8, 0.3), []

        def reset(self, instruction, seed=None, think=False):
            self.history.reset()

        def see(self, time, state):
            self.kept.append((time, state.tobytes(), len(self.history.add(time, None))))

        def chunk(self, images, state, time):
            self.see(time, state)
            return np.full((contract.horizon, 7), 0.01)

        def observe(self, images, state, time):
            if self.history.is_due(time):
                self.see(time, state)

        def is_due(self, time):
            return self.history.is_due(time) if self.asks else True

    runs = {}
    for asks in (False, True):
        rendered.clear()
        policy = Remembering(asks)
        run_episode(environment, policy, Episode("pick", 0))
        runs[asks] = policy.kept, len(rendered) / len(contract.cameras)
    assert runs[True][0] == runs[False][0], "the same is read"
    assert runs[False][1] == 31 and runs[True][1] == len(runs[True][0]) + 1
    assert runs[True][1] < 16
    environment.close()
