"""Annotations of simulated episodes: true from the first frame to the last, and reproducible."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from random_scenes import possible_tasks, random_scene
from test_questions import check_answer, listed

from vla.datasets.frames import EpisodeWords
from vla.datasets.sample import Annotation
from vla.envs.tabletop.annotations import annotate
from vla.envs.tabletop.samples import SimulatedDemonstrations
from vla.envs.tabletop.tasks import Task


def episode(words: EpisodeWords, task: Task) -> EpisodeWords:
    return replace(words, family=task.family, answer=task.answer())


def test_annotations_are_complete_and_depend_on_the_generator_alone():
    generator = np.random.default_rng(0)
    for number in range(40):
        scene = random_scene(generator, landmarks=number % 2 == 0)
        for task in possible_tasks(scene):
            words = episode(scene, task)
            made = annotate(words, np.random.default_rng(number), 0.0)
            assert made == annotate(words, np.random.default_rng(number), 0.0)
            assert isinstance(made, Annotation) and made.caption
            assert len(made.question_answers) == 3
            for pairs in (made.command_rewrites, made.contexts):
                assert 1 <= len(pairs) <= 3
                assert {answer for _, answer in pairs} == {task.answer()}
                assert all(question != answer for question, answer in pairs)
            few = annotate(words, np.random.default_rng(number), entries=1)
            assert len(few.question_answers) == len(few.contexts) == 1


def test_captions_list_what_is_there():
    generator = np.random.default_rng(1)
    for _ in range(30):
        words = random_scene(generator)
        for opening, state in ((0.0, "closed"), (0.1, "open"), (0.03, ""), (None, "")):
            said = annotate(words, generator, opening).caption
            names = sorted(words.objects, key=lambda name: -words.objects[name][1])
            assert listed(said) == names and "bowl" in said and "plate" in said
            assert ("drawer" in said) == bool(state) and state in said and "robot" not in said


def test_answers_stay_true_whatever_the_robot_moves():
    generator = np.random.default_rng(2)
    asked = 0
    for number in range(150):
        scene = random_scene(generator, landmarks=number % 2 == 0)
        tasks = possible_tasks(scene)
        task = tasks[int(generator.integers(len(tasks)))]
        opening = float(generator.choice([0.0, 0.1]))
        annotation = annotate(episode(scene, task), generator, opening)
        later = scene
        if task.target != "drawer":  # it ends up anywhere
            objects = scene.objects | {task.target: generator.uniform([0.3, -0.4], [0.7, 0.3])}
            later = replace(scene, objects=objects)
        for question, answer in annotation.question_answers:
            if task.target == "drawer":
                assert "drawer" not in question + annotation.caption
            if re.match(r"where|is the .* (left|right|near)", question):
                assert task.target not in question
                check_answer(question, answer, later, opening)
                asked += 1
            else:
                check_answer(question, answer, scene, opening)
    assert asked > 40


def test_sentences_of_training_and_test_differ():
    generator = np.random.default_rng(3)
    said: dict[str, set[str]] = {"train": set(), "test": set()}
    for _ in range(60):
        scene = random_scene(generator)
        for split, texts in said.items():
            made = annotate(scene, generator, split=split)
            texts |= {question for question, _ in (*made.command_rewrites, *made.contexts)}
    assert not said["train"] & said["test"] and min(map(len, said.values())) > 100


def test_demonstrations_are_annotated_where_asked_for(shards, contract):
    plain = SimulatedDemonstrations(shards, contract, {})
    annotated = SimulatedDemonstrations(shards, contract, {}, annotated=True)
    assert plain.sample(0, np.random.default_rng(0)).annotation is None
    for index in range(0, len(annotated), 29):
        sample = annotated.sample(index, np.random.default_rng(index))
        again = annotated.sample(index, np.random.default_rng(index))
        assert sample.annotation == again.annotation
        assert {answer for _, answer in sample.annotation.contexts} == {sample.answer}
        assert sample.instruction == plain.sample(index, np.random.default_rng(index)).instruction
