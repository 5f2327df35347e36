"""Noun phrases for one object of a scene, by what singles it out and by split; see references.py.

Those of the split "test" are never seen in training. Slots: {kind} "object", "block" or "can",
{other} and {another} names of other objects, {color}, {one} and {two} colours, {direction} "left"
or "right", {ordinal} such as "second". Clauses that say what a thing is begin in training as those
that say what it is not ("that is", "which is"); else a small model takes every such clause for a
negation.
"""

from __future__ import annotations

Forms = dict[str, tuple[str, ...]]
ORDINALS = ("first", "second", "third", "fourth")

FOREMOST: dict[str, Forms] = {
    "left": {
        "train": (
            "the leftmost {kind}",
            "the {kind} farthest to the left",
            "the {kind} that is leftmost",
            "the {kind} at the left end",
            "the {kind} on the far left",
            "the {kind} standing farthest to the left",
            "the {kind} which stands leftmost of all",
            "the {kind} on the very left",
            "the {kind} at the left edge",
            "the {kind} farther to the left than any other",
        ),
        "test": (
            "the {kind} that stands all the way to the left",
            "the {kind} which is farthest to the left",
        ),
    },
    "right": {
        "train": (
            "the rightmost {kind}",
            "the {kind} farthest to the right",
            "the {kind} that is rightmost",
            "the {kind} at the right end",
            "the {kind} on the far right",
            "the {kind} standing farthest to the right",
            "the {kind} which stands rightmost of all",
            "the {kind} on the very right",
            "the {kind} at the right edge",
            "the {kind} farther to the right than any other",
        ),
        "test": (
            "the {kind} which is farthest to the right",
            "the {kind} which is rightmost",
        ),
    },
    "near": {
        "train": (
            "the {kind} nearest to the robot",
            "the {kind} closest to you",
            "the {kind} that is nearest to the robot",
            "the {kind} at the front",
            "the {kind} right before you",
            "the {kind} standing nearest to you",
            "the {kind} which stands closest to the robot",
            "the nearest {kind}",
            "the closest {kind} to you",
            "the {kind} nearer to you than any other",
        ),
        "test": (
            "the {kind} that stands closer to you than any other",
            "the {kind} which is nearest to you",
        ),
    },
    "far": {
        "train": (
            "the {kind} farthest from the robot",
            "the {kind} farthest away from you",
            "the {kind} that is farthest from the robot",
            "the {kind} at the back",
            "the {kind} farthest to the back",
            "the {kind} standing farthest from you",
            "the {kind} which stands farthest away",
            "the farthest {kind}",
            "the most distant {kind}",
            "the {kind} farther from you than any other",
        ),
        "test": (
            "the {kind} farthest from you",
            "the {kind} that is farthest away from the robot",
            "the {kind} that you need to reach farthest for",
        ),
    },
}
OF_TWO: dict[str, Forms] = {
    "left": {
        "train": (
            "the left {kind}",
            "the {kind} on the left",
            "the {kind} which is on the left",
            "the {kind} standing on the left",
            "the {kind} on your left",
            "the {kind} to the left",
        ),
        "test": (
            "the {kind} that has the other one on its right",
            "the {kind} that stands on the left",
        ),
    },
    "right": {
        "train": (
            "the right {kind}",
            "the {kind} on the right",
            "the {kind} which is on the right",
            "the {kind} standing on the right",
            "the {kind} on your right",
            "the {kind} to the right",
        ),
        "test": (
            "the {kind} to the right of the other one",
            "the {kind} that has the other one on its left",
        ),
    },
    "near": {
        "train": (
            "the nearer {kind}",
            "the {kind} closer to you",
            "the {kind} which is closer to you",
            "the {kind} standing closer to you",
            "the closer {kind}",
            "the {kind} more to the front",
        ),
        "test": (
            "the {kind} that is closer to you than the other one",
            "the closer {kind} of the two",
        ),
    },
    "far": {
        "train": (
            "the {kind} farther from you",
            "the {kind} farther away",
            "the {kind} which is farther away",
            "the {kind} standing farther away",
            "the more distant {kind}",
            "the {kind} more to the back",
        ),
        "test": (
            "the {kind} that is farther from you than the other one",
            "the farther {kind} of the two",
        ),
    },
}
MIDDLE: Forms = {
    "train": (
        "the middle {kind}",
        "the {kind} in the middle",
        "the {kind} which is in the middle",
        "the {kind} standing in the middle",
        "the {kind} in the center of the three",
        "the central {kind}",
    ),
    "test": (
        "the {kind} between the other two",
        "the {kind} that stands in the middle",
    ),
}
COUNTED: Forms = {
    "train": (
        "the {ordinal} {kind} from the {direction}",
        "the {ordinal} {kind} when you count from the {direction}",
        "the {kind} that is {ordinal} from the {direction}",
        "the {ordinal} {kind} in the row from the {direction}",
        "the {kind} in {ordinal} place from the {direction}",
        "the {ordinal} {kind} if you start at the {direction} end",
    ),
    "test": (
        "the {kind} which is {ordinal} from the {direction}",
        "the {ordinal} {kind} when i count from the {direction}",
    ),
}
IN_LINE: Forms = {
    "train": (
        "the {ordinal} {kind} as seen from you",
        "the {ordinal} {kind} from the front",
        "the {kind} that comes {ordinal} from the front",
    ),
    "test": (),
}
ONLY_KIND: Forms = {
    "train": (
        "the only {kind}",
        "the only {kind} on the table",
        "the single {kind}",
        "the one and only {kind}",
        "the only {kind} that you see",
    ),
    "test": (
        "the only {kind} that we have here",
        "the one {kind} on the table",
    ),
}
SHAPES: dict[str, Forms] = {
    "can": {
        "train": (
            "the only round object",
            "the tallest object",
            "the only tall object",
            "the round object",
            "the object with a round top",
            "the object taller than any other",
            "the tall round object",
        ),
        "test": (
            "the object that looks like a cylinder",
            "the object which is round",
        ),
    },
    "block": {
        "train": (
            "the only square object",
            "the lowest object",
            "the only low object",
            "the square object",
            "the object with corners",
            "the object lower than any other",
            "the low square object",
        ),
        "test": (
            "the object that looks like a cube",
            "the object which is square",
        ),
    },
}
ONLY_COLOR: Forms = {
    "train": (
        "the only {color} object",
        "the {color} one",
        "the object which is {color}",
        "the {color} object",
        "the {color} thing",
        "the thing colored {color}",
        "the one thing here that is {color}",
    ),
    "test": (
        "the only {color} object on the table",
        "the object that is {color}",
    ),
}
NEAREST: Forms = {
    "train": (
        "the {kind} nearest to the {other}",
        "the {kind} closest to the {other}",
        "the {kind} which is closest to the {other}",
        "the {kind} standing nearest to the {other}",
        "the {kind} next to the {other}",
        "the {kind} beside the {other}",
        "the {kind} right by the {other}",
        "the {kind} nearer to the {other} than any other",
    ),
    "test": (
        "the {kind} that is closest to the {other}",
        "the {kind} that stands nearer to the {other} than any other {kind}",
    ),
}
BEYOND: Forms = {
    "train": (
        "the {kind} {direction} of the {other}",
        "the {kind} to the {direction} of the {other}",
        "the {kind} that is to the {direction} of the {other}",
        "the {kind} standing {direction} of the {other}",
        "the {kind} on the {direction} side of the {other}",
        "the {kind} which stands to the {direction} of the {other}",
    ),
    "test": (
        "the {kind} that stands {direction} of the {other}",
        "the {kind} you see to the {direction} of the {other}",
    ),
}
IN_DEPTH: dict[str, Forms] = {
    "near": {
        "train": (
            "the {kind} standing in front of the {other}",
            "the {kind} that stands before the {other}",
            "the {kind} in front of the {other}",
            "the {kind} on your side of the {other}",
        ),
        "test": (
            "the {kind} that is nearer to you than the {other}",
            "the {kind} that stands closer to the robot than the {other}",
        ),
    },
    "far": {
        "train": (
            "the {kind} standing behind the {other}",
            "the {kind} that stands behind the {other}",
            "the {kind} beyond the {other}",
        ),
        "test": (
            "the {kind} behind the {other}",
            "the {kind} that is farther from you than the {other}",
            "the {kind} that the robot has to reach past the {other} for",
        ),
    },
}
BETWEEN: Forms = {
    "train": (
        "the {kind} between the {other} and the {another}",
        "the {kind} that is between the {other} and the {another}",
        "the {kind} with the {other} on one side and the {another} on the other",
    ),
    "test": (
        "the {kind} that stands in between the {other} and the {another}",
        "the {kind} in the middle , between the {other} and the {another}",
    ),
}
NOT_COLOR: Forms = {
    "train": (
        "the {kind} that is not {color}",
        "the only {kind} that is not {color}",
        "any {kind} but the {color} one",
        "whichever {kind} is not {color}",
        "the {kind} not colored {color}",
        "the {kind} of another color than {color}",
        "the one {kind} that is anything but {color}",
        "some {kind} that is not {color}",
        "a {kind} , but not the {color} one",
        "the {kind} other than the {color} one",
    ),
    "test": (
        "the {kind} in a color other than {color}",
        "the {kind} that is any color but {color}",
    ),
}
NOT_KIND: Forms = {
    "train": (
        "the object that is not a {kind}",
        "the only object that is not a {kind}",
        "anything but a {kind}",
        "some object , but not a {kind}",
        "an object other than a {kind}",
        "the one thing here that is not a {kind}",
        "whatever is not a {kind}",
    ),
    "test": (
        "the only object here that is no {kind}",
        "the object that does not look like a {kind}",
    ),
}
NEITHER: Forms = {
    "train": (
        "the {kind} that is neither {one} nor {two}",
        "any {kind} but not {one} or {two}",
        "a {kind} that is not {one} and not {two}",
        "whichever {kind} is neither {one} nor {two}",
        "the {kind} of another color than {one} or {two}",
        "the {kind} other than the {one} one and the {two} one",
    ),
    "test": (
        "the {kind} that is not {one} and not {two}",
        "the {kind} in a color other than {one} or {two}",
    ),
}
NOT_SIDE: Forms = {
    "train": (
        "the {kind} that is not on the {direction}",
        "whichever {kind} is not on the {direction}",
        "any {kind} but the one on the {direction}",
        "the {kind} not on the {direction}",
        "the {kind} that stands anywhere but on the {direction}",
        "the {kind} other than the one on the {direction}",
    ),
    "test": (
        "the {kind} that does not stand to the {direction}",
        "the only {kind} that is not on the {direction}",
    ),
}
