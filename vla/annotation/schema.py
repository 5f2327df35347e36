"""Replies of models as JSON by a schema, whether or not their server held them to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vla.core.files import read_json_text
from vla.core.shown import brief
from vla.core.text import one_line

LONGEST_REPLY = 200_000
# Characters of the list of problems in a reply, for the model and the log.
LONGEST_PROBLEMS = 1000
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "boolean": (bool,),
}


class ReplyError(ValueError):
    """A reply that cannot be used; the model gets the text, too."""


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with just these entries, within what endpoints enforce in common."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def reply_by_schema(text: str, schema: dict[str, Any]) -> Any:
    """The value of a reply, of whose schema's language object_schema() and lists are a part.

    Raises ReplyError that says all that breaks the schema.
    """
    if len(text) > LONGEST_REPLY:
        raise ReplyError(f"the reply has {len(text)} characters, at most {LONGEST_REPLY} may be")
    text = text.strip()
    # Models that no schema binds like to wrap JSON in a code block.
    first, _, rest = text.partition("\n")
    if first.rstrip() in ("```", "```json") and rest.endswith("```"):
        text = rest.removesuffix("```")
    value = read_json_text(text, "the reply", ReplyError)
    if problems := _problems(value, schema):
        raise reply_error(problems)
    return value


def reply_error(problems: Sequence[str]) -> ReplyError:
    """One error of all problems."""
    return ReplyError(one_line("; ".join(problems), LONGEST_PROBLEMS))


def _is_of(value: Any, kind: str) -> bool:
    """Whether a value is of a type of the schema's language; true and false are no numbers."""
    return isinstance(value, _TYPES[kind]) and isinstance(value, bool) == (kind == "boolean")


def _problems(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """Where a value breaks the schema."""
    name = where or "the reply"
    if not _is_of(value, schema["type"]):
        kind = "null" if value is None else type(value).__name__
        return [f"{name} must be of type {schema['type']}, it is {kind}"]
    problems = []
    if schema["type"] == "array":
        for index, item in enumerate(value):
            problems += _problems(item, schema["items"], f"{name}[{index}]")
    if schema["type"] == "object":
        known = schema["properties"]
        problems += [f"{name} lacks '{key}'" for key in schema["required"] if key not in value]
        problems += [
            f"{name} has an unknown entry {brief(key)}" for key in value if key not in known
        ]
        for key in known.keys() & value.keys():
            place = f"{where}.{key}" if where else key
            problems += _problems(value[key], known[key], place)
    return sorted(problems)
