"""Parameter values of launch files: text to typed values, by the rules of the launch front end.

An untyped value is read as YAML; a `type` attribute forces a type. Lists must be uniform. A
value with substitutions gets its type after they are replaced.
"""

from __future__ import annotations

from typing import Any

import yaml

from vla.core.shown import brief
from vla_nodes.launcher.substitution import (
    Call,
    Scope,
    SubstitutionError,
    as_boolean,
    evaluate,
    parse_template,
)

# type attribute: (scalar type, is a list); None is YAML's choice.
_TYPES: dict[str, tuple[type, bool] | None] = {
    "str": (str, False),
    "bool": (bool, False),
    "int": (int, False),
    "float": (float, False),
    "list_of_str": (str, True),
    "list_of_bool": (bool, True),
    "list_of_int": (int, True),
    "list_of_float": (float, True),
    "yaml": None,
}
_SCALARS = (bool, int, float, str)


class ValueTypeError(ValueError):
    """A value is not of the wanted type, or of no type that a parameter can have."""


def parameter_value(raw: str, separator: str | None, kind: str | None, scope: Scope) -> Any:
    """The value of a `<param>`: a bool, int, float, str or a uniform list of one of them.

    raw, separator, kind: its attributes `value`, substitutions not yet replaced, `value-sep`, which
    splits it into a list, and `type`. scope: for its substitutions. Raises ValueTypeError where the
    value does not fit the type, SubstitutionError where a substitution has no value.
    """
    if kind is not None and kind not in _TYPES:
        raise ValueTypeError(f"unknown type '{kind}'; known are: {', '.join(_TYPES)}")
    wanted = None if kind is None else _TYPES[kind]
    if separator is not None:
        value: Any = [_read(item, _item_of(wanted, raw), True) for item in raw.split(separator)]
    else:
        value = _read(raw, wanted, True)
    if isinstance(value, list):
        item = _item_of(wanted, raw)
        return _uniform([_resolve(text, item, scope) for text in value], item, raw)
    return _resolve(value, wanted, scope)


def read_yaml(text: str) -> Any:
    """Read the value of `<set_parameter>`: a scalar or a non-empty uniform list.

    Raises `ValueTypeError`.
    """
    value = _read(text or "''", None, False)
    if value == []:
        raise ValueTypeError("a list must not be empty")
    return _uniform(value, None, text) if isinstance(value, list) else value


def as_yaml(value: Any) -> str:
    """Write a parameter value on one line so that ROS reads back the same type."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9)
    return text.replace("\n...\n", "").strip()


def literal_number(text: str, parse: type, least: float) -> Any:
    """Read a number that takes no substitution and is at least `least`; raises ValueTypeError."""
    try:
        value = parse(text)
    except ValueError as error:
        raise ValueTypeError(
            f"expected a plain {parse.__name__} (no substitution), got '{text}'"
        ) from error
    if not value >= least:
        raise ValueTypeError(f"expected a number of at least {least}, got '{text}'")
    return value


def literal_boolean(text: str) -> bool:
    """Read a boolean attribute that takes no substitution; raises `ValueTypeError`."""
    try:
        return as_boolean(text)
    except SubstitutionError as error:
        raise ValueTypeError(f"{error} (no substitution is possible here)") from error


def _item_of(wanted: tuple[type, bool] | None, raw: str) -> tuple[type, bool] | None:
    if wanted is None:
        return None
    if not wanted[1]:
        raise ValueTypeError(f"'{raw}' is a list, the type is {wanted[0].__name__}")
    return (wanted[0], False)


def _resolve(value: Any, wanted: tuple[type, bool] | None, scope: Scope) -> Any:
    if not isinstance(value, str):
        return value
    template = parse_template(value)
    text = evaluate(template, scope)
    if any(isinstance(part, Call) for part in template):
        return _read(text, wanted, False)
    # Literal text got its type when it was read; what is still text here was meant to be.
    if wanted not in (None, (str, False)):
        raise _mismatch(text, wanted)
    return text


def _read(text: str, wanted: tuple[type, bool] | None, keep_text: bool) -> Any:
    """Convert text; with keep_text, what cannot be converted may still hold substitutions."""
    if wanted is None:
        return _read_untyped(text, keep_text)
    scalar, is_list = wanted
    if is_list:
        value = _read_untyped(text, keep_text)
        if isinstance(value, list):
            return value if keep_text else _uniform(value, (scalar, False), text)
        if keep_text and isinstance(value, str):
            return value
        raise _mismatch(text, wanted)
    try:
        if scalar is bool:
            return as_boolean(text)
        return scalar(text)
    except Exception as error:
        if keep_text:
            return text
        raise _mismatch(text, wanted) from error


def _read_untyped(text: str, keep_text: bool) -> Any:
    if not text:
        return text
    try:
        value = yaml.safe_load(text)
    except Exception as error:  # Constructors of YAML types raise anything
        if keep_text:
            return text
        raise ValueTypeError(f'{brief(text)} is not YAML; if it is text, add type="str"') from error
    scalars = value if isinstance(value, list) else [value]
    if not all(type(item) in _SCALARS for item in scalars):
        raise ValueTypeError(
            f"{brief(text)} is not a bool, int, float, text or list of one of them; "
            'if it is text, add type="str"'
        )
    return value if keep_text or not isinstance(value, list) else _uniform(value, None, text)


def _uniform(values: list[Any], item: tuple[type, bool] | None, raw: str) -> list[Any]:
    types = {type(value) for value in values}
    if len(types) > 1:
        raise ValueTypeError(f"the items of '{raw}' are not all of one type")
    if item is not None and types and types != {item[0]}:
        raise ValueTypeError(f"the items of '{raw}' are not all {item[0].__name__}")
    return values


def _mismatch(text: str, wanted: tuple[type, bool]) -> ValueTypeError:
    name = f"a list of {wanted[0].__name__}" if wanted[1] else wanted[0].__name__
    return ValueTypeError(f"'{text}' is not {name}")
