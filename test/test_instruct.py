"""The benchmark `instruct`: its tasks can be done, misreading ends them, bad files are refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import yaml

from vla.envs.base import SuiteError
from vla.envs.instruct.answers import answers_right
from vla.envs.instruct.scene import InstructSimulator
from vla.envs.instruct.tasks import CATEGORIES, LEVELS, SHIPPED, read_tasks
from vla.envs.instruct.things import NEW_COLORS, PATTERNS, SHAPES, read_thing
from vla.envs.registry import make_suite
from vla.envs.rollout import run_episode
from vla.envs.tabletop.expert import plan_chunk
from vla.envs.tabletop.expert_policy import ExpertPolicy
from vla.envs.tabletop.tasks import Task
from vla.evaluation.benchmark import EpisodeResult, pooled_summaries, report, table

TASKS = read_tasks()


@pytest.fixture(scope="module")
def blind():
    suite = make_suite("instruct")
    return replace(suite, contract=replace(suite.contract, cameras=()))


class Doing(ExpertPolicy):
    """The expert, at another task than it was given."""

    def __init__(self, environment, task=None):
        super().__init__(environment)
        self.task = task

    def chunk(self, images, state, time):
        task = self.task or self.environment.task
        return plan_chunk(self.environment.simulator, task, self.contract.horizon)


def run(suite, name, task=None, seed=0):
    environment = suite.make(name)
    (episode,) = suite.episodes(name, range(seed, seed + 1))
    rollout = run_episode(environment, Doing(environment, task), episode)
    environment.close()
    return rollout


def test_there_are_fifty_and_thirty_tasks_of_all_categories():
    assert Counter(task.level for task in TASKS.values()) == {1: 50, 2: 30}
    counts = Counter(task.category for task in TASKS.values())
    assert list(counts) == list(CATEGORIES) and min(counts.values()) >= 3
    shown = {thing.kind for task in TASKS.values() for thing in task.named_things}
    assert shown == {"block", "can", *SHAPES}
    names = " ".join(name for task in TASKS.values() for name in task.things)
    assert all(word in names for word in PATTERNS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seed"), [("two_open_then_place", 0), ("tool_soup", 1)])
def test_the_expert_does_a_sample_of_the_tasks(blind, name, seed):
    rollout = run(blind, name, seed=seed)
    assert rollout.success and rollout.info["misread"] == "", rollout.failure
    assert rollout.instruction == TASKS[name].instructions[seed]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "done", "misread"),
    [
        ("new_banana", Task("pick", "yellow block"), "yellow block"),
        ("not_on_the_plate", Task("place", "blue block", "plate"), "plate"),
        ("not_the_drawer", Task("close_drawer", "drawer"), "drawer"),
        ("two_close_then_pick", Task("pick", "yellow can"), "yellow can"),
    ],
)
def test_what_is_taken_or_used_by_mistake_ends_the_episode(blind, name, done, misread):
    rollout = run(blind, name, done)
    assert (rollout.success, rollout.failure) == (False, "misread")
    assert rollout.info["misread"] == misread and rollout.seconds < 10.0
    assert blind.figures(rollout.info, None) == {"misread": True, "answered_right": None}


def test_seeds_go_through_the_words_and_change_the_light(blind):
    words = TASKS["german_pick_can"].instructions
    episodes = list(blind.episodes("german_pick_can", range(4)))
    assert [e.options["instruction"] for e in episodes] == [*words, words[0]]
    simulator = InstructSimulator(TASKS["new_checkered_can"], 96)
    images = []
    for seed in (0, 1, 0):
        simulator.reset(seed, "new_checkered_can")
        places = [simulator.object_position(name)[:2] for name in simulator.objects()]
        given = list(TASKS["new_checkered_can"].things.values())
        np.testing.assert_allclose(places, given, atol=0.004)
        images.append(simulator.render("front").astype(int))
    simulator.close()
    assert np.abs(images[0] - images[1]).mean() > 2
    np.testing.assert_array_equal(images[0], images[2])
    with pytest.raises(SuiteError, match="seeds from 1000000 on are training's"):
        list(blind.episodes("german_pick_can", range(999_999, 1_000_001)))


def test_a_pattern_is_seen_on_what_has_it():
    simulator = InstructSimulator(TASKS["new_striped_plate"], 96)
    simulator.reset(0, "new_striped_plate")
    striped = simulator.render("front").astype(int)
    simulator.model.geom("block0").matid = -1
    plain = simulator.render("front").astype(int)
    simulator.close()
    assert 8 < (np.abs(striped - plain).max(axis=2) > 60).sum() < 60, "pixels of the stripes"


@pytest.mark.parametrize(
    ("name", "said", "right"),
    [
        ("need_drink", "Pick up the blue can.", True),
        ("need_drink", "I can pick up the can.", True),
        ("need_drink", "I can pick up the red block.", False),
        ("need_drink", "The blue can is cold.", False),
        ("need_drink", "pick up the blue can and the red block", False),
        ("size_large_red_can", "take the large red can", True),
        ("size_large_red_can", "take the red can", False),
        ("size_large_red_can", "take the small red can", False),
        ("new_star_bowl", "put the star in the bowl", True),
        ("new_star_bowl", "put the star on the plate", False),
        ("new_star_bowl", "put the star away", False),
        ("need_coffee", "pick up the cup", True),
        ("two_block_then_can", "put the red block in the bowl", True),
        ("two_block_then_can", "put the blue can on the plate", False),
        ("two_close_then_pick", "close the drawer, then pick up the yellow can", True),
        ("verb_yank_drawer", "open the drawer .", True),
        ("verb_yank_drawer", "close the drawer .", False),
        ("verb_yank_drawer", "拿起来", False),
    ],
)
def test_an_answer_is_right_where_it_names_action_and_thing(name, said, right):
    assert answers_right(TASKS[name], said) is right


def test_reports_count_tasks_by_category_and_by_level():
    suite = make_suite("instruct")
    assert set(suite.pooled) == {*CATEGORIES, *LEVELS} and set(suite.groups) == set(LEVELS)
    assert suite.chosen_families(["tools"]) == [n for n in TASKS if n.startswith("tool_")]
    assert set(suite.chosen_families([])) == set(TASKS)
    results = [
        EpisodeResult(name, seed, "", "", seed == 0, 1.0, {"misread": seed == 1})
        for name in suite.chosen_families(["tools", "negation"])
        for seed in (0, 1)
    ]
    written = report("id", suite, False, results)
    entries = {entry["family"]: entry for entry in written["pooled"]}
    assert set(entries) == {"tools", "negation", *LEVELS}
    assert entries["tools"]["episodes"] == 10 and entries["tools"]["success"] == 0.5
    assert entries["tools"]["success_low"] == pytest.approx(0.237, abs=0.001), "Wilson, 5 of 10"
    assert entries["situated_reasoning"]["misread"] == 0.5
    assert written["settings"] == {
        "think": False, "execution": "", "blackout": False, "steps_per_chunk": 3,
        "delay_steps": 2, "time_limit": 20.0, "split": "seen", "tasks": "",
    }  # fmt: skip
    assert json.dumps(written) and "misread" in table(pooled_summaries(results, suite.pooled))


# A file of one's own


def entry(**changed):
    return {
        "id": "mine",
        "level": 1,
        "category": "negation",
        "things": {"red can": [0.45, -0.05], "blue can": [0.6, -0.1]},
        "instructions": ["not the blue one", "any but the blue can", "red, not blue"],
        "do": ["pick/red can"],
        "misread": ["blue can"],
    } | changed


def written(tmp_path, *tasks):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"tasks": list(tasks)}))
    return str(path)


def test_a_file_of_ones_own_is_a_benchmark(tmp_path):
    suite = make_suite("instruct", tasks=written(tmp_path, entry()))
    assert suite.families == ("mine",) and suite.pooled["negation"] == ("mine",)
    assert set(suite.groups) == {"instruction_aggregation"}
    with pytest.raises(SuiteError, match="unknown family 'need_drink'; known: mine"):
        suite.chosen_families(["need_drink"])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"category": "jokes"}, "unknown category 'jokes'; known: other_verbs, "),
        ({"level": 2}, "category 'negation' is of level 1, not 2"),
        ({"instructions": ["a", "b", "b"]}, "it has 2 instructions; write 3 different"),
        ({"do": ["pick/green can"]}, "'pick/green can' needs the green can, which the scene lacks"),
        ({"do": ["place/red can/bowl"]}, "'place/red can/bowl' needs the bowl, which the scene"),
        ({"do": ["place/red can/drawer"]}, "a place goes to bowl, plate"),
        ({"do": ["throw/red can"]}, "cannot read 'throw/red can'; write such as"),
        ({"do": []}, "nothing is to be done; name at least one part under 'do'"),
        ({"do": ["close_drawer"]}, "'close_drawer/drawer' is done when the task begins"),
        (
            {
                "do": ["place/red can/plate"],
                "plate": [0.5, -0.2],
                "things": {"red can": "plate", "blue can": [0.6, 0.0]},
            },
            "'place/red can/plate' is done when the task begins",
        ),
        (
            {"bowl": [0.5, -0.2], "things": {"red can": "bowl", "blue can": [0.6, 0.0]}},
            "the gripper takes nothing out of the bowl",
        ),
        ({"do": ["pick/red can", "open_drawer"]}, "'pick/red can' can only be the last part"),
        (
            {"do": ["open_drawer", "close_drawer"]},
            "the drawer is in two parts; a task does one thing with each",
        ),
        ({"misread": ["green can"]}, "the scene lacks the green can that counts as misread"),
        ({"misread": ["red can"]}, "the red can is part of the task"),
        ({"misread": []}, "name under 'misread' what is taken or used by mistake"),
        (
            {"things": {"red can": [0.45, 0], "wooden egg": [0.6, 0]}},
            "'wooden egg' is no thing",
        ),
        ({"things": {"red can": [0.45, 0], "blue can": [0.46, 0]}}, "are closer than 2 cm"),
        ({"things": {"red can": [0.9, 0], "blue can": [0.5, 0]}}, "red can is out of the arm's"),
        ({"things": {"red can": "plate", "blue can": [0.5, 0]}}, "red can is on 'plate', which"),
        ({"colour": "red"}, "colour"),
        ({"level": 3}, "level must be one of 1, 2"),
    ],
)
def test_a_bad_task_is_refused_in_one_sentence(tmp_path, changed, says):
    with pytest.raises(SuiteError) as error:
        make_suite("instruct", tasks=written(tmp_path, entry(**changed)))
    message = str(error.value)
    assert says in message and "mine.yaml: task 'mine'" in message and "\n" not in message


def test_two_tasks_of_one_id_and_files_without_tasks_are_refused(tmp_path):
    with pytest.raises(SuiteError, match="task 'mine' has the id of another task"):
        make_suite("instruct", tasks=written(tmp_path, entry(), entry()))
    with pytest.raises(SuiteError, match="tasks must be a list, with at least one task"):
        read_tasks(written(tmp_path))
    empty = tmp_path / "empty.yaml"
    empty.write_text("things: 3\n")
    with pytest.raises(SuiteError, match="has no list of tasks under 'tasks'"):
        read_tasks(str(empty))
    with pytest.raises(SuiteError, match=r"cannot read .*nowhere\.yaml"):
        make_suite("instruct", tasks="nowhere.yaml")


def test_names_say_how_things_look():
    assert read_thing("large red can").size == pytest.approx((0.0253, 0.0456))
    assert read_thing("pink star").color == NEW_COLORS["pink"]
    assert read_thing("striped block").pattern == "striped"
    assert not read_thing("small blue block").is_new and read_thing("pink block").is_new
    for name in ("block", "small banana", "red sponge", "striped star", "red red can", ""):
        with pytest.raises(ValueError, match=f"'{name}' is no thing; a name is small, large or"):
            read_thing(name)
    assert SHIPPED.read_text().count("- id:") == 80
