"""NAME=VALUE on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vla.core.files import read_yaml_text
from vla.core.shown import brief
from vla.core.text import one_line


def overridden(
    values: dict[str, Any], overrides: Sequence[str], error: type[Exception]
) -> dict[str, Any]:
    """A configuration's entries with NAME=VALUE overrides, read as YAML; mappings are merged.

    Raises `error` where one is not of that form.
    """
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise error(f"--set takes NAME=VALUE, got {brief(override)}")
        value = read_yaml_text(text, f"--set {one_line(name, 60)}", error)
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            value = values[name] | value
        values[name] = value
    return values
