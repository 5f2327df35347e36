"""Where things stand relative to each other, as the robot sees them, and only where it is clear.

Places are [x, y] in metres in the base frame: x away from the robot, y to its left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

Places = Mapping[str, Sequence[float]]

# Two places that differ by less are alike; nobody should have to judge that from an image.
MARGIN = 0.04
# Less is enough for the order of a list, which is no claim about places.
LISTING_MARGIN = 0.015
# Unit vectors along which a thing's rank is counted.
DIRECTIONS = {"left": (0.0, 1.0), "right": (0.0, -1.0), "near": (-1.0, 0.0), "far": (1.0, 0.0)}
OPPOSITE = {"left": "right", "right": "left", "near": "far", "far": "near"}
# The area in which things stand, in thirds and halves; between the bounds of two parts a thing is
# in neither of them.
_SIDES = (("right", -1.0, -0.19), ("middle", -0.15, -0.05), ("left", -0.01, 1.0))
_DEPTHS = (("near", -1.0, 0.47), ("far", 0.53, 2.0))


def advance(places: Places, name: str, other: str, direction: str) -> float:
    """How much farther to the left, right, near or far side `name` stands than `other` [m]."""
    return _rank(places[name], direction) - _rank(places[other], direction)


def _rank(place: Sequence[float], direction: str) -> float:
    along = DIRECTIONS[direction]
    return place[0] * along[0] + place[1] * along[1]


def is_beyond(places: Places, name: str, other: str, direction: str) -> bool | None:
    """Whether `name` stands on that side of `other`; None where it is too close to call."""
    distance = advance(places, name, other, direction)
    return None if abs(distance) < MARGIN else distance > 0


def beyond(places: Places, name: str, direction: str) -> list[str] | None:
    """All things on that side of `name`, left to right; None where one is too close to call."""
    found = []
    for other in left_to_right(places):
        if other == name:
            continue
        verdict = is_beyond(places, other, name, direction)
        if verdict is None:
            return None
        if verdict:
            found.append(other)
    return found


def foremost(places: Places, direction: str) -> str | None:
    """The one thing farthest to that side; None for fewer than two or where it is close."""
    if len(places) < 2:
        return None
    ranked = sorted(places, key=lambda name: -_rank(places[name], direction))
    clear = advance(places, ranked[0], ranked[1], direction) >= MARGIN
    return ranked[0] if clear else None


def ranked(places: Places, direction: str) -> list[str] | None:
    """The names in their order from that side on; None where two are too close to call."""
    found = sorted(places, key=lambda name: -_rank(places[name], direction))
    clear = all(advance(places, one, two, direction) >= MARGIN for one, two in pairwise(found))
    return found if clear else None


def between(places: Places, direction: str) -> str | None:
    """The middle one of three things in a row towards that side; None where it is not clear."""
    found = ranked(places, direction)
    return found[1] if found is not None and len(found) == 3 else None


def nearest(places: Places, point: Sequence[float]) -> str | None:
    """The one thing nearest to a point [2]; None for fewer than two or where it is close."""
    if len(places) < 2:
        return None
    distances = {
        name: math.hypot(place[0] - point[0], place[1] - point[1]) for name, place in places.items()
    }
    first, second = sorted(distances, key=distances.__getitem__)[:2]
    return first if distances[second] - distances[first] >= MARGIN else None


def side(place: Sequence[float]) -> str | None:
    """The third of the area in which a thing stands: "left", "middle" or "right"."""
    return _part(_SIDES, place[1])


def depth(place: Sequence[float]) -> str | None:
    """The half of the area in which a thing stands: "near" the robot or "far" from it."""
    return _part(_DEPTHS, place[0])


def _part(parts: tuple[tuple[str, float, float], ...], value: float) -> str | None:
    return next((name for name, low, high in parts if low <= value <= high), None)


def is_row(places: Places) -> bool:
    """Whether the order from left to right is clear enough to list things in it."""
    values = sorted(place[1] for place in places.values())
    return all(high - low >= LISTING_MARGIN for low, high in pairwise(values))


def left_to_right(places: Places) -> list[str]:
    """The names, sorted from the robot's left to its right."""
    return sorted(places, key=lambda name: -places[name][1])
