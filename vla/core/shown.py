"""How values, names and paths from elsewhere are shown in errors: bounded, on one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from vla.core.text import one_line


def brief(value: Any, most: int = 80) -> str:
    """A value for an error or a log: on one line, escaped, of at most `most` characters.

    It is cut while it is formatted, so that a huge or deeply aliased value costs nothing.
    """
    text = ""
    for piece in _pieces(value, most + 1):
        text += piece
        if len(text) > most:
            return text[: most - 1] + "…"
    return text


def _pieces(value: Any, most: int) -> Iterator[str]:
    """Parts of the representation, the next one made only when it is asked for."""
    if isinstance(value, (str, bytes, bytearray)):
        yield repr(value[:most])
    elif isinstance(value, int) and value.bit_length() > 256:
        yield f"a number of {value.bit_length()} bits"
    elif isinstance(value, dict):
        yield "{"
        for index, (key, entry) in enumerate(value.items()):
            yield ", " if index else ""
            yield from _pieces(key, most)
            yield ": "
            yield from _pieces(entry, most)
        yield "}"
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield "[" if isinstance(value, list) else "(" if isinstance(value, tuple) else "{"
        for index, entry in enumerate(value):
            yield ", " if index else ""
            yield from _pieces(entry, most)
        yield "]" if isinstance(value, list) else ")" if isinstance(value, tuple) else "}"
    elif is_dataclass(value) and not isinstance(value, type):
        yield f"{type(value).__name__}("
        for index, entry in enumerate(fields(value)):
            yield f"{', ' if index else ''}{entry.name}="
            yield from _pieces(getattr(value, entry.name), most)
        yield ")"
    else:
        yield " ".join(repr(value).split())


def listed(names: Iterable[Any], most: int = 160) -> str:
    """Names for an error text, as many as fit into `most` characters."""
    return one_line(", ".join(one_line(name, 60) for name in islice(names, 40)), most)


def first_few(names: Iterable[Any], count: int, most: int = 160) -> str:
    """The first names for an error text, of `most` characters each, and how many more there are."""
    names = list(names)
    shown = ", ".join(one_line(name, most) for name in names[:count])
    return shown + (f" and {len(names) - count} more" if len(names) > count else "")


def shown_path(path: str | Path, most: int = 160) -> str:
    """A path for an error text; of a very long one, the end."""
    text = one_line(path, 8192)
    return text if len(text) <= most else "…" + text[1 - most :]
