"""Chains of tasks: their rules, the file that holds them, and the expert in the scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_simulator import move_object

from vla.datasets.frames import read_dataset
from vla.datasets.sources import RobotData
from vla.envs.base import SuiteError
from vla.envs.chains.chains import (
    SHIPPED,
    Chain,
    chains_text,
    draw_chain,
    read_chains,
)
from vla.envs.chains.demonstrations import ChainDemonstrationConfig
from vla.envs.chains.state import (
    CHAIN_LENGTH,
    KINDS,
    TAKEN_FROM,
    SymbolicState,
    after,
    obstacle,
    require_chain,
    tasks_in,
)
from vla.envs.chains.suite import Chains
from vla.envs.registry import make_suite
from vla.envs.rollout import run_episode
from vla.envs.tabletop.expert_policy import ExpertPolicy
from vla.envs.tabletop.failures import FAILURES, Attempt
from vla.envs.tabletop.places import HELD, place_of
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import COLORS, FIRST_TRAINING_SEED, Task
from vla.envs.tabletop.tasks import KINDS as THINGS
from vla.evaluation.benchmark import evaluate, summarize, table
from vla.training.source_registry import ROBOT_SOURCES
from vla_cli.parser import main

DIGEST = "3526b0ebbfae5a2256c6dfb3a35933aeeb4d5ffc3f1f867aafccab9e240a064b"
NAMES = [f"{color} {kind}" for color in COLORS for kind in THINGS]
EVERY_TASK = [
    *(Task(family, "drawer") for family in ("open_drawer", "close_drawer")),
    *(Task("pick", name) for name in NAMES),
    *(
        Task(family, name, destination)
        for name in NAMES
        for family, destination in (
            ("place", "bowl"), ("place", "plate"), ("store", "cabinet"), ("stow", "drawer"),
            ("lay", "table"),
        )
    ),
]  # fmt: skip


def up(height: float) -> np.ndarray:
    return np.array([0.0, 0.0, height])


starts = st.builds(
    lambda is_open, names: SymbolicState(is_open, dict.fromkeys(names, "table")),
    st.booleans(),
    st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True),
)


@pytest.mark.slow
@given(starts, st.lists(st.integers(0, 1000), max_size=12))
def test_whatever_the_rules_allow_leaves_a_state_that_can_be(state, choices):
    for choice in choices:
        allowed = list(tasks_in(state))
        assert allowed, "there is always something to do"
        assert set(allowed) == {task for task in EVERY_TASK if not obstacle(state, task)}
        task = allowed[choice % len(allowed)]
        before, state = state, after(state, task)
        places = list(state.places.values())
        assert places.count(HELD) <= 1, "one hand"
        assert all(places.count(place) <= 1 for place in ("bowl", "plate", "cabinet", "drawer"))
        moved = [name for name in state.places if state.places[name] != before.places[name]]
        if task.target == "drawer":
            assert not moved and state.drawer_open != before.drawer_open and not before.held
        else:
            assert moved == [task.target] and state.drawer_open == before.drawer_open
            assert before.places[task.target] in TAKEN_FROM
            assert state.places[task.target] == (task.destination or HELD)
            assert before.held in ("", task.target)
        if task.family == "stow":
            assert before.drawer_open and task.target.endswith("block")


@given(starts, st.integers(0, 1000), st.data())
def test_a_chain_is_refused_at_the_task_that_cannot_be_done(state, choice, data):
    allowed = list(tasks_in(state))
    first = allowed[choice % len(allowed)]
    impossible = [t for t in EVERY_TASK if obstacle(after(state, first), t)]
    second = data.draw(st.sampled_from(impossible))
    with pytest.raises(ValueError, match=r"mine: task 2, '.*', can't be done: "):
        require_chain(state, [first, second], "mine")
    with pytest.raises(ValueError, match="can't be done"):
        after(after(state, first), second)


def test_two_tasks_of_one_kind_are_no_chain():
    state = SymbolicState(True, {"red can": "table"})
    tasks = [Task("close_drawer", "drawer"), Task("open_drawer", "drawer")]
    with pytest.raises(ValueError, match="task 2, 'open_drawer/drawer', is of a kind that"):
        require_chain(state, tasks, "mine")


# The file


def test_the_thousand_chains_are_always_the_same(simulator):
    chains = read_chains()
    assert len(chains) == 1000 and [chain.seed for chain in chains] == list(range(1000))
    assert SHIPPED.read_text() == chains_text(chains)
    assert SHIPPED.read_text().splitlines()[0].endswith(DIGEST)
    for seed in (0, 1, 17, 999):
        assert draw_chain(seed, simulator) == chains[seed]


def test_every_chain_has_five_tasks_of_different_kinds():
    chains = read_chains()
    for chain in chains:
        kinds = [KINDS[task.family] for task in chain.tasks]
        assert len(set(kinds)) == CHAIN_LENGTH == len(kinds)
        require_chain(chain.start, chain.tasks, "shipped")
    for family in KINDS:
        count = sum(family in [task.family for task in chain.tasks] for chain in chains)
        assert 300 < count < 1000, f"{family} is in {count} of them"
    assert len({chain.tasks for chain in chains}) > 950


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "3; closed; red block; stow/red block/drawer",
            "task 1, .* can't be done: the drawer is c",
        ),
        ("3; open; red can; stow/red can/drawer", "the red can is too high for the drawer"),
        ("3; open; red can; open_drawer/drawer", "the drawer is open"),
        ("3; open; red can; pick/blue can", "there is no blue can"),
        ("3; open; red can; lay/red can/table", "the red can is there"),
        ("3; open; red can; pick/red can, close_drawer/drawer", "the hand holds the red can"),
        ("3; open; red can, red block; place/red can/bowl, pick/red can", "is in the bowl"),
        ("3; open; red can, red block; store/red can/cabinet, stow/red block/drawer", "cabinet"),
        ("3; ajar; red can; pick/red can", "is no 'seed; open or closed; things; tasks'"),
        ("x; open; red can; pick/red can", "is no 'seed; open or closed; things; tasks'"),
        ("3; open; red can", "is no 'seed; open or closed; things; tasks'"),
        ("3; open; red can; juggle/red can", "unknown task family 'juggle'"),
    ],
)
def test_a_chain_that_no_state_allows_is_one_sentence(tmp_path, line, says):
    path = tmp_path / "mine.txt"
    path.write_text(f"3; open; red can; pick/red can\n{line}\n")
    with pytest.raises(SuiteError, match=f"mine.txt: chain 1.*{says}") as error:
        list(Chains(chains=str(path)).episodes("chain", range(1)))
    assert "\n" not in str(error.value)


def test_damaged_missing_and_short_files_are_refused(tmp_path):
    path = tmp_path / "chains.txt"
    path.write_text(SHIPPED.read_text().replace("red can", "red block", 1))
    with pytest.raises(SuiteError, match="is damaged: its lines do not have the digest"):
        read_chains(path)
    with pytest.raises(SuiteError, match=r"cannot read .*none\.txt"):
        read_chains(tmp_path / "none.txt")
    with pytest.raises(SuiteError, match="there are chains 0 to 999, not 1000: choose others"):
        list(Chains().episodes("chain", range(990, 1001)))
    with pytest.raises(SuiteError, match="unknown split 'new'; known: seen, unseen"):
        make_suite("chains", split="new")


# In the scene


@pytest.fixture(scope="module")
def suite():
    suite = Chains()
    return replace(suite, contract=replace(suite.contract, cameras=()))


class Watched(ExpertPolicy):
    """The expert, which notes when it was reset, and to what."""

    def __init__(self, environment):
        super().__init__(environment)
        self.told = []

    def reset(self, instruction, seed=None, think=False):
        self.told.append((instruction, seed))
        state = self.environment.simulator
        self.scene = {name: place_of(state, name) for name in state.objects()}


@pytest.mark.slow
def test_the_expert_finishes_chains_and_is_reset_at_each_task(suite):
    environment = suite.make("chain")
    for episode in suite.episodes("chain", range(3, 5)):
        policy = Watched(environment)
        rollout = run_episode(environment, policy, episode)
        tasks = episode.options["chain"].tasks
        assert rollout.success and rollout.failure == "", (tasks, rollout)
        assert rollout.info["subtasks"] == {task.family: True for task in tasks}
        assert len(policy.told) == 5 == len({instruction for instruction, _ in policy.told})
        assert {seed for _, seed in policy.told} == {episode.seed}
        figures = suite.figures(rollout.info, None)
        assert figures["length"] == 5 and figures["fifth"] == 1.0
        # What the rules say of the end is what the scene shows.
        state = episode.options["chain"].start
        for task in tasks:
            state = after(state, task)
        simulator = environment.simulator
        assert {name: place_of(simulator, name) for name in simulator.objects()} == state.places


def test_the_first_failure_ends_a_chain(suite, capsys):
    class Idle:
        contract, said, refused, window = suite.contract, None, False, 1

        def __init__(self):
            self.resets = 0

        def reset(self, instruction, seed=None, think=False):
            self.resets += 1

        def chunk(self, images, state, time):
            return np.zeros((16, 7))

    policy = Idle()
    results = evaluate(policy, replace(suite, time_limit=0.5), ["chain"], range(3))
    assert policy.resets == 3 and not any(result.success for result in results)
    assert [result.figures["length"] for result in results] == [0, 0, 0]
    assert all(result.seconds == pytest.approx(0.5) for result in results)
    assert {result.failure for result in results} <= {"nothing_grasped", "drawer_not_moved"}
    (summary,) = summarize(results)
    assert summary.figures["first"] == 0.0 and summary.figures["length"] == 0.0
    lines = table([summary], Chains.counted_figures).splitlines()
    assert "0.00" in lines[1] and lines[2].startswith("chain failed: ")
    assert lines[3].startswith("chain by task: ") and "0/" in lines[3]
    assert sum(tried for _, tried in summary.subtasks.values()) == 3
    assert main(["eval", "--benchmark", "chains", "--set", "chains=nowhere.txt"]) == 2
    assert "nowhere.txt" in capsys.readouterr().err


def test_chains_of_another_version_s_scenes_are_refused(suite):
    chain = replace(read_chains()[0], things=("red can", "red block"))
    with pytest.raises(SuiteError, match=r"the scene of chain 0 holds .*, not red can, red block"):
        suite.make("chain").reset(options={"chain": chain})


def test_a_lift_is_measured_from_the_beginning_of_its_task(suite):
    chain = Chain(3, False, (), ())
    environment = suite.make("chain")
    environment.simulator.reset(3, chain.layout)
    simulator = environment.simulator
    name = simulator.objects()[0]
    move_object(simulator, name, simulator.place_position("cabinet") + up(0.05))
    assert simulator.lift(name) > 0.06, "it is on the cabinet, which is no lift"
    environment.begin(Task("pick", name))
    assert simulator.lift(name) == 0.0 and not simulator.check(environment.task).wrong_object


# What went wrong


def test_failures_are_told_apart(simulator):
    simulator.reset(3, "place")
    simulator.step(0.2)
    name, other = simulator.objects()[:2]
    put = Task("place", name, "bowl")
    home = simulator.object_position(name)

    def attempt(task, gripped=False, lifted=False):
        made = Attempt.begin(simulator, task)
        made.gripped, made.lifted = gripped, lifted
        return made.failure(simulator)

    assert attempt(put) == "nothing_grasped"
    assert attempt(put, gripped=True) == "not_lifted"
    assert attempt(put, True, True) == "dropped", "it is on the table"
    plate = simulator.place_position("plate") + up(simulator.scene_objects[name].half_height)
    move_object(simulator, name, plate + up(0.01))
    assert attempt(put, True, True) == "wrong_place"
    assert attempt(Task("place", name, "plate"), True, True) == "not_steady"
    move_object(simulator, name, home)
    drawer = Attempt.begin(simulator, Task("open_drawer", "drawer"))
    assert drawer.failure(simulator) == "drawer_not_moved"
    drawer.drawer -= 0.02
    assert drawer.failure(simulator) == "drawer_not_far_enough"
    wrong = Attempt.begin(simulator, Task("pick", name))
    place = simulator.object_position(other)
    move_object(simulator, other, place + up(0.2))
    simulator.step(0.01)
    assert wrong.failure(simulator) == "wrong_object"
    assert set(FAILURES) > {"not_placed"}


# Another look


@pytest.mark.slow
def test_unseen_scenes_look_different_and_are_the_same(simulator):
    simulator.reset(5, "place")
    before, seen = simulator.qpos, simulator.render("front").astype(int)
    simulator.reset(5, "place", split="unseen")
    unseen = simulator.render("front").astype(int)
    np.testing.assert_array_equal(simulator.qpos, before)
    assert np.abs(unseen - seen).mean() > 15
    simulator.reset(5, "place", split="unseen")
    np.testing.assert_array_equal(simulator.render("front"), unseen, "fixed by the seed")
    simulator.reset(5, "place")
    np.testing.assert_array_equal(simulator.render("front"), seen, "nothing of it is left")


def test_things_that_are_put_into_the_drawer_or_on_the_table_are_there(simulator):
    simulator.reset(4, "stow")
    task = simulator.task
    assert task.target.endswith("block") and simulator.drawer_opening > 0.08
    half = up(simulator.scene_objects[task.target].half_height)
    assert not simulator.check(task).success and place_of(simulator, task.target) == "table"
    move_object(simulator, task.target, simulator.place_position("drawer") + half + up(0.004))
    simulator.step(0.3)
    assert simulator.check(task).success and place_of(simulator, task.target) == "drawer"
    simulator.reset(4, "lay")
    task = simulator.task
    assert place_of(simulator, task.target) == "plate" and not simulator.check(task).success
    half = up(simulator.scene_objects[task.target].half_height)
    spot = simulator.place_position("table", task.target)
    others = [simulator.object_position(n) for n in simulator.objects() if n != task.target]
    others += [simulator.place_position(n) for n in ("bowl", "plate")]
    assert min(np.hypot(*(spot - place)[:2]) for place in others) > 0.09
    move_object(simulator, task.target, spot + half + up(0.002))
    simulator.step(0.3)
    assert simulator.check(task).success and place_of(simulator, task.target) == "table"


@pytest.mark.slow
def test_chains_are_data_for_training_of_other_seeds(tmp_path, contract):
    folder, source = tmp_path / "chains", ROBOT_SOURCES["chains"]
    options = {"episodes": 2, "episodes_per_shard": 2, "noise_share": 0.0, "detour_share": 0.0}
    entry = RobotData(str(folder), "chains", options=options)
    source.make(entry, contract, workers=1)
    (shard,) = read_dataset(folder, contract)
    drawn = [draw_chain(FIRST_TRAINING_SEED + number, TableTopSimulator()) for number in range(2)]
    tasks = [task for chain in drawn for task in chain.tasks]
    assert [words.family for words in shard.episodes] == [task.family for task in tasks]
    # A chain's clock goes on from task to task.
    begins = [shard.time[shard.episode == number][0] for number in range(len(tasks))]
    assert begins[0] < 1.0 < begins[1] < begins[2]
    assert max(chain.seed for chain in read_chains()) < ChainDemonstrationConfig().seed
    assert len(source.open(entry, contract)) == len(shard)
    assert source.correction_steps(entry) == ()
