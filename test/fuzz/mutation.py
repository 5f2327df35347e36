"""Seeded changes to values, text and bytes, of the kinds that broken and hostile files have."""

from __future__ import annotations

import copy
import math
from random import Random
from typing import Any

NUMBERS = (
    0, -1, 1, 2, 0.5, -0.0, 1e-300, 1e308, -1e308, math.nan, math.inf, -math.inf, 255, 65536,
    2**31, -(2**31) - 1, 2**63, 10**30, 999_999_999, 1e9, 0.001,
)  # fmt: skip
TEXTS = (
    "", " ", "\x00", "\x1b[2J", "a\nb", "\u202eevil", "\ud800", "é" * 40, "x" * 20_000,
    "../../../etc/passwd", "/dev/zero", "/etc", "{0}", "{a.__class__}", "{episode_index:09999999d}",
    "%s%n", "(a+)+$", "<end><user>", "NaN", "1e400", "null", "-", "panda_joint1", "observation",
)  # fmt: skip
YAML_TEXTS = (
    "&a [*a]", "!!python/object/apply:os.system ['true']", "{" * 2000, "[" * 5000, "- " * 3000,
    "a: &a [x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b, *b, *b]",
    "? [a]\n: b", "\t", "%YAML 9.9", "---\n---\n", "name: name: name", ": ", "<<: *x",
)  # fmt: skip


def _deep(depth: int = 3000) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def odd_value(random: Random, instead_of: Any = None) -> Any:
    """A value that hardly belongs where `instead_of` stood."""
    kind = random.randrange(9)
    if kind < 3 or (kind < 6 and isinstance(instead_of, int | float)):
        return random.choice(NUMBERS)
    if kind < 6:
        return random.choice(TEXTS)
    if kind == 6:
        return random.choice((None, True, False, [], {}, [[]], {"a": {}}, [None]))
    if kind == 7:
        return [instead_of] * random.choice((2, 3, 50))
    if isinstance(instead_of, str) and instead_of:
        place = random.randrange(len(instead_of))
        return instead_of[:place] + random.choice(TEXTS) + instead_of[place:]
    return {str(instead_of): instead_of}


def _places(tree: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all entries of nested lists and dictionaries."""
    found = []
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in entries:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += _places(value, (*path, key))
    return found


def mutate_tree(random: Random, tree: Any, changes: int = 1) -> Any:
    """A copy of nested lists and dictionaries with some entries replaced, removed or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(changes):
        places = _places(tree)
        if not places:
            return odd_value(random)
        *path, key = random.choice(places)
        parent = tree
        for step in path:
            parent = parent[step]
        kind = random.randrange(8)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[random.choice(TEXTS)] = parent.pop(key)
        elif kind == 2 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[random.randrange(len(parent))]))
        else:
            parent[key] = odd_value(random, parent[key])
    return tree


def mutate_text(random: Random, text: str) -> str:
    """A copy with a piece removed, doubled or put in."""
    first, last = sorted(random.randrange(len(text) + 1) for _ in range(2))
    kind = random.randrange(5)
    if kind == 0:
        return text[:first]
    if kind == 1:
        return text[:first] + text[last:]
    if kind == 2:
        return text[:last] + text[first:last] + text[last:]
    if kind == 3:
        return text[:first] + random.choice(TEXTS) + text[first:]
    return text[:first] + random.choice(YAML_TEXTS) + text[last:]


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """A copy with flipped bits, a piece cut out or overwritten, or cut short."""
    if not data:
        return random.randbytes(16)
    kind = random.randrange(6)
    changed = bytearray(data)
    place = random.randrange(len(changed))
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + data[place + random.randrange(1, 65) :]
    if kind == 2:
        return data[:place] + random.randbytes(random.randrange(1, 65)) + data[place:]
    if kind == 3:
        length = min(random.randrange(1, 65), len(changed) - place)
        changed[place : place + length] = random.choice((b"\x00", b"\xff")) * length
        return bytes(changed)
    if kind == 4:
        return random.choice((b"", b"\xff\xfe\x00", b"\x00" * 64, random.randbytes(256)))
    for _ in range(random.choice((1, 1, 8))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)
