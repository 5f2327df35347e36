"""Benchmarks by name.

A folder of `vla.envs` with a `suite.py` is one, called as the folder is. Those of other packages
come from the entry points of the group `vla_ros.suites`, or from modules that the environment
variable VLA_PLUGINS names, which call `register`.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from vla.core.configuration import read_dataclass
from vla.core.registry import Registry
from vla.envs.base import Suite, SuiteError

SUITES: Registry[type[Suite]] = Registry(
    "benchmark",
    "vla_ros.suites",
    SuiteError,
    {
        path.parent.name: f"vla.envs.{path.parent.name}.suite:SUITE"
        for path in sorted(Path(__file__).parent.glob("*/suite.py"))
    },
)
register = SUITES.register  # also a class decorator


def make_suite(name: str, **settings: Any) -> Suite:
    """A benchmark by name. settings: fields of its suite that are not the default.

    Raises SuiteError for a benchmark that is not known or has no such setting, and for a value
    that is none for it.
    """
    suite = SUITES[name]
    accepted = inspect.signature(suite).parameters
    if unknown := [setting for setting in settings if setting not in accepted]:
        raise SuiteError(f"benchmark '{name}' has no setting '{unknown[0]}'")
    return read_dataclass(suite, settings, f"benchmark '{name}'", SuiteError)  # type: ignore[type-var]
