"""The benchmark `instruct` has nothing of what training shows: sentences, words, looks, seeds."""

from __future__ import annotations

import re
from dataclasses import fields

import numpy as np
import pytest
from random_scenes import NAMES, possible_tasks, random_scene

from vla.envs.chains.demonstrations import ChainDemonstrationConfig
from vla.envs.instruct.tasks import read_tasks
from vla.envs.instruct.things import NEW_COLORS, read_thing
from vla.envs.tabletop import (
    impossible_sentences,
    made_up,
    negations,
    questions,
    reference_forms,
    sentences,
    situations,
    spoken,
    wording,
)
from vla.envs.tabletop import tasks as plain
from vla.envs.tabletop.annotations import annotate
from vla.envs.tabletop.corrections import CorrectionConfig
from vla.envs.tabletop.demonstrations import DemonstrationConfig
from vla.envs.tabletop.goal_sentences import GOALS
from vla.envs.tabletop.layout import COLOR_VALUES
from vla.envs.tabletop.scenes import SceneConfig
from vla.envs.tabletop.tasks import COLORS, FIRST_TRAINING_SEED, KINDS
from vla.envs.tabletop.wording import WORDINGS, reword

TASKS = read_tasks()


def normal(text: str) -> str:
    """Without punctuation and capitals."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def alternatives(texts) -> str:
    return f"(?:{'|'.join(re.escape(normal(text)) for text in texts)})"


def leaves(bank) -> list[str]:
    """The training texts of banks of sentences, whatever is in what."""
    if isinstance(bank, dict):
        if "train" in bank:
            return leaves(bank["train"])
        return [text for value in bank.values() for text in leaves(value)]
    if isinstance(bank, (tuple, list)):
        return [text for value in bank for text in leaves(value)]
    return [bank] if isinstance(bank, str) else []


def banks(module) -> list[str]:
    found = [bank for name, bank in vars(module).items() if name.isupper()]
    return [text for bank in found if isinstance(bank, dict) for text in leaves(bank)]


COLOR_WORDS = [*COLORS, *leaves(wording._COLOR_WORDS)]
KIND_WORDS = [*KINDS, *leaves(plain._KIND_WORDS), *leaves(wording._KIND_WORDS), "object"]
PLACES = [*leaves(plain._INTO), *leaves(wording._DESTINATION_WORDS)]
PLACES += [
    f"{where} the {noun}"
    for where in ("in", "on", "on top of")
    for noun in ("bowl", "plate", "cabinet", *leaves(wording._DESTINATION_WORDS))
]
SYLLABLE = "".join(alternatives(part) for part in (made_up._BEGIN, made_up._MIDDLE, made_up._END))
MADE_UP = SYLLABLE + SYLLABLE
SLOTS = {
    "kind": alternatives(KIND_WORDS),
    "other": alternatives(NAMES),
    "color": alternatives(COLORS),
    "one": alternatives(COLORS),
    "two": alternatives(COLORS),
    "another": alternatives(NAMES),
    "ordinal": "(?:first|second|third|fourth|last)",
    "direction": "(?:left|right)",
    "dest": "(?:bowl|plate)",
    "drawer": alternatives(wording._DRAWER_WORDS),
    "d": alternatives(PLACES),
    "e": alternatives(PLACES),
    "verb": f"(?:{alternatives(leaves(wording._RARE_VERBS))}|{MADE_UP})",
}
FORMS = banks(reference_forms)


def pattern(text: str) -> str:
    """A template as a regular expression."""
    parts = re.split(r"\{(\w+)\}", text)
    words = [SLOTS[part] if index % 2 else normal(part) for index, part in enumerate(parts)]
    return " ".join(word for word in words if word)


OBJECT = f"the {alternatives(COLOR_WORDS)} {alternatives(KIND_WORDS)}"
THINGS = [
    OBJECT,
    *(pattern(form) for form in FORMS),
    *(normal(t) for t in sentences.DRAWER["train"]),
]
THINGS += ["the drawer", "the other (?:object|block|can)"]
SLOTS["x"] = f"(?:{'|'.join(THINGS)})"
PREFIXES = "(?:please |can you |could you |now |robot |i want you to )?"
VERBS = alternatives(leaves(plain._VERBS))
PLAIN = f"{PREFIXES}{VERBS} {SLOTS['x']}(?: from the table| {SLOTS['d']})?"
TEMPLATES = [*banks(sentences), *banks(negations), *banks(situations)]
GOAL_TEXTS = [text for goals in GOALS.values() for goal in goals.values() for text in goal.train]
TRAINING = re.compile("|".join([PLAIN, *map(pattern, TEMPLATES), alternatives(GOAL_TEXTS)]))


# What training has to refuse, but for commands in other languages: it is those that it lacks.
REFUSED = [
    impossible_sentences.THINGS, impossible_sentences.GOALS, impossible_sentences.TAKE_THING,
    impossible_sentences.UNLEARNED, impossible_sentences.EMPTY,
]  # fmt: skip


# What is said around an instruction.
ASIDES = [*spoken._BEFORE, *spoken._AFTER, *spoken._ASIDE, *spoken._SHORT.values()]


def vocabulary() -> set[str]:
    """All words of training's instructions, questions and answers."""
    texts = [*TEMPLATES, *FORMS, *GOAL_TEXTS, *COLOR_WORDS, *KIND_WORDS, *PLACES, *NAMES]
    texts += [*leaves(plain._VERBS), *leaves(plain._PREFIXES), *wording._DRAWER_WORDS, "other"]
    texts += [*reference_forms.ORDINALS, *(text for bank in REFUSED for text in leaves(bank))]
    texts += [*leaves(wording._RARE_VERBS), *ASIDES]
    generator = np.random.default_rng(3)
    for _ in range(60):
        scene = random_scene(generator, landmarks=True)
        for kind in questions.QUESTION_KINDS:
            texts += questions.question_of(kind, scene, 0.1, generator) or ()
        texts.append(annotate(scene, generator, 0.1).caption)
    return {word for text in texts for word in normal(re.sub(r"\{\w+\}", " ", text)).split()}


WORDS = vocabulary()
SAID = [(task, text) for task in TASKS.values() for text in task.instructions]


def test_the_check_knows_training_s_sentences_when_it_sees_them():
    generator = np.random.default_rng(1)
    seen = 0
    for _ in range(40):
        scene = random_scene(generator)
        for task in possible_tasks(scene):
            for kind in WORDINGS:
                text = reword(task, scene.objects, kind, generator)
                if text is not None:
                    seen += 1
                    assert TRAINING.fullmatch(normal(text)), text
                    words = set(normal(text).split()) - WORDS
                    assert all(re.fullmatch(MADE_UP, word) for word in words), text
    assert seen > 1000


def test_no_instruction_is_a_sentence_of_training_or_another_task_s():
    for task, text in SAID:
        assert not TRAINING.fullmatch(normal(text)), (task.id, text)
    texts = [normal(text) for _, text in SAID]
    assert len(set(texts)) == len(texts)


def test_no_small_talk_is_that_of_training():
    said = [normal(text.replace("{w}", "")) for text in spoken._ASIDE]
    long = [text for text in said if len(text.split()) > 2]
    assert len(long) > 20
    for task, text in SAID:
        assert not [aside for aside in long if f" {aside} " in f" {normal(text)} "], (task.id, text)


def test_other_verbs_and_languages_have_words_that_training_lacks():
    for task, text in SAID:
        new = [word for word in normal(text).split() if word not in WORDS]
        if task.category == "other_verbs":
            assert new, (task.id, text)
        if task.category == "other_languages":
            assert len(new) > len(normal(text).split()) / 2, (task.id, text)


def test_new_things_are_in_no_training_source():
    for task in TASKS.values():
        targets = [read_thing(part.target) for part in task.parts if part.target != "drawer"]
        if task.category == "new_objects":
            assert targets[0].is_new, task.id
        for thing in targets:
            if thing.is_new:
                assert not set(thing.name.split()) <= WORDS, (task.id, thing.name)
    shades = [
        np.array(color) * shade for color in COLOR_VALUES.values() for shade in (0.85, 1, 1.1)
    ]
    for name, color in NEW_COLORS.items():
        assert min(np.linalg.norm(color - np.clip(shade, 0, 1)) for shade in shades) > 0.2, name


@pytest.mark.parametrize(
    "config", [DemonstrationConfig, CorrectionConfig, SceneConfig, ChainDemonstrationConfig]
)
def test_training_s_seeds_are_others(config):
    assert {field.name: field for field in fields(config)}["seed"].default >= FIRST_TRAINING_SEED
