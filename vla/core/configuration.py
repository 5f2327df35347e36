"""Reads dataclasses from plain values: configurations, contracts, mappings, records.

Written by hand and not with pydantic: its import takes 0.2 s in each of six nodes, and it accepts
"yes", True and NaN for numbers and flags unless every field says otherwise.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from vla.core.files import checked_entries, checked_number, checked_text
from vla.core.shown import brief, listed


class Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


T = TypeVar("T", bound=Dataclass)

# Bounds of a number, and of the length of a list or mapping, where the field gives none.
LARGEST = 1e12
MOST_ENTRIES = 1000
MOST_DEPTH = 8  # of values that no field describes
_EXPONENT = re.compile(r"[-+]?\d{1,20}(\.\d{0,20})?[eE][-+]?\d{1,3}")


def bounded(default: Any, lowest: float, highest: float) -> Any:
    """A field that holds a number, or a list of numbers, from `lowest` to `highest`."""
    return field(default=default, metadata={"bounds": (lowest, highest)})


def read_dataclass(kind: type[T], values: Any, where: str, error: type[Exception]) -> T:
    """A dataclass, its entries converted as its fields say.

    Fields are int, float, bool, str, Any, a Literal, another dataclass, a tuple, a mapping or None
    of these, or one of these or a tuple of it. Their metadata may have "bounds" of numbers and
    "length" of a list, each (least, most). where: file and entry, which errors begin with. Raises
    `error` for an unknown or missing entry, a value of another type or out of bounds, and what the
    dataclass refuses by ValueError.
    """
    known = {entry.name: entry for entry in fields(kind)}
    checked_entries(values, where, error, sorted(known))
    missing = [
        name
        for name, entry in known.items()
        if name not in values and entry.default is MISSING and entry.default_factory is MISSING
    ]
    if missing:
        raise error(f"{where}: missing entries: {', '.join(missing)}")
    hints = _hints(kind)
    built = {
        name: _read(hints[name], value, f"{where}: {name}", error, known[name].metadata)
        for name, value in values.items()
    }
    try:
        return kind(**built)
    except ValueError as problem:
        raise error(f"{where}: {problem}") from problem


@functools.cache
def _hints(kind: type[Dataclass]) -> dict[str, Any]:
    """The types of a dataclass's fields; to look them up takes longer than to read the values."""
    return get_type_hints(kind)


def _read(hint: Any, value: Any, where: str, error: type[Exception], limits: Mapping) -> Any:
    """A value as its field's type says."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        kinds = [part for part in parts if part is not NoneType]
        # Of one value or a list of such, what was given decides.
        several = isinstance(value, list | tuple)
        fits = [kind for kind in kinds if (get_origin(kind) is tuple) == several]
        return _read((fits or kinds)[0], value, where, error, limits)
    if is_dataclass(hint):
        return read_dataclass(hint, value, where, error)  # type: ignore[arg-type]
    if hint in (int, float):
        if isinstance(value, str) and _EXPONENT.fullmatch(value):
            # YAML reads "1e-3" as text; here it is a number.
            value = float(value)
        least, most = limits.get("bounds", (0, LARGEST))
        return checked_number(value, where, error, least, most, whole=hint is int)
    if hint is bool:
        if not isinstance(value, bool):
            raise error(f"{where} must be true or false, got {brief(value)}")
        return value
    if origin is Literal:
        if value not in parts:
            raise error(f"{where} must be one of {listed(filter(None, parts))}, got {brief(value)}")
        return value
    if hint is str:
        return checked_text(value, where, error)
    if origin is tuple:
        return _read_list(parts, value, where, error, limits)
    if origin is dict:
        if not isinstance(value, dict) or len(value) > MOST_ENTRIES:
            raise error(f"{where} must be a mapping, got {brief(value)}")
        return {
            checked_text(name, where, error): _read(
                parts[1], entry, f"{where}: {name}", error, limits
            )
            for name, entry in value.items()
        }
    _require_sane(value, where, error)
    return value


def _read_list(
    parts: tuple, value: Any, where: str, error: type[Exception], limits: Mapping
) -> tuple:
    """parts: types of the entries one by one, or of any number of them before `...`."""
    least, most = limits.get("length", (0, MOST_ENTRIES))
    if parts[-1] is not Ellipsis:
        least = most = len(parts)
    if not isinstance(value, list | tuple):
        raise error(f"{where} must be a list, got {brief(value)}")
    if not least <= len(value) <= most:
        count = f"{least}" if least == most else f"{least} to {most}"
        raise error(f"{where} must have {count} entries, it has {len(value)}")
    return tuple(
        _read(parts[0 if parts[-1] is Ellipsis else index], entry, f"{where} {index + 1}", error,
              limits)
        for index, entry in enumerate(value)
    )  # fmt: skip


def _require_sane(value: Any, where: str, error: type[Exception], depth: int = 0) -> None:
    """Raises `error` where values that no field describes are nested too deep or absurdly large."""
    if depth > MOST_DEPTH:
        raise error(f"{where} is nested more than {MOST_DEPTH} deep; write it flatter")
    if isinstance(value, dict):
        for name, entry in value.items():
            _require_sane(entry, f"{where}: {brief(name)}", error, depth + 1)
    elif isinstance(value, list):
        for entry in value[:MOST_ENTRIES]:
            _require_sane(entry, where, error, depth + 1)
    elif type(value) in (int, float):
        checked_number(value, where, error, -LARGEST, LARGEST)
