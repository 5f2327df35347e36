"""What a browser may ask of the robot, checked before it reaches the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vla.bags.labels import OUTCOMES
from vla.control.session import LONGEST_INSTRUCTION, MODES, InstructionError, check_instruction
from vla.core.files import checked_entries, checked_number, checked_text, read_json_text
from vla.core.shown import brief
from vla.core.text import LONGEST_NOTE, TextError, check_text

DISCARD = "discard"
LONGEST_PATH = 4096


class CommandRefusedError(ValueError):
    """A command that cannot be read; one sentence says what was wrong."""


@dataclass(frozen=True)
class PageCommand:
    """One command with its checked fields."""

    name: str
    # By the names in FIELDS, each given or its default.
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CommandAnswer:
    """What came of a command."""

    success: bool
    message: str = ""  # why not, or what was done


def _one_of(*known: str) -> Callable[[Any, str], str]:
    def check(value: Any, what: str) -> str:
        if value not in known:
            shown = ", ".join(repr(name) for name in known)
            raise CommandRefusedError(f"{what} must be one of {shown}, got {brief(value)}")
        return value

    return check


def _text(most: int, lines: bool = False) -> Callable[[Any, str], str]:
    def check(value: Any, what: str) -> str:
        text = checked_text(value, what, CommandRefusedError, most)
        try:
            return check_text(text, what, most, lines)
        except TextError as error:
            raise CommandRefusedError(str(error)) from error

    return check


def _instruction(value: Any, what: str) -> str:
    try:
        return check_instruction(checked_text(value, what, CommandRefusedError))[0]
    except InstructionError as error:
        raise CommandRefusedError(str(error)) from error


def _seconds(value: Any, what: str) -> float:
    return float(checked_number(value, what, CommandRefusedError, 0.0, 86400.0))


NOTE = _text(LONGEST_NOTE, lines=True)
# Each command with its fields: how each is checked, and its default, which is not; None for one
# that must be given.
FIELDS: dict[str, dict[str, tuple[Callable[[Any, str], Any], Any]]] = {
    "emergency_stop": {},
    "stop": {},
    "resume": {},
    "reset_emergency_stop": {},
    "recover": {},
    "instruct": {"text": (_instruction, None), "mode": (_one_of(*MODES, ""), "")},
    "record_start": {"instruction": (_text(LONGEST_INSTRUCTION), ""), "note": (NOTE, "")},
    "record_stop": {"outcome": (_one_of(*OUTCOMES, DISCARD), ""), "note": (NOTE, "")},
    "record_label": {
        "episode": (_text(LONGEST_INSTRUCTION), ""),
        "outcome": (_one_of(*OUTCOMES), None),
        "note": (NOTE, ""),
    },
    "record_mark": {"name": (_text(LONGEST_INSTRUCTION), None)},
    "record_recent": {
        "seconds": (_seconds, 0.0),
        "outcome": (_one_of(*OUTCOMES), ""),
        "note": (NOTE, ""),
    },
    "load_adapter": {"path": (_text(LONGEST_PATH), None)},
    "drop_adapter": {},
}
# Whoever sees that something goes wrong may end it.
FOR_EVERYBODY = frozenset({"emergency_stop", "stop"})


def read_command(name: str, body: str) -> PageCommand:
    """The command of that name, a key of FIELDS, from its JSON.

    Raises CommandRefusedError that names the field which does not fit.
    """
    known = FIELDS[name]
    values = read_json_text(body, "the request", CommandRefusedError) if body else {}
    checked_entries(values, f"the request '{name}'", CommandRefusedError, tuple(known))
    found = {}
    for entry, (check, default) in known.items():
        if entry in values:
            found[entry] = check(values[entry], entry)
        elif default is None:
            raise CommandRefusedError(f"the request '{name}' needs '{entry}'")
        else:
            found[entry] = default
    return PageCommand(name, found)
