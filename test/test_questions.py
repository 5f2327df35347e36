"""Questions about scenes: each answer is derived again here, by other means."""

from __future__ import annotations

import re

import numpy as np
import pytest
from meant_objects import meant
from random_scenes import NAMES, random_scene

from vla.datasets.frames import EpisodeWords
from vla.envs.tabletop import relations
from vla.envs.tabletop.questions import (
    CONTENT_KINDS,
    PLACE_KINDS,
    QUESTION_KINDS,
    ask_about,
    question_of,
)
from vla.envs.tabletop.tasks import COLORS

NUMBERS = ["zero", "one", "two", "three", "four"]
# What grows from thing to thing in each direction; y points to the left, x away from the robot.
TOWARDS = {
    "left": lambda place: place[1],
    "right": lambda place: -place[1],
    "nearer": lambda place: -place[0],
    "nearest": lambda place: -place[0],
    "closest": lambda place: -place[0],
    "farther": lambda place: place[0],
    "farthest": lambda place: place[0],
}
CLEAR = 0.0399


def named(text: str) -> list[str]:
    """Names of objects in the order of the text."""
    return re.findall(r"(?:\w+) (?:block|can)\b", text)


def listed(answer: str) -> list[str]:
    found = [(answer.index(name), name) for name in NAMES if name in answer]
    return [name for _, name in sorted(found)]


def best(places: dict, rank) -> str:
    """The one thing of the highest rank, with nothing close to it."""
    ranked = sorted(places, key=lambda name: rank(places[name]))
    if len(ranked) > 1:
        assert rank(places[ranked[-1]]) - rank(places[ranked[-2]]) >= CLEAR
    return ranked[-1]


def check_answer(question: str, answer: str, words: EpisodeWords, opening: float | None) -> None:
    """Fails where the answer is wrong, or another one would be as right."""
    objects, things = words.objects, words.objects | words.landmarks
    names = sorted(objects, key=lambda name: -objects[name][1])
    by_color = lambda color: [name for name in names if name.split()[0] == color]  # noqa: E731
    by_kind = lambda kind: [name for name in names if name.split()[1] == kind]  # noqa: E731
    if "drawer" in question:
        assert opening in (0.0, 0.1), "a drawer that is ajar is neither open nor closed"
        state = "open" if opening else "closed"
        assert answer.endswith(f"the drawer is {state} .")
        if "or" not in question.split():
            assert answer.startswith("yes" if question.split()[-2] == state else "no")
    elif match := re.fullmatch(r"how many (\w+) are there \?", question):
        kind = match[1].rstrip("s")
        count = len(names) if kind == "object" else len(by_kind(kind))
        assert answer == f"{NUMBERS[count]} ."
    elif match := re.fullmatch(r"how many (\w+) objects are there \?", question):
        assert answer == f"{NUMBERS[len(by_color(match[1]))]} ."
    elif match := re.fullmatch(r"what color is the (\w+) \?", question):
        (name,) = by_kind(match[1])
        assert answer == f"the {match[1]} is {name.split()[0]} ."
    elif "colors" in question:
        assert [color for color in COLORS if color in answer] == [
            color for color in COLORS if by_color(color)
        ]
    elif match := re.fullmatch(r"(?:is there|do you see|can you see) a (\w+ \w+) \?", question):
        yes, no = f"yes , there is a {match[1]} .", f"no , there is no {match[1]} ."
        assert answer == (yes if match[1] in names else no)
    elif match := re.fullmatch(r"(?:what is|which objects are) (\w+) \?", question):
        assert listed(answer) == by_color(match[1])
        assert bool(by_color(match[1])) != (answer == f"nothing is {match[1]} .")
    elif match := re.fullmatch(
        r"(?:which|what) (block|can)s (?:are there|do you see) \?", question
    ):
        assert listed(answer) == by_kind(match[1])
    elif match := re.fullmatch(r"where is the (.+) \?", question):
        y = things[match[1]][1]
        sides = {"left of": y > -0.03, "in": -0.17 < y < -0.03, "right of": y < -0.17}
        (side,) = [side for side, fits in sides.items() if fits]
        assert answer == f"the {match[1]} is {side} the middle ."
    elif match := re.fullmatch(r"is the (.+) near the robot or far from the robot \?", question):
        near = things[match[1]][0] < 0.5
        depth = "near the robot" if near else "far from the robot"
        assert answer == f"the {match[1]} is {depth} ."
    elif match := re.fullmatch(
        r"is the (.+) (left|right|nearer|farther) (?:of|to the robot than|from the robot than) "
        r"the (.+) \?", question
    ):  # fmt: skip
        rank = TOWARDS[match[2]]
        distance = rank(things[match[1]]) - rank(things[match[3]])
        assert abs(distance) >= CLEAR
        assert answer.endswith(f" , so {'yes' if distance > 0 else 'no'} .")
        opposite = {"left": "right", "right": "left", "nearer": "farther", "farther": "nearer"}
        said = match[2] if distance > 0 else opposite[match[2]]
        assert answer.startswith(f"the {match[1]} is {said} ") and f"the {match[3]} ," in answer
    elif match := re.fullmatch(
        r"(?:which|what) objects are (?:to the )?(left|right) of the (.+) \?", question
    ):
        rank = TOWARDS[match[1]]
        distances = {n: rank(objects[n]) - rank(objects[match[2]]) for n in names if n != match[2]}
        assert all(abs(distance) >= CLEAR for distance in distances.values())
        start, there = answer.split(" there is ")
        assert start == f"{match[1]} of the {match[2]}"
        assert listed(there) == [name for name, distance in distances.items() if distance > 0]
        assert bool(listed(there)) != (there == "nothing .")
    elif match := re.fullmatch(r"which object is (?:nearest|closest) to the (.+) \?", question):
        if match[1] == "robot":
            assert answer == f"the {best(objects, TOWARDS['nearest'])} ."
        else:
            x, y = things[match[1]]
            rest = {name: place for name, place in objects.items() if name != match[1]}
            near = best(rest, lambda place: -np.hypot(place[0] - x, place[1] - y))
            assert answer == f"the {near} ."
    elif match := re.fullmatch(r"which object is (the .+) \?", question):
        (name,) = meant(match[1], objects)
        assert answer == f"the {name} ."
    elif match := re.match(r"which object is (\w+)", question):
        word = match[1].removesuffix("most")
        if "left" in question or "right" in question:
            word = "left" if "left" in question else "right"
        assert answer == f"the {best(objects, TOWARDS[word])} ."
    else:
        assert question in (
            "what is on the table ?", "what do you see ?", "describe the scene .",
            "list the objects .",
        )  # fmt: skip
        assert listed(answer) == names


def test_answers_are_the_one_right_answer():
    generator = np.random.default_rng(0)
    asked = dict.fromkeys(QUESTION_KINDS, 0)
    for _ in range(250):
        words = random_scene(generator, landmarks=generator.random() < 0.5)
        opening = float(generator.choice([0.0, 0.03, 0.1]))
        for kind in QUESTION_KINDS:
            if pair := question_of(kind, words, opening, generator):
                asked[kind] += 1
                check_answer(*pair, words, opening)
    assert min(asked.values()) > 60, asked


def test_without_a_kind_any_that_is_true_may_come():
    generator = np.random.default_rng(1)
    words = random_scene(generator)
    moved, still = (
        {ask_about(words, 0.1, generator, still=still) for _ in range(400)}
        for still in (False, True)
    )
    for pair in moved | still:
        check_answer(*pair, words, 0.1)
        assert pair[0] == pair[0].lower() and pair[0][-2:] in (" ?", " .")
    assert len(moved) > 20 and len(still - moved) > 10
    for question, _ in moved:
        assert not any(word in question for word in ("left", "right", "near", "where", "farthest"))
    assert not any("drawer" in ask_about(words, None, generator)[0] for _ in range(200))


def test_kinds_can_be_asked_for():
    generator = np.random.default_rng(2)
    words = random_scene(generator)
    assert "drawer" in ask_about(words, 0.0, generator, kind="drawer")[0]
    assert set(CONTENT_KINDS) | set(PLACE_KINDS) == set(QUESTION_KINDS)
    with pytest.raises(ValueError, match="gives no question of the kind 'drawer'"):
        ask_about(words, 0.03, generator, kind="drawer")
    with pytest.raises(ValueError, match="unknown kind of question 'smell'; known: drawer"):
        question_of("smell", words, 0.0, generator)


def test_questions_depend_on_the_generator_alone():
    words = random_scene(np.random.default_rng(3), landmarks=True)
    runs = [
        [ask_about(words, 0.0, generator, still=True) for _ in range(30)]
        for generator in (np.random.default_rng(4), np.random.default_rng(4))
    ]
    assert runs[0] == runs[1]


def test_what_is_too_close_to_call_is_not_said():
    places = {"red can": [0.5, 0.0], "blue can": [0.5, 0.03], "green can": [0.5, -0.2]}
    assert relations.foremost(places, "left") is None
    assert relations.foremost(places, "right") == "green can"
    assert relations.foremost(places, "far") is None
    assert relations.beyond(places, "red can", "left") is None
    assert relations.beyond(places, "green can", "left") == ["blue can", "red can"]
    assert relations.nearest(places, [0.5, -0.15]) == "green can"
    assert relations.nearest(places, [0.5, 0.015]) is None
    assert relations.between(places, "left") is None
    assert relations.between(places | {"blue can": [0.5, 0.05]}, "left") == "red can"
    assert relations.side([0.5, -0.16]) is None and relations.depth([0.5, 0.0]) is None
    assert relations.foremost({"red can": [0.5, 0.0]}, "left") is None


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_questions_about_places_have_their_share(share):
    objects = {"red can": [0.4, 0.1], "blue block": [0.55, -0.3], "green can": [0.6, -0.02]}
    words = EpisodeWords("", "", "", objects, {"bowl": [0.4, -0.2], "plate": [0.65, 0.15]})
    generator = np.random.default_rng(0)
    asked = [ask_about(words, 0.0, generator, still=True, place_share=share)[0] for _ in range(400)]
    about_places = ("where is", "near", "far", "left", "right", "closest", "front", "back", "seen")
    about_places += ("behind", "before", "between")
    found = np.mean([any(word in question for word in about_places) for question in asked])
    assert abs(found - (share or 0.57)) < 0.08
