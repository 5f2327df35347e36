"""The families `atomic_*`: every primitive from one scene, and their truth for segmentation."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla.envs.atomic.suite import Atomic
from vla.envs.registry import make_suite
from vla.envs.rollout import run_episode
from vla.envs.tabletop.expert import plan_chunk
from vla.envs.tabletop.expert_policy import ExpertPolicy
from vla.envs.tabletop.failures import FAILURES
from vla.envs.tabletop.goal_sentences import ATOMIC_FAMILIES, GOALS, OPPOSITES
from vla.envs.tabletop.tasks import Task
from vla.language_action.primitives import PRIMITIVES
from vla.language_action.rules import segment_by_rules
from vla.language_action.scoring import score
from vla.language_action.segments import banned_words

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))


@pytest.fixture(scope="module")
def blind():
    suite = make_suite("atomic")
    assert isinstance(suite, Atomic)
    return replace(suite, contract=replace(suite.contract, cameras=()))


@pytest.fixture(scope="module")
def environment(blind):
    return blind.make(ATOMIC_FAMILIES[0])


class Doing(ExpertPolicy):
    """The expert, at another task than it was given."""

    def __init__(self, environment, task: Task):
        super().__init__(environment)
        self.task = task

    def chunk(self, images, state, time):
        return plan_chunk(self.environment.simulator, self.task, self.contract.horizon)


class Idle(ExpertPolicy):
    """Stays, with the fingers as they are commanded."""

    def chunk(self, images, state, time):
        chunk = np.zeros((self.contract.horizon, 7))
        chunk[:, 6] = self.environment.simulator.commanded_width > 0.04
        return chunk


def run(suite, environment, family, seed, policy):
    (episode,) = suite.episodes(family, range(seed, seed + 1))
    return run_episode(environment, policy, episode)


def test_there_is_a_family_for_each_primitive():
    assert {family.removeprefix("atomic_") for family in ATOMIC_FAMILIES} == set(PRIMITIVES)


@pytest.mark.slow
@pytest.mark.parametrize("family", ATOMIC_FAMILIES)
def test_the_expert_reaches_every_goal(blind, environment, family):
    for seed in range(len(GOALS[family])):
        rollout = run(blind, environment, family, seed, ExpertPolicy(environment))
        assert rollout.success, (environment.task, rollout.failure)
        assert not rollout.info["wrong_object"]


def test_what_begins_alike_is_told_apart_by_the_instruction_alone(environment):
    def start(family, seed):
        observation, info = environment.reset(seed=seed, options={"family": family})
        return environment.simulator.qpos, observation["state"], info["instruction"]

    for families in (("atomic_move", "atomic_rotate"), ("atomic_transport", "atomic_lift")):
        starts = [start(f, seed) for f in families for seed in range(len(GOALS[f]))]
        assert len({text for *_, text in starts}) == len(starts)
        for qpos, state, _ in starts:
            np.testing.assert_array_equal(qpos, starts[0][0])
            np.testing.assert_array_equal(state, starts[0][1])
    assert not np.array_equal(start("atomic_move", 6)[0], start("atomic_move", 0)[0])
    in_hand = environment.simulator
    start("atomic_lower", 3)
    assert in_hand.touching_fingers("block0") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "goals"),
    [
        ("atomic_move", OPPOSITES[0]),
        ("atomic_move", OPPOSITES[2]),
        ("atomic_transport", OPPOSITES[1]),
        ("atomic_rotate", OPPOSITES[3]),
        ("atomic_wrist_rotate", OPPOSITES[3]),
        ("atomic_reorient", ("object forward", "object backward")),
    ],
)
def test_the_opposite_counts_as_misread(blind, environment, family, goals):
    seed = list(GOALS[family]).index(goals[0])
    short = replace(blind, time_limit=2.0)
    table = short.make(family)
    rollout = run(short, table, family, seed, Doing(table, Task(family, goals[1])))
    assert (rollout.success, rollout.failure) == (False, "misread")
    assert short.figures(rollout.info, None) == {"misread": True}
    other = run(short, table, "atomic_lift", 0, Doing(table, Task("atomic_lower", "down")))
    assert other.failure == "misread"


@pytest.mark.slow
def test_who_stays_has_waited_and_done_nothing_else(blind):
    short = replace(blind, time_limit=2.6)
    table = short.make("atomic_wait")
    assert run(short, table, "atomic_wait", 0, Idle(table)).success
    for family in ("atomic_grasp", "atomic_lower", "atomic_push"):
        assert run(short, table, family, 0, Idle(table)).failure == "not_moved"
    moving = Doing(table, Task("atomic_move", "left"))
    assert run(short, table, "atomic_wait", 0, moving).failure == "moved"


def test_what_is_let_go_is_dropped(blind, environment):
    class Opening(ExpertPolicy):
        def chunk(self, images, state, time):
            return np.tile(np.array([0, 0, 0, 0, 0, 0, 1.0]), (self.contract.horizon, 1))

    for family in ("atomic_lift", "atomic_place"):
        rollout = run(blind, environment, family, 0, Opening(environment))
        assert rollout.failure == "dropped" in FAILURES
        assert rollout.seconds < 1.5, "at once"


def test_sentences_need_no_image():
    for family in ATOMIC_FAMILIES:
        said = [text for s in GOALS[family].values() for text in (*s.train, *s.test)]
        assert len(set(said)) == len(said)
        assert not [text for text in said if banned_words(text)]
        for goal, sentences in GOALS[family].items():
            words = " ".join(sentences.train + sentences.test)
            for one, other in OPPOSITES:
                named = goal.split()[-1]
                wrong = other if named == one else one if named == other else None
                assert wrong is None or wrong not in words.split()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [301, 302, 303])
def test_rules_find_what_contacts_and_goals_say(environment, seed):
    from atomic_episodes import run_actions
    from segments import segments_of

    from vla.language_action.trajectory import trajectory_of

    episode = run_actions(environment, seed)
    contract = environment.contract
    trajectory = trajectory_of(episode.states, episode.times, contract)
    true = segments_of(episode.labels, trajectory.times)
    assert len({segment.primitive for segment in true}) >= 2
    found = segment_by_rules(replace(trajectory, contact=episode.contact))
    assert score([(found, true)]).macro_f1 > 0.8
