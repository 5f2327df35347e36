"""Questions and answers about the scene, from its truth: the vision-language model's text data."""

from __future__ import annotations

import numpy as np

from vla.data.frames import EpisodeWords
from vla.sim.tasks import COLORS, KINDS


def _listing(names: list[str]) -> str:
    parts = [f"a {name}" for name in names]
    return parts[0] if len(parts) == 1 else " , ".join(parts[:-1]) + " and " + parts[-1]


def _contents(words: EpisodeWords, generator: np.random.Generator) -> tuple[str, str]:
    question = generator.choice(
        (
            "what is on the table ?",
            "what do you see ?",
            "describe the scene .",
            "list the objects .",
        )
    )
    # Left to right as the robot sees it, so that one scene has one answer.
    names = sorted(words.objects, key=lambda name: -words.objects[name][1])
    return str(question), f"{_listing(names)} ."


def _presence(words: EpisodeWords, generator: np.random.Generator) -> tuple[str, str]:
    if generator.random() < 0.5:
        name = str(generator.choice(list(words.objects)))
    else:
        name = f"{generator.choice(COLORS)} {generator.choice(KINDS)}"
    answer = f"yes , there is a {name} ." if name in words.objects else f"no , there is no {name} ."
    start = generator.choice(("is there a", "do you see a", "can you see a"))
    return f"{start} {name} ?", answer


def _count(words: EpisodeWords, generator: np.random.Generator) -> tuple[str, str]:
    numbers = ("zero", "one", "two", "three", "four", "five", "six")
    kind = str(generator.choice(KINDS))
    if generator.random() < 0.5:
        return "how many objects are there ?", f"{numbers[len(words.objects)]} ."
    count = sum(name.endswith(kind) for name in words.objects)
    return f"how many {kind}s are there ?", f"{numbers[count]} ."


def _color(words: EpisodeWords, generator: np.random.Generator) -> tuple[str, str]:
    kinds = [name.split()[1] for name in words.objects]
    unique = [name for name in words.objects if kinds.count(name.split()[1]) == 1]
    if not unique:
        return _count(words, generator)
    color, kind = str(generator.choice(unique)).split()
    return f"what color is the {kind} ?", f"the {kind} is {color} ."


def _drawer(opening: float, generator: np.random.Generator) -> tuple[str, str] | None:
    if 0.015 < opening < 0.05:
        return None
    state = "open" if opening >= 0.05 else "closed"
    if generator.random() < 0.5:
        return "is the drawer open or closed ?", f"the drawer is {state} ."
    asked = str(generator.choice(("open", "closed")))
    answer = "yes" if asked == state else "no"
    return f"is the drawer {asked} ?", f"{answer} , the drawer is {state} ."


def ask_about(
    words: EpisodeWords, drawer_opening: float, generator: np.random.Generator
) -> tuple[str, str]:
    """A question about the scene and its true answer, both lower case.

    words: of the episode, whose objects are still on the table. drawer_opening: in metres.
    """
    kind = generator.random()
    if kind < 0.2 and (pair := _drawer(drawer_opening, generator)):
        return pair
    if kind < 0.4:
        return _contents(words, generator)
    if kind < 0.65:
        return _presence(words, generator)
    if kind < 0.85:
        return _color(words, generator)
    return _count(words, generator)
