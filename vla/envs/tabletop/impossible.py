"""Instructions that can't be followed in a scene, and the answer that says so.

They are what a policy that answers before it acts learns to refuse: a block or can that is not
there ("absent"), another thing ("thing") or goal ("goal") that no scene has, what no demonstration
shows ("unlearned"), words without a meaning ("nonsense") or without a request ("empty"), and
commands in a language that it lacks ("language").

A drawer that is open already is not among them: to open it is done at once, and nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from vla.envs.tabletop import impossible_sentences as sentences
from vla.envs.tabletop import situations
from vla.envs.tabletop.references import color_of, kind_of
from vla.envs.tabletop.spoken import aside
from vla.envs.tabletop.tasks import COLORS, DESTINATIONS, KINDS, Task, phrase
from vla.envs.tabletop.wording import reword

# How often training draws each kind.
_SHARES = {
    "absent": 0.5,
    "thing": 0.1,
    "goal": 0.1,
    "unlearned": 0.14,
    "nonsense": 0.06,
    "empty": 0.03,
    "language": 0.07,
}
IMPOSSIBLE_KINDS = tuple(_SHARES)

NOT_SEEN = "i see no {name} ."
NOTHING_SEEN = "i see nothing {color} ."
UNKNOWN = "i do not know that thing ."
NOT_LEARNED = "i have not learned that ."
NOT_UNDERSTOOD = "i do not understand that ."
# How the answers begin, and no other answer about the table top. Words that only refusals have are
# left out: a small model spells them wrong at first.
REFUSALS = ("i see no", "i do not", "i have not")
# Wordings of an instruction for something that is not there, and how often each is drawn.
_ABSENT_WORDINGS = {"direct": 0.5, "paraphrase": 0.25, "negation": 0.1, "implied": 0.15}


@dataclass(frozen=True)
class Impossible:
    """An instruction that can't be followed, and what the robot should say."""

    kind: str  # one of IMPOSSIBLE_KINDS
    instruction: str  # lower case
    answer: str  # begins with one of REFUSALS


def _choose(generator: np.random.Generator, options):
    return options[int(generator.integers(len(options)))]


def impossible(
    objects: Collection[str],
    generator: np.random.Generator,
    split: str = "train",
    kind: str | None = None,
) -> Impossible:
    """An instruction that can't be followed in a scene.

    objects: names of its blocks and cans, at least one of all that there could be is missing.
    split: "train", or "test" for sentences that training never has. kind: one of IMPOSSIBLE_KINDS,
    by default a random one. Raises ValueError for an unknown kind.
    """
    if kind is None:
        kind = str(generator.choice(IMPOSSIBLE_KINDS, p=list(_SHARES.values())))
    if kind not in _SHARES:
        raise ValueError(
            f"unknown kind of impossible instruction '{kind}'; known: {', '.join(IMPOSSIBLE_KINDS)}"
        )
    if kind == "absent":
        return Impossible(kind, *_absent(objects, generator, split))
    one = f"the {_choose(generator, list(objects))}"
    if kind == "thing":
        text = _choose(generator, sentences.TAKE_THING[split])
        return Impossible(kind, text.format(x=_choose(generator, sentences.THINGS[split])), UNKNOWN)
    if kind == "goal":
        verb = _choose(generator, ("put", "place", "drop", "set", "move", "please put"))
        text = f"{verb} {one} {_choose(generator, sentences.GOALS[split])}"
        return Impossible(kind, text, UNKNOWN)
    if kind == "unlearned":
        text = _choose(generator, sentences.UNLEARNED[split]).format(x=one)
        return Impossible(kind, text, NOT_LEARNED)
    if kind == "nonsense":
        return Impossible(kind, _nonsense(generator, split), NOT_UNDERSTOOD)
    if kind == "empty" and split == "train" and generator.random() < 0.5:
        return Impossible(kind, aside(generator), NOT_UNDERSTOOD)
    bank = sentences.EMPTY if kind == "empty" else sentences.LANGUAGES
    return Impossible(kind, _choose(generator, bank[split]), NOT_UNDERSTOOD)


def _absent(
    objects: Collection[str], generator: np.random.Generator, split: str
) -> tuple[str, str]:
    """Asks for a block or can that is not there: half of them of a color that is."""
    if generator.random() < 0.1 and (pair := _nothing_such(objects, generator, split)):
        return pair
    missing = [f"{c} {k}" for c in COLORS for k in KINDS if f"{c} {k}" not in objects]
    colors = {color_of(name) for name in objects}
    alike = [name for name in missing if color_of(name) in colors]
    other = [name for name in missing if color_of(name) not in colors]
    names = alike if not other or (alike and generator.random() < 0.5) else other
    name = _choose(generator, names)
    family = _choose(generator, ("pick", "place"))
    task = Task(family, name, _choose(generator, DESTINATIONS) if family == "place" else "")
    wordings = list(_ABSENT_WORDINGS)
    wording = str(generator.choice(wordings, p=list(_ABSENT_WORDINGS.values())))
    # In a scene of nothing, so that the name alone tells what is meant.
    text = reword(task, {}, wording, generator, split) or phrase(task, generator)
    return text, NOT_SEEN.format(name=name)


def _nothing_such(
    objects: Collection[str], generator: np.random.Generator, split: str
) -> tuple[str, str] | None:
    """Asks for anything of a color or kind that nothing has; None where all are there."""
    options = []
    for color in sorted(set(COLORS) - {color_of(name) for name in objects}):
        templates = situations.SOMETHING_OF_COLOR["pick"][split]
        options.append((templates, NOTHING_SEEN.format(color=color), color))
    banks = {"can": situations.ONLY_CAN, "block": situations.ONLY_BLOCK}
    for kind in sorted(set(KINDS) - {kind_of(name) for name in objects}):
        options += 3 * [(banks[kind]["pick"][split], NOT_SEEN.format(name=kind), "")]
    if not options:
        return None
    templates, answer, color = _choose(generator, options)
    return _choose(generator, templates).format(color=color), answer


def _nonsense(generator: np.random.Generator, split: str) -> str:
    """Letters at random, keys side by side, or syllables between a few real words."""
    draw = generator.random()
    if draw < 0.5:
        words = [_letters(generator) for _ in range(int(generator.integers(1, 5)))]
        return " ".join(words)
    template = _choose(generator, sentences.NONSENSE[split])
    syllables = sentences.SYLLABLES[split]
    while "{w}" in template:
        word = "".join(_choose(generator, syllables) for _ in range(int(generator.integers(1, 4))))
        template = template.replace("{w}", word, 1)
    return template


def _letters(generator: np.random.Generator) -> str:
    length = int(generator.integers(3, 8))
    if generator.random() < 0.5:
        row = _choose(generator, sentences.KEY_ROWS)
        start = int(generator.integers(len(row) - 2))
        return row[start : start + length]
    return "".join(_choose(generator, "abcdefghijklmnopqrstuvwxyz") for _ in range(length))
