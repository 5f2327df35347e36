"""Whether what a policy said before it acted names the right thing to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from vla.envs.instruct.tasks import InstructTask
from vla.envs.instruct.things import other_names, read_thing
from vla.envs.tabletop.tasks import CABINET, DRAWER

_PUT = ("put", "place", "drop", "set", "move", "lay", "bring")
# One of these words has to be in the answer.
_ACTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "pick": ("pick", "grab", "take", "lift", "get", "grasp", "hold", "fetch", "raise", "hand"),
        "place": _PUT,
        "store": _PUT,
        "open_drawer": ("open", "pull", "slide"),
        "close_drawer": ("close", "shut", "push"),
    }
)


def answers_right(task: InstructTask, said: str) -> bool:
    """Whether an answer names what the first part of a task is, and nothing else.

    It is right where it has a word for the action, names the thing, and the bowl, the plate or the
    cabinet where the part has one, and names nothing that the task is not about. A thing is named
    by its name, or by the end of it that no other thing's name has: "the red can" is enough for a
    large red can where that is the only red can. Later parts may be named.
    """
    words = f" {' '.join(re.findall(r'[a-z]+', said.lower()))} "
    first = task.parts[0]
    if not any(f" {word} " in words for word in _ACTIONS[first.family]):
        return False
    meant = {place for part in task.parts for place in (part.target, part.destination) if place}
    named = set(_named(task, words))
    return {first.target, first.destination} - {""} <= named <= meant


def _named(task: InstructTask, words: str) -> Iterator[str]:
    """The things and places that words name; "large red can" does not name a "red can"."""
    names = [(own, name) for name in task.things for own in _names(name, task)]
    names += [(place, place) for place in (*task.landmarks, CABINET, DRAWER)]
    for own, name in sorted(names, key=lambda entry: -len(entry[0])):
        if f" {own} " in words:
            words = words.replace(f" {own} ", "  ")
            yield name


def _names(name: str, task: InstructTask) -> Iterator[str]:
    """What a thing may be called in its scene."""
    parts, kind = name.split(), read_thing(name).kind
    for first in range(len(parts)):
        own = " ".join(parts[first:])
        others = (other for other in task.things if other != name)
        if first and any(f" {other}".endswith(f" {own}") for other in others):
            continue
        for noun in (kind, *other_names(kind)):
            called = f"{own.removesuffix(kind)}{noun}"
            yield "the can" if called == "can" else called  # not "I can"
