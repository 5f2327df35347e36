"""Ways to point at one object of a scene without its name, each of which fits no other one.

An "object" is a block or a can, as in the questions; bowl, plate and cabinet are none. Left and
right are the robot's, whom the words speak to. What is too close to call is not said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vla.envs.tabletop import relations
from vla.envs.tabletop.relations import Places
from vla.envs.tabletop.tasks import KINDS

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Reference:
    """Words for one object."""

    text: str  # such as "the leftmost can"
    name: str  # of the one object that it fits
    by: str  # the property that singles it out


Forms = dict[str, tuple[str, ...]]
# Forms by split: those of "test" are never seen in training. {kind} is "object" or a kind. Clauses
# that say what a thing is begin in training as those that say what it is not ("that is", "which
# is"); else a small model takes every such clause for a negation.
_FOREMOST: dict[str, Forms] = {
    "left": {
        "train": (
            "the leftmost {kind}",
            "the {kind} farthest to the left",
            "the {kind} that is leftmost",
            "the {kind} at the left end",
            "the {kind} on the far left",
        ),
        "test": ("the {kind} that is farthest to the left",),
    },
    "right": {
        "train": (
            "the rightmost {kind}",
            "the {kind} farthest to the right",
            "the {kind} that is rightmost",
            "the {kind} at the right end",
            "the {kind} on the far right",
        ),
        "test": ("the {kind} that is farthest to the right",),
    },
    "near": {
        "train": (
            "the {kind} nearest to the robot",
            "the {kind} closest to you",
            "the {kind} that is nearest to the robot",
            "the {kind} at the front",
            "the {kind} right before you",
        ),
        "test": ("the {kind} that is nearest to you", "the {kind} that is closest to the robot"),
    },
    "far": {
        "train": (
            "the {kind} farthest from the robot",
            "the {kind} farthest away from you",
            "the {kind} that is farthest from the robot",
            "the {kind} at the back",
            "the {kind} farthest to the back",
        ),
        "test": ("the {kind} that is farthest away from the robot",),
    },
}
_OF_TWO: dict[str, Forms] = {
    "left": {
        "train": (
            "the left {kind}",
            "the {kind} on the left",
            "the {kind} which is on the left",
        ),
        "test": ("the {kind} that is on the left",),
    },
    "right": {
        "train": (
            "the right {kind}",
            "the {kind} on the right",
            "the {kind} which is on the right",
        ),
        "test": ("the {kind} that is on the right",),
    },
    "near": {
        "train": (
            "the nearer {kind}",
            "the {kind} closer to you",
            "the {kind} which is closer to you",
        ),
        "test": ("the {kind} that is closer to you",),
    },
    "far": {
        "train": (
            "the {kind} farther from you",
            "the {kind} farther away",
            "the {kind} which is farther away",
        ),
        "test": ("the {kind} that is farther away",),
    },
}
_MIDDLE: Forms = {
    "train": ("the middle {kind}", "the {kind} in the middle", "the {kind} which is in the middle"),
    "test": ("the {kind} that is in the middle",),
}
_COUNTED: Forms = {
    "train": (
        "the {ordinal} {kind} from the {direction}",
        "the {ordinal} {kind} when you count from the {direction}",
        "the {kind} that is {ordinal} from the {direction}",
    ),
    "test": (),
}
_IN_LINE: Forms = {
    "train": ("the {ordinal} {kind} as seen from you", "the {ordinal} {kind} from the front"),
    "test": (),
}
ORDINALS = ("first", "second", "third", "fourth")
_ONLY_KIND: Forms = {
    "train": ("the only {kind}", "the only {kind} on the table"),
    "test": ("the one {kind} that is on the table",),
}
_SHAPES: dict[str, Forms] = {
    "can": {
        "train": ("the only round object", "the tallest object", "the only tall object"),
        "test": ("the object that is round", "the object that is the tallest"),
    },
    "block": {
        "train": ("the only square object", "the lowest object", "the only low object"),
        "test": ("the object that is square", "the object that is the lowest"),
    },
}
_ONLY_COLOR: Forms = {
    "train": ("the only {color} object", "the {color} one", "the object which is {color}"),
    "test": ("the object that is {color}",),
}
_NEAREST: Forms = {
    "train": (
        "the {kind} nearest to the {other}",
        "the {kind} closest to the {other}",
        "the {kind} which is closest to the {other}",
    ),
    "test": ("the {kind} that is nearest to the {other}",),
}
_BEYOND: Forms = {
    "train": (
        "the {kind} {direction} of the {other}",
        "the {kind} to the {direction} of the {other}",
        "the {kind} that is to the {direction} of the {other}",
    ),
    "test": ("the {kind} that is {direction} of the {other}",),
}
_IN_DEPTH: dict[str, Forms] = {
    "near": {
        "train": (
            "the {kind} standing in front of the {other}",
            "the {kind} that stands before the {other}",
        ),
        "test": (),
    },
    "far": {
        "train": (
            "the {kind} standing behind the {other}",
            "the {kind} that stands behind the {other}",
        ),
        "test": (),
    },
}
_BETWEEN: Forms = {
    "train": (
        "the {kind} between the {other} and the {another}",
        "the {kind} that is between the {other} and the {another}",
    ),
    "test": (),
}
_NOT_COLOR: Forms = {
    "train": (
        "the {kind} that is not {color}",
        "the only {kind} that is not {color}",
        "any {kind} but the {color} one",
        "whichever {kind} is not {color}",
        "the {kind} not colored {color}",
        "the {kind} of another color than {color}",
        "the one {kind} that is anything but {color}",
    ),
    "test": ("the {kind} which is not {color}",),
}
_NOT_KIND: Forms = {
    "train": (
        "the object that is not a {kind}",
        "the only object that is not a {kind}",
        "anything but a {kind}",
        "some object , but not a {kind}",
        "an object other than a {kind}",
    ),
    "test": ("the object which is not a {kind}",),
}
_NEITHER: Forms = {
    "train": (
        "the {kind} that is neither {one} nor {two}",
        "any {kind} but not {one} or {two}",
        "a {kind} that is not {one} and not {two}",
        "whichever {kind} is neither {one} nor {two}",
        "the {kind} of another color than {one} or {two}",
    ),
    "test": ("the {kind} which is not {one} and not {two}",),
}
_NOT_SIDE: Forms = {
    "train": (
        "the {kind} that is not on the {direction}",
        "whichever {kind} is not on the {direction}",
        "any {kind} but the one on the {direction}",
        "the {kind} not on the {direction}",
        "the {kind} that stands anywhere but on the {direction}",
    ),
    "test": ("the {kind} which is not on the {direction}",),
}


def color_of(name: str) -> str:
    """The first word of a name such as "red block"."""
    return name.split()[0]


def kind_of(name: str) -> str:
    """The last word of a name such as "red block"."""
    return name.split()[-1]


def _fill(forms: Forms, split: str, name: str, by: str, **words: str) -> Iterator[Reference]:
    for form in forms[split]:
        yield Reference(form.format(**words), name, by)


def _groups(objects: Places) -> Iterator[tuple[str, Places]]:
    """All objects, then those of each kind, with the noun for them."""
    yield "object", objects
    for kind in KINDS:
        yield kind, {name: place for name, place in objects.items() if kind_of(name) == kind}


def attribute_references(objects: Places, split: str) -> list[Reference]:
    """Everything that is one object's alone: where it stands, what it is beside, how it looks.

    objects: names with places [x, y] in metres. split: whose forms.
    """
    found: list[Reference] = []
    for noun, group in _groups(objects):
        if len(group) > 1:
            found += _by_place(noun, group, split)
            found += _by_neighbor(noun, group, objects, split)
        elif len(group) == 1 and noun in KINDS:
            (name,) = group
            found += _by_neighbor(noun, group, objects, split)
            found += _fill(_ONLY_KIND, split, name, "kind", kind=noun)
            if len(objects) > 1:
                found += _fill(_SHAPES[noun], split, name, "shape")
    colors = [color_of(name) for name in objects]
    for name in objects:
        if colors.count(color_of(name)) == 1:
            found += _fill(_ONLY_COLOR, split, name, "color", color=color_of(name))
    return found


def _by_place(noun: str, group: Places, split: str) -> Iterator[Reference]:
    for direction in relations.DIRECTIONS:
        name = relations.foremost(group, direction)
        if name is not None:
            yield from _fill(_FOREMOST[direction], split, name, "place", kind=noun)
            if len(group) == 2:
                yield from _fill(_OF_TWO[direction], split, name, "place", kind=noun)
    middle = relations.between(group, "left")
    if middle is not None:
        yield from _fill(_MIDDLE, split, middle, "place", kind=noun)
    yield from _by_order(noun, group, split)


def _by_order(noun: str, group: Places, split: str) -> Iterator[Reference]:
    for direction in ("left", "right"):
        for ordinal, name in _numbered(group, direction):
            words = {"kind": noun, "ordinal": ordinal, "direction": direction}
            yield from _fill(_COUNTED, split, name, "order", **words)
    for ordinal, name in _numbered(group, "near"):
        yield from _fill(_IN_LINE, split, name, "order", kind=noun, ordinal=ordinal)


def _numbered(group: Places, direction: str) -> Iterator[tuple[str, str]]:
    """Ordinals and names, from that side on; none unless all of three or more stand clearly."""
    ranked = relations.ranked(group, direction)
    if ranked is not None and len(ranked) > 2:
        yield from zip((*ORDINALS[: len(ranked) - 1], "last"), ranked, strict=True)


def _by_neighbor(noun: str, group: Places, objects: Places, split: str) -> Iterator[Reference]:
    for other, place in objects.items():
        rest = {name: where for name, where in group.items() if name != other}
        near = relations.nearest(rest, place)
        if near is not None:
            yield from _fill(_NEAREST, split, near, "neighbor", kind=noun, other=other)
        for direction in relations.DIRECTIONS:
            beyond = relations.beyond({**rest, other: place}, other, direction)
            if beyond is not None and len(beyond) == 1:
                forms = _IN_DEPTH.get(direction, _BEYOND)
                words = {"kind": noun, "other": other, "direction": direction}
                yield from _fill(forms, split, beyond[0], "neighbor", **words)
    yield from _between(noun, group, objects, split)


def _between(noun: str, group: Places, objects: Places, split: str) -> Iterator[Reference]:
    """What stands, from left to right, between two others, and alone of its noun."""
    ranked = relations.ranked(objects, "left") or []
    for first, one in enumerate(ranked):
        for last in range(first + 2, len(ranked)):
            within = [name for name in ranked[first + 1 : last] if name in group]
            if len(within) == 1:
                ends = ((one, ranked[last]), (ranked[last], one))
                for other, another in ends:
                    words = {"kind": noun, "other": other, "another": another}
                    yield from _fill(_BETWEEN, split, within[0], "neighbor", **words)


def negative_references(objects: Places, split: str) -> list[Reference]:
    """Everything that says what one object alone is not. See attribute_references."""
    found: list[Reference] = []
    for noun, group in _groups(objects):
        colors = sorted({color_of(name) for name in group})
        for name in group if len(group) > 1 else ():
            others = sorted({color_of(thing) for thing in group if thing != name})
            if color_of(name) not in others and len(others) == 1:
                found += _fill(_NOT_COLOR, split, name, "color", kind=noun, color=others[0])
            if len(colors) == 3 and color_of(name) not in others and len(others) == 2:
                one, two = others
                found += _fill(_NEITHER, split, name, "color", kind=noun, one=one, two=two)
                found += _fill(_NEITHER, split, name, "color", kind=noun, one=two, two=one)
        if len(group) == 2:
            for direction in ("left", "right"):
                other = relations.foremost(group, relations.OPPOSITE[direction])
                if other is not None:
                    found += _fill(_NOT_SIDE, split, other, "place", kind=noun, direction=direction)
    for kind in KINDS:
        rest = [name for name in objects if kind_of(name) != kind]
        if len(rest) == 1 and len(objects) > 1:
            found += _fill(_NOT_KIND, split, rest[0], "kind", kind=kind)
    return found


def contrasts(objects: Places) -> list[tuple[str, Reference]]:
    """Pairs of an object's name and a reference to the one that is meant instead of it.

    Such as "red can" and "the other can"; the second one is clear after the first one only.
    """
    found = []
    for noun, group in _groups(objects):
        if len(group) == 2:
            one, two = group
            for name, other in ((one, two), (two, one)):
                found.append((other, Reference(f"the other {noun}", name, "contrast")))
    return found
