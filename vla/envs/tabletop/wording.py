"""Instructions of kinds that plain phrasing never has, each of which means one task of its scene.

They are what a policy that follows plain instructions learns to reason about afterwards: commands
in other words ("paraphrase"), objects named by what is theirs alone ("attribute") or by what they
are not ("negation"), and situations from which a task follows ("implied"). The truthful reply stays
Task.answer().
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from vla.envs.tabletop import negations, sentences, situations
from vla.envs.tabletop.made_up import made_up_word
from vla.envs.tabletop.references import (
    SPLITS,
    Reference,
    attribute_references,
    color_of,
    contrasts,
    kind_of,
    negative_references,
)
from vla.envs.tabletop.relations import Places
from vla.envs.tabletop.tasks import CABINET, DESTINATIONS, Task, phrase

NEW_WORDINGS = ("paraphrase", "attribute", "negation", "implied")
WORDINGS = ("direct", *NEW_WORDINGS)

# New names for the same things; half of the colors and destinations keep theirs.
_COLOR_WORDS = {
    "red": ("crimson", "scarlet"),
    "green": ("emerald", "jade"),
    "blue": ("azure", "navy"),
    "yellow": ("golden", "lemon"),
    "purple": ("violet", "plum"),
}
_KIND_WORDS = {
    "block": ("brick", "box", "square piece"),
    "can": ("cylinder", "canister", "drink"),
}
_DESTINATION_WORDS = {"bowl": ("basin", "deep dish"), "plate": ("saucer", "flat dish")}
_DRAWER_WORDS = ("drawer", "compartment", "sliding compartment")
# Verbs that no plain phrasing has, for sentences that say by other words what is to be done.
_RARE_VERBS = {
    "pick": ("haul", "heave", "boost", "winch", "jerk", "crane", "lever"),
    "place": ("stick", "plop", "stash", "slip", "toss", "shift", "plant", "lodge"),
    "open_drawer": ("haul", "ease", "wheel", "drag", "reel"),
    "close_drawer": ("nudge", "press", "shift", "ease", "thrust"),
}
_WHERE = {"bowl": "in", "plate": "on", CABINET: "on top of"}


def _choose(generator: np.random.Generator, options):
    return options[int(generator.integers(len(options)))]


def _pick_reference(
    references: Iterable[Reference], name: str, generator: np.random.Generator
) -> str | None:
    """One that fits the object; each way of telling it is as frequent as the others."""
    fitting: dict[str, list[str]] = {}
    for reference in references:
        if reference.name == name:
            fitting.setdefault(reference.by, []).append(reference.text)
    return _choose(generator, _choose(generator, list(fitting.values()))) if fitting else None


def _where(destination: str, noun: str = "") -> str:
    return f"{_WHERE[destination]} the {noun or destination}" if destination else ""


def _slots(task: Task) -> dict[str, str]:
    """What templates may name of a task in its own words."""
    slots = {"x": f"the {task.target}", "color": color_of(task.target), "drawer": "drawer"}
    if task.destination:
        elsewhere = next(name for name in DESTINATIONS if name != task.destination)
        slots |= {"d": _where(task.destination), "e": _where(elsewhere), "dest": task.destination}
    return slots


# What can be said: templates, and what goes into their slots.
_Sayable = tuple[tuple[str, ...], dict[str, str]]


def _say(options: list[_Sayable], generator: np.random.Generator) -> str | None:
    """One of the options, the more often the more templates it has."""
    if not options:
        return None
    counts = np.cumsum([len(templates) for templates, _ in options])
    drawn = int(np.searchsorted(counts, generator.integers(counts[-1]), side="right"))
    templates, slots = options[drawn]
    return str(_choose(generator, templates)).format(**slots)


def _paraphrase(
    task: Task, objects: Places, split: str, generator: np.random.Generator
) -> list[_Sayable]:
    slots = _slots(task)
    slots["drawer"] = _choose(generator, _DRAWER_WORDS)
    slots["verb"] = _verb(task.family, generator)
    if task.target != "drawer":
        color, kind = task.target.split()
        if generator.random() < 0.5:
            color = _choose(generator, _COLOR_WORDS[color])
        slots["x"] = f"the {color} {_choose(generator, _KIND_WORDS[kind])}"
    if task.destination in _DESTINATION_WORDS and generator.random() < 0.5:
        noun = _choose(generator, _DESTINATION_WORDS[task.destination])
        slots["d"] = _where(task.destination, noun)
    return [(sentences.PARAPHRASE[task.family][split], slots)]


def _verb(family: str, generator: np.random.Generator) -> str:
    """A verb that a policy need not know, or one that nobody does."""
    if family in _RARE_VERBS and generator.random() < 0.5:
        return str(_choose(generator, _RARE_VERBS[family]))
    return made_up_word(generator)


def _attribute(
    task: Task, objects: Places, split: str, generator: np.random.Generator
) -> list[_Sayable]:
    if task.target == "drawer":
        text = _choose(generator, sentences.DRAWER[split])
    else:
        text = _pick_reference(attribute_references(objects, split), task.target, generator)
    if text is None:
        return []
    return [(sentences.REFERRING[task.family][split], _slots(task) | {"x": text})]


def _negation(
    task: Task, objects: Places, split: str, generator: np.random.Generator
) -> list[_Sayable]:
    slots = _slots(task)
    options = [(negations.NOTHING_BUT[task.family][split], slots)]
    if task.target == "drawer":
        return options
    text = _pick_reference(negative_references(objects, split), task.target, generator)
    if text is not None:
        options.append((sentences.REFERRING[task.family][split], slots | {"x": text}))
    for other, reference in contrasts(objects):
        if reference.name == task.target:
            named = slots | {"x": reference.text, "other": other}
            options.append((negations.CONTRAST[task.family][split], named))
    return options


def _implied(
    task: Task, objects: Places, split: str, generator: np.random.Generator
) -> list[_Sayable]:
    slots = _slots(task)
    if task.family not in situations.IMPLIED:
        return []
    options = [(situations.IMPLIED[task.family][split], slots)]
    if task.target == "drawer":
        return options
    if [color_of(name) for name in objects].count(color_of(task.target)) == 1:
        options.append((situations.SOMETHING_OF_COLOR[task.family][split], slots))
    kind = kind_of(task.target)
    if [kind_of(name) for name in objects].count(kind) == 1:
        only = situations.ONLY_CAN if kind == "can" else situations.ONLY_BLOCK
        options.append((only[task.family][split], slots))
    return options


_WAYS = {
    "paraphrase": _paraphrase,
    "attribute": _attribute,
    "negation": _negation,
    "implied": _implied,
}


def reword(
    task: Task,
    objects: Places,
    wording: str,
    generator: np.random.Generator,
    split: str = "train",
) -> str | None:
    """An instruction for the task, lower case, that no other task of the scene would satisfy.

    objects: names of the blocks and cans with their places [x, y] in metres when the instruction is
    given. wording: one of WORDINGS. split: "train", or "test" for sentences that training never
    has. None where the scene has no such instruction. Raises ValueError for an unknown wording or
    split.
    """
    if wording not in WORDINGS:
        raise ValueError(f"unknown wording '{wording}'; known: {', '.join(WORDINGS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}'; known: {', '.join(SPLITS)}")
    if wording == "direct":
        return phrase(task, generator)
    return _say(_WAYS[wording](task, objects, split, generator), generator)


def reworded_task(
    task: Task,
    objects: Places,
    wording: str,
    generator: np.random.Generator,
    split: str = "train",
) -> Task | None:
    """The same task with such an instruction; None where there is none. See reword."""
    instruction = reword(task, objects, wording, generator, split)
    return None if instruction is None else replace(task, instruction=instruction)
