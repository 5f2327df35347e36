"""Benchmarks by name.

A folder of `vla.envs` with a `suite.py` is one, called as the folder is. Those of other packages
come from the entry points of the group `vla_ros.suites`, or from modules that the environment
variable VLA_PLUGINS names, which call `register`.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from vla.core.plugins import PLUGINS, load_plugins
from vla.core.shown import brief
from vla.envs.base import Suite, SuiteError

GROUP = "vla_ros.suites"

_registered: dict[str, type[Suite]] = {}


def register(suite: type[Suite]) -> type[Suite]:
    """Makes a suite known under its name; also a class decorator."""
    _registered[suite.name] = suite
    return suite


def make_suite(name: str, **settings: Any) -> Suite:
    """A benchmark by name. settings: fields of its suite that are not the default.

    Raises SuiteError for a benchmark that is not known or has no such setting.
    """
    shipped = [path.parent.name for path in Path(__file__).parent.glob("*/suite.py")]
    if name not in _registered:
        if name in shipped:
            register(import_module(f"vla.envs.{name}.suite").SUITE)
        else:
            for suite in load_plugins(GROUP, SuiteError):
                register(suite)
    if name not in _registered:
        known = ", ".join(sorted({*_registered, *shipped}))
        raise SuiteError(
            f"unknown benchmark {brief(name)}; known: {known}. One from another package is found "
            f"when that is installed, or when {PLUGINS} names its module"
        )
    accepted = inspect.signature(_registered[name]).parameters
    if unknown := [setting for setting in settings if setting not in accepted]:
        raise SuiteError(f"benchmark '{name}' has no setting '{unknown[0]}'")
    return _registered[name](**settings)
