"""Questions and answers about the scene, from its truth: the vision-language model's text data.

Every question has one right answer. Left and right are the robot's. Where two things are too alike
to be told apart in an image, the question is not asked. An answer about a thing's place names the
thing first and then says where it is: a small language model that writes from left to right looks
a thing up once it has written its name, and decides with a yes or a no only what it has looked up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vla.datasets.frames import EpisodeWords
from vla.envs.tabletop import relations
from vla.envs.tabletop.references import attribute_references
from vla.envs.tabletop.tasks import COLORS, KINDS

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
_SIDES = {
    "left": "left of the middle",
    "middle": "in the middle",
    "right": "right of the middle",
}
_DEPTHS = {"near": "near the robot", "far": "far from the robot"}
_COMPARATIVES = {
    "left": "left of",
    "right": "right of",
    "near": "nearer to the robot than",
    "far": "farther from the robot than",
}
_SUPERLATIVES = {
    "left": ("leftmost", "farthest to the left"),
    "right": ("rightmost", "farthest to the right"),
    "near": ("nearest to the robot", "closest to the robot"),
    "far": ("farthest from the robot", "farthest away from the robot"),
}

# A question and its answer, or None where the scene gives none of the kind.
Pair = tuple[str, str] | None


def listing(names: list[str], article: str = "a ") -> str:
    """Names as a list in a sentence: "a red can , a blue block and a green can"."""
    parts = [f"{article}{name}" for name in names]
    return parts[0] if len(parts) == 1 else " , ".join(parts[:-1]) + " and " + parts[-1]


def _choose(generator: np.random.Generator, options) -> str:
    return str(options[int(generator.integers(len(options)))])


def drawer_state(opening: float | None) -> str:
    """Says "open" or "closed" for an opening in metres; "" where it is ajar or not known."""
    if opening is None or 0.015 < opening < 0.05:
        return ""
    return "open" if opening >= 0.05 else "closed"


def _drawer(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    state = drawer_state(opening)
    if not state:
        return None
    if generator.random() < 0.5:
        return "is the drawer open or closed ?", f"the drawer is {state} ."
    asked = _choose(generator, ("open", "closed"))
    answer = "yes" if asked == state else "no"
    return f"is the drawer {asked} ?", f"{answer} , the drawer is {state} ."


def _contents(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    questions = (
        "what is on the table ?",
        "what do you see ?",
        "describe the scene .",
        "list the objects .",
    )
    # Left to right, so that one scene has one answer.
    if not relations.is_row(words.objects):
        return None
    names = relations.left_to_right(words.objects)
    return _choose(generator, questions), f"{listing(names)} ."


def _presence(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    if generator.random() < 0.5:
        name = _choose(generator, list(words.objects))
    else:
        name = f"{_choose(generator, COLORS)} {_choose(generator, KINDS)}"
    answer = f"yes , there is a {name} ." if name in words.objects else f"no , there is no {name} ."
    start = _choose(generator, ("is there a", "do you see a", "can you see a"))
    return f"{start} {name} ?", answer


def _count(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    draw = generator.random()
    if draw < 0.35:
        return "how many objects are there ?", f"{_NUMBERS[len(words.objects)]} ."
    if draw < 0.5:
        color = _choose(generator, COLORS)
        count = sum(name.startswith(f"{color} ") for name in words.objects)
        return f"how many {color} objects are there ?", f"{_NUMBERS[count]} ."
    kind = _choose(generator, KINDS)
    count = sum(name.endswith(kind) for name in words.objects)
    return f"how many {kind}s are there ?", f"{_NUMBERS[count]} ."


def _color(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    kinds = [name.split()[1] for name in words.objects]
    unique = [name for name in words.objects if kinds.count(name.split()[1]) == 1]
    if not unique:
        return None
    color, kind = _choose(generator, unique).split()
    return f"what color is the {kind} ?", f"the {kind} is {color} ."


def _colors(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    present = [
        color for color in COLORS if any(name.startswith(f"{color} ") for name in words.objects)
    ]
    questions = ("what colors are there ?", "which colors do you see ?", "what colors do you see ?")
    return _choose(generator, questions), f"{listing(present, '')} ."


def _of_color(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    present = [name.split()[0] for name in words.objects]
    color = _choose(generator, present if generator.random() < 0.7 else COLORS)
    found = {name: place for name, place in words.objects.items() if name.startswith(f"{color} ")}
    if not relations.is_row(found):
        return None
    names = relations.left_to_right(found)
    questions = (f"what is {color} ?", f"which objects are {color} ?")
    answer = f"{listing(names)} ." if names else f"nothing is {color} ."
    return _choose(generator, questions), answer


def _of_kind(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    kind = _choose(generator, KINDS)
    found = {name: place for name, place in words.objects.items() if name.endswith(kind)}
    if not relations.is_row(found):
        return None
    names = relations.left_to_right(found)
    questions = (f"which {kind}s are there ?", f"what {kind}s do you see ?")
    answer = f"{listing(names)} ." if names else f"there are no {kind}s ."
    return _choose(generator, questions), answer


def _things(words: EpisodeWords) -> dict[str, list[float]]:
    """Objects and, where their places are known, bowl and plate."""
    return {**words.objects, **words.landmarks}


def _side(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    things = _things(words)
    clear = {name: side for name in things if (side := relations.side(things[name]))}
    if not clear:
        return None
    name = _choose(generator, list(clear))
    return f"where is the {name} ?", f"the {name} is {_SIDES[clear[name]]} ."


def _depth(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    things = _things(words)
    clear = {name: depth for name in things if (depth := relations.depth(things[name]))}
    if not clear:
        return None
    name = _choose(generator, list(clear))
    question = f"is the {name} near the robot or far from the robot ?"
    return question, f"the {name} is {_DEPTHS[clear[name]]} ."


def _comparison(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    things = _things(words)
    if len(things) < 2:
        return None
    one, other = generator.permutation(list(things))[:2].tolist()
    direction = _choose(generator, list(relations.DIRECTIONS))
    verdict = relations.is_beyond(things, one, other, direction)
    if verdict is None:
        return None
    true_direction = direction if verdict else relations.OPPOSITE[direction]
    answer = f"the {one} is {_COMPARATIVES[true_direction]} the {other}"
    question = f"is the {one} {_COMPARATIVES[direction]} the {other} ?"
    return question, f"{answer} , so {'yes' if verdict else 'no'} ."


def _beside(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    name = _choose(generator, list(words.objects))
    direction = _choose(generator, ("left", "right"))
    found = relations.beyond(words.objects, name, direction)
    if found is None or not relations.is_row({other: words.objects[other] for other in found}):
        return None
    question = _choose(
        generator,
        (
            f"which objects are {direction} of the {name} ?",
            f"what objects are to the {direction} of the {name} ?",
        ),
    )
    there = listing(found) if found else "nothing"
    return question, f"{direction} of the {name} there is {there} ."


def _extreme(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    direction = _choose(generator, list(relations.DIRECTIONS))
    name = relations.foremost(words.objects, direction)
    if name is None:
        return None
    return f"which object is {_choose(generator, _SUPERLATIVES[direction])} ?", f"the {name} ."


def _nearest(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    things = _things(words)
    name = _choose(generator, list(things))
    others = {other: place for other, place in words.objects.items() if other != name}
    found = relations.nearest(others, things[name])
    if found is None:
        return None
    near = _choose(generator, ("nearest to", "closest to"))
    return f"which object is {near} the {name} ?", f"the {found} ."


def _reference(words: EpisodeWords, opening: float | None, generator: np.random.Generator) -> Pair:
    by_place = [
        reference
        for reference in attribute_references(words.objects, "train")
        if reference.by in ("place", "order", "neighbor")
    ]
    if not by_place:
        return None
    chosen = by_place[int(generator.integers(len(by_place)))]
    return f"which object is {chosen.text} ?", f"the {chosen.name} ."


_Asker = Callable[[EpisodeWords, float | None, np.random.Generator], Pair]
# How each kind is asked, and how often: what takes more looks, more often.
_STILL: dict[str, tuple[_Asker, float]] = {
    "side": (_side, 0.1),
    "depth": (_depth, 0.03),
    "comparison": (_comparison, 0.16),
    "beside": (_beside, 0.25),
    "extreme": (_extreme, 0.14),
    "nearest": (_nearest, 0.16),
    "reference": (_reference, 0.25),
}
_ALWAYS: dict[str, tuple[_Asker, float]] = {
    "drawer": (_drawer, 0.1),
    "contents": (_contents, 0.2),
    "presence": (_presence, 0.1),
    "count": (_count, 0.08),
    "color": (_color, 0.1),
    "colors": (_colors, 0.04),
    "of_color": (_of_color, 0.08),
    "of_kind": (_of_kind, 0.08),
}
# Of things' places, and so only for images in which nothing was moved yet.
PLACE_KINDS = tuple(_STILL)
# Of what there is; true as long as the objects are in the image.
CONTENT_KINDS = tuple(_ALWAYS)
QUESTION_KINDS = CONTENT_KINDS + PLACE_KINDS


def question_of(
    kind: str, words: EpisodeWords, drawer_opening: float | None, generator: np.random.Generator
) -> tuple[str, str] | None:
    """A question of one of QUESTION_KINDS and its answer; None where the scene gives none.

    Several draws may be needed, since a draw may fall on two things that are alike. Raises
    ValueError for an unknown kind. See ask_about.
    """
    if kind not in QUESTION_KINDS:
        raise ValueError(f"unknown kind of question '{kind}'; known: {', '.join(QUESTION_KINDS)}")
    ask = (_ALWAYS | _STILL)[kind][0]
    for _ in range(12):
        if pair := ask(words, drawer_opening, generator):
            return pair
    return None


def ask_about(
    words: EpisodeWords,
    drawer_opening: float | None,
    generator: np.random.Generator,
    kind: str | None = None,
    still: bool = False,
    place_share: float = 0.0,
) -> tuple[str, str]:
    """A question about the scene and its true answer, both lower case.

    words: of the episode, whose objects are still on the table. drawer_opening: in metres, None
    where it is not to be asked for. kind: one of QUESTION_KINDS, by default a random one. still:
    nothing was moved since the places in `words` were noted, so that questions about places may be
    drawn too. place_share: how many of the questions then are; 0 for the usual share. Raises
    ValueError where `kind` is unknown or the scene gives no question of it.
    """
    if kind is not None:
        pair = question_of(kind, words, drawer_opening, generator)
        if pair is None:
            raise ValueError(f"this scene gives no question of the kind '{kind}'")
        return pair
    table = _ALWAYS | _STILL if still else _ALWAYS
    weights = np.array([weight for _, weight in table.values()])
    weights /= weights.sum()
    if still and place_share:
        is_place = np.array([name in _STILL for name in table])
        shares = np.where(is_place, place_share, 1.0 - place_share)
        weights *= shares / np.where(is_place, weights[is_place].sum(), weights[~is_place].sum())
    while True:
        drawn = str(generator.choice(list(table), p=weights))
        if pair := table[drawn][0](words, drawer_opening, generator):
            return pair
