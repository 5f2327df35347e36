"""The family `store`: its scenes, its truth and its words; the shipped policy's four stay as is."""

from __future__ import annotations

import numpy as np
import pytest
from random_scenes import random_scene
from test_simulator import move_object

from vla.envs.tabletop import scene
from vla.envs.tabletop.annotations import annotate
from vla.envs.tabletop.demonstrations import DemonstrationConfig
from vla.envs.tabletop.expert import plan_chunk
from vla.envs.tabletop.references import SPLITS
from vla.envs.tabletop.tasks import ALL_FAMILIES, FAMILIES, NEW_FAMILIES, Task, parse_task, phrase
from vla.envs.tabletop.wording import reword


def test_what_the_shipped_policy_knows_is_as_it_was():
    assert FAMILIES == ("pick", "place", "open_drawer", "close_drawer")
    assert set(DemonstrationConfig().shares) == set(FAMILIES)
    assert not set(FAMILIES) & set(NEW_FAMILIES) and set(ALL_FAMILIES) > set(FAMILIES)


def test_an_object_is_stored_when_it_rests_on_the_cabinet(simulator):
    task = simulator.reset(3, "store")
    assert task.destination == "cabinet" and not simulator.check(task).success
    item = simulator.scene_objects[task.target]
    place = simulator.place_position("cabinet")
    assert place[2] == pytest.approx(scene.CABINET_TOP)
    assert 0.3 < place[1] < 0.45, "within the arm's reach"
    lying = place + np.array([0.0, 0.0, item.half_height])
    move_object(simulator, task.target, lying + np.array([0.0, 0.0, 0.002]))
    simulator.step(0.3)
    assert simulator.check(task).success, "it lies there"
    np.testing.assert_allclose(simulator.object_position(task.target), lying, atol=3e-3)
    for offset in ([0.0, 0.0, 0.05], [0.15, 0.0, 0.0], [0.0, -0.1, 0.0], [0.0, 0.0, -0.06]):
        move_object(simulator, task.target, lying + offset)
        assert not simulator.check(task).success, offset


def test_the_plan_goes_over_the_cabinet_s_edge(simulator):
    task = simulator.reset(3, "store")
    actions = plan_chunk(simulator, task, 120)
    path = simulator.end_effector_pose()[0] + actions[:, :3].cumsum(axis=0)
    inside = path[:, 1] > simulator.place_position("cabinet")[1] - 0.03
    assert inside.any() and path[inside, 2].min() > scene.CABINET_TOP


def test_instructions_name_object_and_cabinet():
    generator = np.random.default_rng(0)
    task = Task("store", "red block", "cabinet")
    assert task.answer() == "put the red block on top of the cabinet ."
    texts = {phrase(task, generator) for _ in range(200)}
    assert len(texts) > 40 and all("red" in t and t.endswith("cabinet") for t in texts)


@pytest.mark.parametrize("split", SPLITS)
def test_it_is_said_in_other_words_where_there_are_some(split):
    generator = np.random.default_rng(1)
    said = {wording: set() for wording in ("paraphrase", "attribute", "negation", "implied")}
    for _ in range(60):
        words = random_scene(generator)
        task = parse_task(f"store/{next(iter(words.objects))}/cabinet")
        for wording, texts in said.items():
            texts.add(reword(task, words.objects, wording, generator, split))
    assert said.pop("implied") == {None}, "there are no such sentences"
    for texts in said.values():
        texts.discard(None)
        assert len(texts) > 10
        assert all("on top of the cabinet" in text and "{" not in text for text in texts)


def test_episodes_are_annotated(simulator):
    generator = np.random.default_rng(2)
    scene_words = random_scene(generator, landmarks=True)
    task = Task("store", next(iter(scene_words.objects)), "cabinet")
    words = type(scene_words)(
        "store", "", task.answer(), scene_words.objects, scene_words.landmarks
    )
    annotation = annotate(words, generator, drawer_opening=0.0)
    assert "table" in annotation.caption and len(annotation.question_answers) == 3
    for pairs in (annotation.command_rewrites, annotation.contexts):
        assert pairs and {answer for _, answer in pairs} == {task.answer()}
