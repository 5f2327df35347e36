"""What a reference to an object means, derived from its text alone."""

from __future__ import annotations

import re

import numpy as np

NOUN, NAME = r"(?P<noun>object|block|can)", r"(?P<other>\w+ (?:block|can))"
ROBOT = r"(?:the robot|you)"
LINK = r"(?:(?:that|which) (?:is|stands) |standing )?"
ORDINAL = r"(?P<ordinal>first|second|third|fourth|last)"
AXES = {"left": (0, 1), "right": (0, -1), "near": (-1, 0), "far": (1, 0)}


def foremost(places: dict, direction: str) -> set[str]:
    """Everything that nothing is clearly ahead of."""
    rank = {name: np.dot(place, AXES[direction]) for name, place in places.items()}
    return {name for name in rank if rank[name] > max(rank.values()) - 0.0399}


def nearest(places: dict, point) -> set[str]:
    distance = {name: np.hypot(*np.subtract(place, point)) for name, place in places.items()}
    return {name for name in distance if distance[name] < min(distance.values()) + 0.0399}


def numbered(places: dict, direction: str, ordinal: str) -> set[str]:
    """The one at that place of three or more, which stand clearly apart along the direction."""
    row = sorted(places, key=lambda name: -np.dot(places[name], AXES[direction]))
    along = [np.dot(places[name], AXES[direction]) for name in row]
    assert len(row) > 2 and np.diff(along).max() < -0.0399
    return {row[{"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}[ordinal]]}


def meant(text: str, objects: dict) -> set[str]:
    """The objects that a reference fits, by a reading of its own."""

    def of(noun: str) -> dict:
        return {n: p for n, p in objects.items() if noun in ("object", n.split()[1])}

    def read(pattern: str) -> re.Match | None:
        return re.fullmatch(pattern.replace("NOUN", NOUN).replace("NAME", NAME), text)

    if m := read(r"the (?P<side>left|right)most NOUN"):
        return foremost(of(m["noun"]), m["side"])
    if m := (
        read(rf"the NOUN {LINK}farthest to the (?P<side>left|right)")
        or read(r"the NOUN which is (?P<side>left|right)most")
        or read(r"the NOUN that is at the (?P<side>left|right) end")
        or read(r"the NOUN which stands (?P<side>left|right)most of all")
        or read(r"the NOUN (?:on the very|at the) (?P<side>left|right)(?: edge)?")
        or read(r"the NOUN farther to the (?P<side>left|right) than any other")
        or read(r"the NOUN that stands all the way to the (?P<side>left|right)")
    ):
        return foremost(of(m["noun"]), m["side"])
    if m := (
        read(rf"the NOUN {LINK}(?:nearest|closest) to {ROBOT}")
        or read(rf"the (?:nearest|closest) NOUN(?: to {ROBOT})?")
        or read(r"the NOUN (?:nearer|that stands closer) to you than any other")
    ):
        return foremost(of(m["noun"]), "near")
    if m := (
        read(rf"the NOUN {LINK}farthest (?:away|(?:away )?from {ROBOT})")
        or read(r"the (?:farthest|most distant) NOUN")
        or read(r"the NOUN farther from you than any other")
        or read(r"the NOUN that you need to reach farthest for")
    ):
        return foremost(of(m["noun"]), "far")
    if m := (
        read(rf"the NOUN {LINK}(?:nearest to|closest to|next to|beside|right by) the NAME")
        or read(r"the NOUN (?:that stands )?nearer to the NAME than any other(?: \w+)?")
    ):
        rest = {name: p for name, p in of(m["noun"]).items() if name != m["other"]}
        return nearest(rest, objects[m["other"]])
    if m := read(
        rf"the NOUN {LINK}(?:you see )?(?:to the |on the )?(?P<side>left|right)"
        r"(?: side)? of the NAME"
    ):
        sign = 1 if m["side"] == "left" else -1
        y = objects[m["other"]][1]
        rest = {n: sign * (p[1] - y) for n, p in of(m["noun"]).items() if n != m["other"]}
        assert all(abs(distance) >= 0.0399 for distance in rest.values())
        return {name for name, distance in rest.items() if distance > 0}
    if m := read(r"the NOUN (?:at the (?P<side>left|right) end|on the far (?P<far>left|right))"):
        return foremost(of(m["noun"]), m["side"] or m["far"])
    if m := read(
        r"the NOUN (?P<where>at the front|right before you|at the back|farthest to the back)"
    ):
        return foremost(of(m["noun"]), "far" if m["where"].endswith("back") else "near")
    if m := read(
        rf"the NOUN {LINK}(?P<side>in front of|on your side of|before|behind|beyond) the NAME"
    ):
        sign = 1 if m["side"] in ("behind", "beyond") else -1
        x = objects[m["other"]][0]
        rest = {n: sign * (p[0] - x) for n, p in of(m["noun"]).items() if n != m["other"]}
        assert all(abs(distance) >= 0.0399 for distance in rest.values())
        return {name for name, distance in rest.items() if distance > 0}
    if m := (
        read(rf"the NOUN that (?:is|stands) (?P<by>nearer|closer) to {ROBOT} than the NAME")
        or read(r"the NOUN that is (?P<by>farther) from you than the NAME")
        or read(r"the NOUN that the robot has to (?P<by>reach past) the NAME for")
    ):
        sign = -1 if m["by"] in ("nearer", "closer") else 1
        x = objects[m["other"]][0]
        rest = {n: sign * (p[0] - x) for n, p in of(m["noun"]).items() if n != m["other"]}
        assert all(abs(distance) >= 0.0399 for distance in rest.values())
        return {name for name, distance in rest.items() if distance > 0}
    another = r"(?P<another>\w+ (?:block|can))"
    if m := (
        read(rf"the NOUN {LINK}(?:in the middle , |in )?between the NAME and the {another}")
        or read(rf"the NOUN with the NAME on one side and the {another} on the other")
    ):
        low, high = sorted(objects[m[end]][1] for end in ("other", "another"))
        return {name for name, place in of(m["noun"]).items() if low < place[1] < high}
    if m := (
        read(rf"the {ORDINAL} NOUN from the (?P<side>left|right)")
        or read(rf"the {ORDINAL} NOUN when you count from the (?P<side>left|right)")
        or read(rf"the NOUN {LINK}{ORDINAL} from the (?P<side>left|right)")
        or read(rf"the {ORDINAL} NOUN when i count from the (?P<side>left|right)")
        or read(rf"the {ORDINAL} NOUN in the row from the (?P<side>left|right)")
        or read(rf"the NOUN in {ORDINAL} place from the (?P<side>left|right)")
        or read(rf"the {ORDINAL} NOUN if you start at the (?P<side>left|right) end")
    ):
        return numbered(of(m["noun"]), m["side"], m["ordinal"])
    if m := (
        read(rf"the {ORDINAL} NOUN (?:as seen from you|from the front)")
        or read(rf"the NOUN that comes {ORDINAL} from the front")
    ):
        return numbered(of(m["noun"]), "near", m["ordinal"])
    if m := read(
        r"(?:anything but a|some object , but not a|an object other than a"
        r"|the one thing here that is not a|whatever is not a) (?P<kind>\w+)"
    ):
        return {name for name in objects if not name.endswith(m["kind"])}
    if m := (
        read(r"any NOUN but the (?P<one>\w+) one")
        or read(r"whichever NOUN is not (?P<one>\w+)")
        or read(r"any NOUN but not (?P<one>\w+) or (?P<two>\w+)")
        or read(r"a NOUN that is not (?P<one>\w+) and not (?P<two>\w+)")
        or read(r"the NOUN not colored (?P<one>\w+)")
        or read(r"the NOUN in a color other than (?P<one>\w+)(?: or (?P<two>\w+))?")
        or read(r"the NOUN that is any color but (?P<one>\w+)")
        or read(r"some NOUN that is not (?P<one>\w+)")
        or read(r"a NOUN , but not the (?P<one>\w+) one")
        or read(r"the NOUN other than the (?P<one>\w+) one(?: and the (?P<two>\w+) one)?")
        or read(r"the one NOUN that is anything but (?P<one>\w+)")
        or read(r"the NOUN of another color than (?P<one>\w+)(?: or (?P<two>\w+))?")
        or read(r"whichever NOUN is neither (?P<one>\w+) nor (?P<two>\w+)")
    ):
        return {n for n in of(m["noun"]) if n.split()[0] not in m.groupdict().values()}
    if m := read(r"the NOUN that is (?P<side>left|right)most"):
        return foremost(of(m["noun"]), m["side"])
    if m := read(r"the (?P<side>left|right) NOUN") or read(
        rf"the NOUN {LINK}(?:on the|on your|to the|to your) (?P<side>left|right)"
    ):
        assert len(of(m["noun"])) == 2, "one of two"
        return foremost(of(m["noun"]), m["side"])
    if m := read(
        rf"the NOUN {LINK}(?P<by>closer to you|nearer to {ROBOT}|farther from {ROBOT}|farther away)"
    ):
        assert len(of(m["noun"])) == 2
        return foremost(
            of(m["noun"]), "near" if m["by"].startswith(("closer", "nearer")) else "far"
        )
    sides = {"right of": "right", "on its left": "right", "on its right": "left"}
    if m := (
        read(r"the NOUN that has the other one (?P<seen>on its left|on its right)")
        or read(r"the NOUN to the (?P<seen>right of) the other one")
    ):
        assert len(of(m["noun"])) == 2
        return foremost(of(m["noun"]), sides[m["seen"]])
    if m := (
        read(r"the NOUN that is (?P<by>closer to|farther from) you than the other one")
        or read(r"the (?P<by>closer|farther) NOUN of the two")
    ):
        assert len(of(m["noun"])) == 2
        return foremost(of(m["noun"]), "near" if m["by"].startswith("closer") else "far")
    if m := read(r"the (?:nearer|closer) NOUN") or read(r"the NOUN more to the front"):
        assert len(of(m["noun"])) == 2
        return foremost(of(m["noun"]), "near")
    if m := read(r"the more distant NOUN") or read(r"the NOUN more to the back"):
        assert len(of(m["noun"])) == 2
        return foremost(of(m["noun"]), "far")
    if m := (
        read(r"the (?:middle|central) NOUN")
        or read(rf"the (?:one )?NOUN {LINK}in the middle(?: of the three)?")
        or read(r"the NOUN in the center of the three")
        or read(r"the NOUN between the other two")
    ):
        row = of(m["noun"])
        assert len(row) == 3
        return set(row) - foremost(row, "left") - foremost(row, "right")
    if m := read(
        r"the (?:only|one|single|one and only) NOUN"
        r"(?: which is)?(?: on the table| that you see| there is| that we have here)?"
    ) or read(r"the one NOUN that is on the table"):
        return set(of(m["noun"]))
    if m := (
        read(r"the (?:only )?(?P<look>round|tall|square|low) (?:round |square )?object")
        or read(r"the object with (?P<look>a round top|corners)")
        or read(r"the object that looks like a (?P<look>cylinder|cube)")
        or read(r"the object (?P<look>taller|lower) than any other")
    ):
        return set(
            of({"cy": "can", "ro": "can", "ta": "can", "a ": "can"}.get(m["look"][:2], "block"))
        )
    if m := read(
        r"the (?:one )?object (?:that|which) is (?:the )?"
        r"(?P<look>round|tall(?:est)?|square|low(?:est)?)"
    ):
        return set(of({"r": "can", "t": "can"}.get(m["look"][0], "block")))
    if m := read(r"the (?P<look>tallest|lowest) object"):
        return set(of("can" if m["look"] == "tallest" else "block"))
    if m := (
        read(rf"(?:the|a|an) (?:only )?NOUN {LINK}not on the (?P<side>left|right)")
        or read(r"whichever NOUN is not on the (?P<side>left|right)")
        or read(r"any NOUN but the one on the (?P<side>left|right)")
        or read(r"the NOUN that stands anywhere but on the (?P<side>left|right)")
        or read(r"the NOUN other than the one on the (?P<side>left|right)")
        or read(r"the NOUN that does not stand to the (?P<side>left|right)")
    ):
        assert len(of(m["noun"])) == 2
        return foremost(of(m["noun"]), "left" if m["side"] == "right" else "right")
    if m := (
        read(r"the only object here that is no (?P<kind>block|can)")
        or read(r"the object that does not look like a (?P<kind>block|can)")
        or read(r"(?:the|an) (?:only |one )?object (?:that|which) is not a (?P<kind>block|can)")
    ):
        return {name for name in objects if not name.endswith(m["kind"])}
    if m := read(
        r"(?:the|a|an) (?:only |one )?NOUN (?:that|which) is (?:not|neither) (?P<one>\w+)"
        r"(?: (?:nor|and not) (?P<two>\w+))?"
    ):
        return {n for n in of(m["noun"]) if n.split()[0] not in (m["one"], m["two"])}
    m = (
        read(r"the only (?P<color>\w+) object")
        or read(r"the (?P<color>\w+) (?:one|object|thing)")
        or read(r"the thing colored (?P<color>\w+)")
        or read(r"the only (?P<color>\w+) object on the table")
        or read(r"the one thing here that is (?P<color>\w+)")
        or read(r"the (?:only |one )?object (?:that|which) is (?P<color>\w+)")
        or read(r"the one that is (?P<color>\w+)")
    )
    assert m, text
    return {name for name in objects if name.split()[0] == m["color"]}
