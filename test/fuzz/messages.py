"""Seeded changes to ROS messages: values, lengths, names and stamps that no sound source sends."""

from __future__ import annotations

import array
import copy
import math
import re
from random import Random
from typing import Any

from fuzz.mutation import TEXTS

FLOATS = (math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-308, 1e30, -1e30, 100.0, 3.14159)
RANGES = {
    "int8": (-(2**7), 2**7 - 1), "uint8": (0, 2**8 - 1),
    "int16": (-(2**15), 2**15 - 1), "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1), "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1), "uint64": (0, 2**64 - 1),
}  # fmt: skip
SEQUENCE = re.compile(r"^sequence<(?P<item>[^,>]+)(,\s*\d+)?>$")
FIXED = re.compile(r"^(?P<item>[^\[]+)\[(?P<length>\d+)\]$")


def mutate_message(random: Random, message: Any) -> Any:
    """A copy with up to three fields changed; one in ten is the message as it is, a replay."""
    changed = copy.deepcopy(message)
    if random.randrange(10) == 0:
        return changed
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        owner, name, kind = random.choice(_leaves(changed))
        setattr(owner, name, _odd(random, kind, getattr(owner, name)))
    return changed


def _leaves(message: Any) -> list[tuple[Any, str, str]]:
    """Owner, name and type of all fields that hold no message of their own."""
    found = []
    for name, kind in message.get_fields_and_field_types().items():
        value = getattr(message, name)
        if hasattr(value, "get_fields_and_field_types"):
            found += _leaves(value)
        else:
            found.append((message, name, kind))
            if isinstance(value, list) and value and hasattr(value[0], "SLOT_TYPES"):
                found += _leaves(value[0])
    return found


def _odd(random: Random, kind: str, value: Any) -> Any:
    """Another value of a field's type."""
    if match := SEQUENCE.match(kind):
        return _odd_sequence(random, match["item"], value)
    if match := FIXED.match(kind):
        items = list(value)
        place = random.randrange(len(items))
        items[place] = _odd(random, match["item"], items[place])
        return items
    if kind in ("double", "float"):
        odd = random.choice((*FLOATS, 1e308)) if kind == "double" else random.choice(FLOATS)
        return odd if random.randrange(2) else value + random.uniform(-1.0, 1.0)
    if kind == "boolean":
        return not value
    if kind == "string":
        text = random.choice((*TEXTS, "x" * 200_000, value + "x"))
        # What cannot be sent at all is no attack.
        return text.encode(errors="replace").decode().replace("\x00", "")
    if kind in RANGES:
        low, high = RANGES[kind]
        near = value + random.choice((-1, 1, 10, -10, 450_000_000))
        return min(max(random.choice((low, high, 0, 1, near, near)), low), high)
    return value


def _odd_sequence(random: Random, item: str, value: Any) -> Any:
    """Another length, or other entries."""
    items = value.tolist() if isinstance(value, array.array) else list(value)
    choice = random.randrange(6)
    if choice == 0:
        items = []
    elif choice == 1:
        items = items[: random.randrange(len(items) + 1)]
    elif choice == 2:
        items = items + items[: max(1, len(items) // 2)]
    elif choice == 3 and len(items) < 1000:
        items = items * 50
    elif items:
        for _ in range(random.choice((1, len(items)))):
            place = random.randrange(len(items))
            items[place] = _odd(random, item, items[place])
    return array.array(value.typecode, items) if isinstance(value, array.array) else items
