"""The benchmark `instructed`: one scene for all goals, and which one the instruction says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla.datasets.frames import read_dataset
from vla.envs.base import SuiteError
from vla.envs.instructed.suite import Instructed
from vla.envs.registry import make_suite
from vla.envs.rollout import run_episode
from vla.envs.tabletop.demonstrations import make_shard
from vla.envs.tabletop.expert import plan_chunk
from vla.envs.tabletop.expert_policy import ExpertPolicy
from vla.envs.tabletop.goal_sentences import GOALS, INSTRUCTED_FAMILIES
from vla.envs.tabletop.goal_sources import ATOMIC, INSTRUCTED
from vla.envs.tabletop.samples import SimulatedDemonstrations, simulated_views
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import Task, parse_task, phrase, task_of_answer
from vla.policies.config import from_dict
from vla.training.source_registry import ROBOT_SOURCES


@pytest.fixture(scope="module")
def blind():
    suite = make_suite("instructed")
    assert isinstance(suite, Instructed)
    return replace(suite, contract=replace(suite.contract, cameras=()))


@pytest.fixture(scope="module")
def environment(blind):
    return blind.make(INSTRUCTED_FAMILIES[0])


class Doing(ExpertPolicy):
    """The expert, at another goal than it was given, or with the gripper open."""

    def __init__(self, environment, goal: str = "", opens: bool = False):
        super().__init__(environment)
        self.goal, self.opens = goal, opens

    def chunk(self, images, state, time):
        task = self.environment.task
        task = Task(task.family, self.goal or task.target)
        chunk = plan_chunk(self.environment.simulator, task, self.contract.horizon)
        if self.opens:
            chunk[:, 6] = 1.0
        return chunk


def run(suite, environment, family, seed, policy):
    (episode,) = suite.episodes(family, range(seed, seed + 1))
    return run_episode(environment, policy, episode)


@pytest.mark.slow
@pytest.mark.parametrize("family", INSTRUCTED_FAMILIES)
def test_the_expert_reaches_goals_from_one_scene(blind, environment, family):
    starts = []
    for seed in range(3):
        rollout = run(blind, environment, family, seed, ExpertPolicy(environment))
        assert rollout.success and not rollout.info["wrong_object"], rollout.failure
        starts.append(rollout.digest)
    assert len(set(starts)) == 1, "which goal it is, nothing shows but the instruction"
    assert run(blind, environment, family, 9, ExpertPolicy(environment)).digest != starts[0]


@pytest.mark.parametrize(
    ("family", "wrong"),
    [("press_button", "bottom left"), ("insert_book", "bottom"), ("place_in_cell", "top right")],
)
def test_another_goal_ends_the_episode_as_misread(blind, environment, family, wrong):
    rollout = run(blind, environment, family, 0, Doing(environment, wrong))
    assert environment.task.target != wrong
    assert (rollout.success, rollout.failure) == (False, "misread")
    assert rollout.seconds < 10.0, "at once, not when time is up"
    assert blind.figures(rollout.info, None) == {"misread": True}


@pytest.mark.parametrize(
    ("family", "failure"), [("insert_book", "dropped"), ("place_in_cell", "opened_early")]
)
def test_fingers_that_open_too_early_end_the_episode(blind, environment, family, failure):
    rollout = run(blind, environment, family, 0, Doing(environment, opens=True))
    assert (rollout.success, rollout.failure) == (False, failure)
    assert rollout.seconds < 2.0


@pytest.mark.parametrize(
    ("family", "failure"),
    [
        ("press_button", "nothing_pressed"),
        ("insert_book", "not_inserted"),
        ("place_in_cell", "not_placed"),
    ],
)
def test_who_does_nothing_has_done_nothing(blind, family, failure):
    class Idle(ExpertPolicy):
        def chunk(self, images, state, time):
            return np.zeros((self.contract.horizon, 7))

    short = replace(blind, time_limit=1.0)
    table = short.make(family)
    assert run(short, table, family, 0, Idle(table)).failure == failure


def test_a_button_is_pressed_by_a_finger_that_moves_it(environment):
    environment.reset(seed=0, options={"family": "press_button"})
    simulator = environment.simulator
    simulator.data.joint("top_right").qpos[0] = -0.015
    simulator.goals.update(simulator)
    assert not simulator.check(environment.task).success, "no finger is there"


def test_a_can_that_lies_is_not_placed(environment):
    environment.reset(seed=0, options={"family": "place_in_cell"})
    simulator = environment.simulator
    grid = simulator.model.body("grid").pos
    qpos = simulator.qpos
    can = simulator.model.joint("can0").qposadr[0]
    qpos[can : can + 7] = grid[0] + 0.085, grid[1] + 0.085, 0.0385, 1, 0, 0, 0
    task = Task("place_in_cell", "top left")
    simulator.set_qpos(qpos)
    assert simulator.check(task).success
    qpos[can + 2 : can + 7] = 0.0235, np.sqrt(0.5), np.sqrt(0.5), 0, 0
    simulator.set_qpos(qpos)
    status = simulator.check(task)
    assert not status.success and status.is_lost
    assert simulator.goals.failure(simulator, task) == "tipped"


@pytest.mark.parametrize("family", INSTRUCTED_FAMILIES)
def test_words_say_the_goal_and_evaluation_has_its_own(blind, simulator, family):
    simulator.reset(0, "pick")
    generator = np.random.default_rng(0)
    said: dict[str, str] = {}
    for goal, sentences in GOALS[family].items():
        assert not set(sentences.train) & set(sentences.test)
        for text in (*sentences.train, *sentences.test):
            assert said.setdefault(text, goal) == goal
        task = Task(family, goal)
        assert parse_task(task.text()) == task == task_of_answer(family, task.answer())
        assert {phrase(task, generator) for _ in range(60)} == set(sentences.train)
    for episode in replace(blind, wording="paraphrase").episodes(family, range(6)):
        goal = list(GOALS[family])[episode.seed % len(GOALS[family])]
        assert episode.options["instruction"] in GOALS[family][goal].test
    with pytest.raises(SuiteError, match="unknown wording 'negation'"):
        make_suite("instructed", wording="negation")
    with pytest.raises(ValueError, match=f"goals of '{family}': "):
        parse_task(f"{family}/nowhere")
    with pytest.raises(ValueError, match="a scene of 'pick' has no goal of"):
        simulator.parse_task(f"{family}/{next(iter(GOALS[family]))}")
    with pytest.raises(ValueError, match="no goal of"):
        task_of_answer(family, "do something else .")


def test_other_scenes_go_on_as_if_these_did_not_exist():
    def after(*before: str) -> np.ndarray:
        simulator = TableTopSimulator()
        for family in before:
            simulator.reset(1, family)
        simulator.reset(4, "place")
        for _ in range(10):
            chunk = plan_chunk(simulator, simulator.task, 4)
            simulator.command(simulator.joint_positions + 0.02 * chunk[0, 0], chunk[0, 6] * 0.08)
            simulator.step(0.1)
        bodies = {simulator.model.body(i).name for i in range(simulator.model.nbody)}
        assert not bodies & {"book", "grid", "shelves", "post", "button", "top_left"}
        simulator.close()
        return simulator.qpos

    seen = after(*INSTRUCTED_FAMILIES, "atomic_press")
    np.testing.assert_array_equal(seen, after())


@pytest.mark.slow
def test_demonstrations_are_samples_for_training(tmp_path, contract):
    for source, families in ((ATOMIC, 1), (INSTRUCTED, 3)):
        assert ROBOT_SOURCES[source.name] is source
        options = {"episodes": 2, "episodes_per_shard": 2}
        if families == 1:
            options["shares"] = {"atomic_transport": 1.0}
        config = from_dict(source.options, options, "test")
        assert config.detour_share == 0.0 == config.slip_chance
        assert make_shard((0, str(tmp_path / source.name), contract, config)) == 0
        shards = read_dataset(tmp_path / source.name, contract)
        samples = SimulatedDemonstrations(shards, contract, simulated_views(contract))
        assert len(samples.episode_ends) == 2
        generator = np.random.default_rng(0)
        for index in (0, len(samples) - 1):
            sample = samples.sample(index, generator)
            family = shards[0].episodes[shards[0].episode[index]].family
            task = task_of_answer(family, sample.answer)
            assert sample.instruction in GOALS[family][task.target].train
