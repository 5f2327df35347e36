"""Reworded instructions: each means one task of its scene, and test sentences are new."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from meant_objects import meant
from random_scenes import NAMES, possible_tasks, random_scene

from vla.envs.tabletop import negations, reference_forms, sentences
from vla.envs.tabletop.references import (
    SPLITS,
    attribute_references,
    contrasts,
    negative_references,
)
from vla.envs.tabletop.tasks import Task, phrase
from vla.envs.tabletop.wording import NEW_WORDINGS, WORDINGS, reword, reworded_task

BANKS = {
    name: bank
    for module in (sentences, negations)
    for name, bank in vars(module).items()
    if name.isupper()
}


def templates(split: str) -> list[str]:
    found = list(sentences.DRAWER[split])
    for name, bank in BANKS.items():
        if name != "DRAWER":
            found += [text for family in bank.values() for text in family[split]]
    return found


@pytest.mark.slow
def test_every_reference_fits_exactly_one_object():
    generator = np.random.default_rng(0)
    seen = {split: Counter() for split in SPLITS}
    for _ in range(300):
        objects = random_scene(generator).objects
        for split in SPLITS:
            for find in (attribute_references, negative_references):
                for reference in find(objects, split):
                    assert meant(reference.text, objects) == {reference.name}, (
                        reference, objects,
                    )  # fmt: skip
                    seen[split][find.__name__, reference.by] += 1
    for split in SPLITS:
        assert set(seen[split]) == {
            *(
                ("attribute_references", by)
                for by in ("place", "order", "neighbor", "kind", "shape")
            ),
            ("attribute_references", "color"),
            *(("negative_references", by) for by in ("place", "kind", "color")),
        }
        assert min(seen[split].values()) > 30


def read_sentence(text: str, bank: dict, task: Task, split: str) -> re.Match | None:
    """How a template of the bank fits an instruction."""
    where = {"bowl": "in the bowl", "plate": "on the plate", "": "nowhere"}[task.destination]
    for template in bank[task.family][split]:
        pattern = re.escape(template).replace(r"\{d\}", where)
        pattern = pattern.replace(r"\{e\}", "(?:in|on) the (?:bowl|plate)")
        for slot in ("x", "other"):
            pattern = pattern.replace(rf"\{{{slot}\}}", f"(?P<{slot}>.+)")
        if match := re.fullmatch(pattern, text):
            return match
    return None


@pytest.mark.parametrize("split", SPLITS)
def test_attribute_and_negation_single_out_the_target(split):
    generator = np.random.default_rng(1)
    kinds = Counter()
    for _ in range(150):
        objects = random_scene(generator).objects
        for name in objects:
            task = Task("place", name, "bowl") if generator.random() < 0.5 else Task("pick", name)
            text = reword(task, objects, "attribute", generator, split)
            if text is not None:
                match = read_sentence(text, sentences.REFERRING, task, split)
                assert meant(match["x"], objects) == {name}, (text, objects)
                kinds["attribute"] += 1
            text = reword(task, objects, "negation", generator, split)
            if match := read_sentence(text, negations.CONTRAST, task, split):
                noun = match["x"].removeprefix("the other ")
                group = [n for n in objects if noun in ("object", n.split()[1])]
                assert [n for n in group if n != match["other"]] == [name], (text, objects)
                kinds["contrast"] += 1
            elif match := read_sentence(text, negations.NOTHING_BUT, task, split):
                assert match["x"] == f"the {name}"
                kinds["nothing but"] += 1
            else:
                match = read_sentence(text, sentences.REFERRING, task, split)
                assert meant(match["x"], objects) == {name}, (text, objects)
                kinds["negation"] += 1
    assert min(kinds.values()) > 25 and kinds["attribute"] > 400, kinds


@pytest.mark.slow
@pytest.mark.parametrize("wording", WORDINGS)
def test_no_instruction_means_two_tasks_of_a_scene(wording):
    generator = np.random.default_rng(2)
    for _ in range(12):
        words = random_scene(generator)
        meaning: dict[str, Task] = {}
        for task in possible_tasks(words):
            for split in SPLITS:
                for _ in range(12):
                    text = reword(task, words.objects, wording, generator, split)
                    if text is not None:
                        assert meaning.setdefault(text, task) == task, text


def test_words_of_the_task_are_not_in_a_paraphrase():
    plain = {
        "pick": {"pick", "grab", "take", "lift", "get", "grasp", "hold", "fetch"},
        "place": {"put", "place", "drop", "set", "move"},
        "open_drawer": {"open", "pull", "slide"},
        "close_drawer": {"close", "shut", "push", "closed"},
    }
    generator = np.random.default_rng(3)
    for _ in range(30):
        words = random_scene(generator)
        for task in possible_tasks(words):
            text = reword(task, words.objects, "paraphrase", generator, "train")
            said = set(text.split())
            assert not said & (plain[task.family] | {"block", "can", "cube", "tin"}), text


def test_implied_goals_do_not_command():
    generator = np.random.default_rng(4)
    one_can = {"red can": [0.5, 0.0], "blue block": [0.5, -0.2]}
    two_cans = {"red can": [0.5, 0.0], "blue can": [0.5, -0.2]}
    said = {
        len(objects): {
            reword(Task("pick", "red can"), scene, "implied", generator) for _ in range(200)
        }
        for objects, scene in (("a", one_can), ("ab", two_cans))
    }
    assert "i am thirsty" in said[1] and "i am thirsty" not in said[2]
    assert "i need something red" in said[1] & said[2]
    twins = {"red can": [0.5, 0.0], "red block": [0.5, -0.2]}
    texts = {reword(Task("pick", "red can"), twins, "implied", generator) for _ in range(200)}
    assert not any("something red" in text for text in texts)


def test_test_sentences_are_new_and_their_words_mostly_known():
    assert not set(templates("train")) & set(templates("test"))
    forms = {split: set() for split in SPLITS}
    for bank in vars(reference_forms).values():
        if isinstance(bank, dict):
            for entry in [bank, *bank.values()]:
                for split in SPLITS:
                    if isinstance(entry, dict) and split in entry:
                        forms[split] |= set(entry[split])
    assert len(forms["test"]) > 15 and not forms["train"] & forms["test"]
    generator = np.random.default_rng(5)
    said = {split: set() for split in SPLITS}
    for _ in range(60):
        words = random_scene(generator)
        for task in possible_tasks(words):
            said["train"].add(phrase(task, generator))
            for wording in NEW_WORDINGS:
                for split in SPLITS:
                    said[split].add(reword(task, words.objects, wording, generator, split) or "")
    known = {word for text in said["train"] for word in text.split()}
    heard = [word for text in said["test"] for word in text.split()]
    assert len(set(heard) - known) <= 6
    assert np.mean([word in known for word in heard]) > 0.95
    assert len(said["test"] & said["train"]) <= 1, "the empty text at most"


@pytest.mark.slow
def test_instructions_vary_and_are_plain_words():
    generator = np.random.default_rng(6)
    words = random_scene(generator)
    for task in possible_tasks(words):
        for wording in NEW_WORDINGS:
            texts = {reword(task, words.objects, wording, generator) for _ in range(300)} - {None}
            assert len(texts) >= 5, (task, wording)
            for text in texts:
                assert text == text.lower() and re.fullmatch(r"[a-z]+( ([a-z]+|[,?]))*", text)
                assert "{" not in text


def test_instructions_depend_on_the_generator_alone():
    words = random_scene(np.random.default_rng(7))
    task = Task("pick", next(iter(words.objects)))
    runs = [
        [reword(task, words.objects, wording, generator) for wording in WORDINGS for _ in range(20)]
        for generator in (np.random.default_rng(8), np.random.default_rng(8))
    ]
    assert runs[0] == runs[1]
    assert reword(task, words.objects, "direct", np.random.default_rng(9)) == phrase(
        task, np.random.default_rng(9)
    )


def test_a_scene_without_such_an_instruction_has_none():
    generator = np.random.default_rng(10)
    task = Task("pick", "red can", instruction="take the red can")
    # Four things as like each other as can be: no color, kind, side or neighbour is one's alone.
    objects = {
        "red can": [0.500, 0.000], "red block": [0.501, 0.010],
        "blue can": [0.502, -0.010], "blue block": [0.503, 0.005],
    }  # fmt: skip
    assert reword(task, objects, "attribute", generator) is None
    assert reworded_task(task, objects, "attribute", generator) is None
    changed = reworded_task(task, objects, "implied", generator)
    assert changed.instruction != task.instruction and changed.answer() == task.answer()


def test_contrasts_name_the_other_of_two():
    pairs = contrasts({"red can": [0, 0], "blue can": [0, 0], "red block": [0, 0]})
    assert {(other, r.text, r.name) for other, r in pairs} == {
        ("blue can", "the other can", "red can"),
        ("red can", "the other can", "blue can"),
    }


def test_unknown_words_are_refused():
    generator = np.random.default_rng(0)
    objects = {name: [0.5, 0.0] for name in NAMES[:2]}
    with pytest.raises(ValueError, match="unknown wording 'poem'; known: direct, paraphrase"):
        reword(Task("pick", NAMES[0]), objects, "poem", generator)
    with pytest.raises(ValueError, match="unknown split 'dev'; known: train, test"):
        reword(Task("pick", NAMES[0]), objects, "implied", generator, "dev")
