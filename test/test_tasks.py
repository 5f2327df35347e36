"""Tasks in words: texts, answers and phrasings lead back to the task."""

from __future__ import annotations

import numpy as np
import pytest

from vla.envs.tabletop.tasks import (
    ALL_FAMILIES,
    COLORS,
    DESTINATIONS,
    KINDS,
    Task,
    parse_task,
    phrase,
    sample_task,
    task_of_answer,
)

NAMES = [f"{color} {kind}" for color in COLORS for kind in KINDS]
TASKS = [
    *(Task("pick", name) for name in NAMES),
    *(Task("place", name, destination) for name in NAMES for destination in DESTINATIONS),
    Task("open_drawer", "drawer"),
    Task("close_drawer", "drawer"),
    *(Task("store", name, "cabinet") for name in NAMES),
]


@pytest.mark.parametrize("task", TASKS, ids=Task.text)
def test_text_and_answer_lead_back_to_the_task(task):
    assert parse_task(task.text()) == task
    assert task_of_answer(task.family, task.answer()) == task


def test_answers_tell_tasks_apart():
    assert len({task.answer() for task in TASKS}) == len(TASKS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("juggle/red block", "unknown task family 'juggle'; known: pick, place"),
        ("", "unknown task family ''"),
        ("pick", "cannot read task 'pick'"),
        ("pick/red", "expected such as 'pick/red block'"),
        ("pick/orange block", "cannot read task"),
        ("pick/red block/bowl", "cannot read task"),
        ("place/red block", "cannot read task"),
        ("place/red block/table", "cannot read task"),
        ("place/red block/cabinet", "cannot read task"),
        ("store/red block", "cannot read task"),
        ("store/red block/bowl", "cannot read task"),
    ],
)
def test_unreadable_tasks_are_refused(text, says):
    with pytest.raises(ValueError, match=says):
        parse_task(text)


def test_space_around_the_parts_is_allowed():
    assert parse_task(" place / red can / plate ") == Task("place", "red can", "plate")


def test_phrases_vary_and_name_what_matters():
    generator = np.random.default_rng(0)
    task = Task("place", "blue can", "bowl")
    phrases = {phrase(task, generator) for _ in range(200)}
    assert len(phrases) > 60
    for text in phrases:
        assert "blue" in text and ("can" in text.split() or "tin" in text) and "bowl" in text
        assert text == text.lower() and "plate" not in text
    drawer = {phrase(Task("open_drawer", "drawer"), generator) for _ in range(50)}
    assert all("open" in text and text.endswith("drawer") for text in drawer)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_sampled_tasks_are_possible_and_depend_on_the_generator_alone(family):
    objects = ["red block", "green can"]
    tasks = [sample_task(family, objects, np.random.default_rng(seed)) for seed in range(20)]
    again = [sample_task(family, objects, np.random.default_rng(seed)) for seed in range(20)]
    assert tasks == again
    for task in tasks:
        assert task.family == family and task.instruction
        assert task.target in ([*objects] if "drawer" not in family else ["drawer"])
        assert bool(task.destination) == (family in ("place", "store"))
    with pytest.raises(ValueError, match="unknown task family 'throw'"):
        sample_task("throw", objects, np.random.default_rng(0))
