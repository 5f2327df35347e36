"""Benchmarks by name: those of this package, of other packages and of the caller."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any

from vla.core.shown import brief
from vla.envs.base import Suite, SuiteError

# Packages name their suites in this group of entry points.
ENTRY_POINTS = "vla_ros.suites"
# A class, or "module:class" for what is only imported when it is asked for.
_SUITES: dict[str, Callable[..., Suite] | str] = {"tabletop": "vla.envs.tabletop.suite:TableTop"}


def register_suite(suite: type[Suite]) -> type[Suite]:
    """Makes a suite known by its name; also a class decorator."""
    _SUITES[suite.name] = suite
    return suite


def suite_names() -> list[str]:
    """Names of all suites that are registered or installed."""
    return sorted({*_SUITES, *entry_points(group=ENTRY_POINTS).names})


def make_suite(name: str, **settings: Any) -> Suite:
    """A suite by name, or by "module:class". settings: fields of it that are not the default.

    Raises SuiteError for a suite that is not known or has no such setting.
    """
    found = _SUITES.get(name, name if ":" in name else None)
    try:
        if found is None:
            found = entry_points(group=ENTRY_POINTS)[name].load()
        kind = resolve_name(found) if isinstance(found, str) else found
    except KeyError:
        known = ", ".join(suite_names())
        raise SuiteError(f"unknown benchmark {brief(name)}; known: {known}") from None
    except (ImportError, AttributeError, ValueError) as error:
        raise SuiteError(f"cannot import benchmark {brief(name)}: {error}") from error
    accepted = inspect.signature(kind).parameters
    if unknown := [setting for setting in settings if setting not in accepted]:
        raise SuiteError(f"benchmark '{name}' has no setting '{unknown[0]}'")
    return kind(**settings)
