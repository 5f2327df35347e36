"""The 13 atomic actions of LA4VLA (arXiv 2606.27295, section 4.2 and table 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Context = Literal["object", "contact", "free"]
Motion = Literal["gripper", "translation", "rotation", "none"]

HOLDING = "HOLDING"
EMPTY = "EMPTY"
STATUSES = (HOLDING, EMPTY)


@dataclass(frozen=True)
class Primitive:
    """One atomic action."""

    name: str
    contexts: tuple[Context, ...]  # what it acts on: a held object, something touched, nothing
    motion: Motion  # what moves
    statuses: tuple[str, ...]  # of the gripper while it moves
    definition: str


PRIMITIVES: dict[str, Primitive] = {
    primitive.name: primitive
    for primitive in (
        Primitive(
            "grasp", ("object",), "gripper", STATUSES,
            "align with an object and close the gripper on it",
        ),
        Primitive(
            "place", ("object",), "gripper", STATUSES,
            "bring a held object to where it is to be, and open the gripper",
        ),
        Primitive("lift", ("object",), "translation", (HOLDING,), "move a held object up"),
        Primitive("lower", ("object",), "translation", (HOLDING,), "move a held object down"),
        Primitive(
            "transport", ("object",), "translation", (HOLDING,),
            "move a held object in the horizontal plane",
        ),
        Primitive(
            "wrist_rotate", ("object",), "rotation", (HOLDING,),
            "turn a held object about the tool's axis",
        ),
        Primitive(
            "reorient", ("object", "free"), "rotation", STATUSES,
            "bring a held object, or the empty gripper, to another orientation",
        ),
        Primitive(
            "push", ("contact",), "translation", STATUSES,
            "move something by contact, away from the arm",
        ),
        Primitive(
            "pull", ("contact",), "translation", STATUSES,
            "move something by contact, toward the arm",
        ),
        Primitive(
            "press", ("contact",), "translation", STATUSES,
            "push something down, so that it is switched or gives way",
        ),
        Primitive("move", ("free",), "translation", (EMPTY,), "move the empty gripper"),
        Primitive(
            "rotate", ("free",), "rotation", (EMPTY,), "turn the empty gripper about its axis"
        ),
        Primitive("wait", ("free", "object"), "none", STATUSES, "stay where it is"),
    )
}  # fmt: skip

# What the paper's prompt, its table 8 and people call the same.
_ALIASES = {
    "release": "place",
    "place / release": "place",
    "rotate_free": "rotate",
    "reorient_free": "reorient",
}


def primitive_name(text: str) -> str:
    """The name of a primitive, by its name or an alias of any case; "" for no primitive."""
    plain = "_".join(text.strip().lower().replace("-", " ").split())
    for alias, name in _ALIASES.items():
        if plain in (alias, alias.replace(" ", "_")):
            return name
    return plain if plain in PRIMITIVES else ""
