"""Ways to point at one object of a scene without its name, each of which fits no other one.

An "object" is a block or a can, as in the questions; bowl, plate and cabinet are none. Left and
right are the robot's, whom the words speak to. What is too close to call is not said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vla.envs.tabletop import reference_forms as forms
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


def color_of(name: str) -> str:
    """The first word of a name such as "red block"."""
    return name.split()[0]


def kind_of(name: str) -> str:
    """The last word of a name such as "red block"."""
    return name.split()[-1]


def _fill(bank: forms.Forms, split: str, name: str, by: str, **words: str) -> Iterator[Reference]:
    for form in bank[split]:
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
            found += _fill(forms.ONLY_KIND, split, name, "kind", kind=noun)
            if len(objects) > 1:
                found += _fill(forms.SHAPES[noun], split, name, "shape")
    colors = [color_of(name) for name in objects]
    for name in objects:
        if colors.count(color_of(name)) == 1:
            found += _fill(forms.ONLY_COLOR, split, name, "color", color=color_of(name))
    return found


def _by_place(noun: str, group: Places, split: str) -> Iterator[Reference]:
    for direction in relations.DIRECTIONS:
        name = relations.foremost(group, direction)
        if name is not None:
            yield from _fill(forms.FOREMOST[direction], split, name, "place", kind=noun)
            if len(group) == 2:
                yield from _fill(forms.OF_TWO[direction], split, name, "place", kind=noun)
    middle = relations.between(group, "left")
    if middle is not None:
        yield from _fill(forms.MIDDLE, split, middle, "place", kind=noun)
    yield from _by_order(noun, group, split)


def _by_order(noun: str, group: Places, split: str) -> Iterator[Reference]:
    for direction in ("left", "right"):
        for ordinal, name in _numbered(group, direction):
            words = {"kind": noun, "ordinal": ordinal, "direction": direction}
            yield from _fill(forms.COUNTED, split, name, "order", **words)
    for ordinal, name in _numbered(group, "near"):
        yield from _fill(forms.IN_LINE, split, name, "order", kind=noun, ordinal=ordinal)


def _numbered(group: Places, direction: str) -> Iterator[tuple[str, str]]:
    """Ordinals and names, from that side on; none unless all of three or more stand clearly."""
    ranked = relations.ranked(group, direction)
    if ranked is not None and len(ranked) > 2:
        yield from zip((*forms.ORDINALS[: len(ranked) - 1], "last"), ranked, strict=True)


def _by_neighbor(noun: str, group: Places, objects: Places, split: str) -> Iterator[Reference]:
    for other, place in objects.items():
        rest = {name: where for name, where in group.items() if name != other}
        near = relations.nearest(rest, place)
        if near is not None:
            yield from _fill(forms.NEAREST, split, near, "neighbor", kind=noun, other=other)
        for direction in relations.DIRECTIONS:
            beyond = relations.beyond({**rest, other: place}, other, direction)
            if beyond is not None and len(beyond) == 1:
                bank = forms.IN_DEPTH.get(direction, forms.BEYOND)
                words = {"kind": noun, "other": other, "direction": direction}
                yield from _fill(bank, split, beyond[0], "neighbor", **words)
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
                    yield from _fill(forms.BETWEEN, split, within[0], "neighbor", **words)


def negative_references(objects: Places, split: str) -> list[Reference]:
    """Everything that says what one object alone is not. See attribute_references."""
    found: list[Reference] = []
    for noun, group in _groups(objects):
        colors = sorted({color_of(name) for name in group})
        for name in group if len(group) > 1 else ():
            others = sorted({color_of(thing) for thing in group if thing != name})
            if color_of(name) not in others and len(others) == 1:
                found += _fill(forms.NOT_COLOR, split, name, "color", kind=noun, color=others[0])
            if len(colors) == 3 and color_of(name) not in others and len(others) == 2:
                one, two = others
                found += _fill(forms.NEITHER, split, name, "color", kind=noun, one=one, two=two)
                found += _fill(forms.NEITHER, split, name, "color", kind=noun, one=two, two=one)
        if len(group) == 2:
            for direction in ("left", "right"):
                other = relations.foremost(group, relations.OPPOSITE[direction])
                if other is not None:
                    words = {"kind": noun, "direction": direction}
                    found += _fill(forms.NOT_SIDE, split, other, "place", **words)
    for kind in KINDS:
        rest = [name for name in objects if kind_of(name) != kind]
        if len(rest) == 1 and len(objects) > 1:
            found += _fill(forms.NOT_KIND, split, rest[0], "kind", kind=kind)
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
