"""What other packages and modules add to this one, such as policies and benchmarks.

An installed package names its additions in a group of entry points. Modules that are not installed
are named by the environment variable VLA_PLUGINS, separated by commas; importing them registers
what they have.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from vla.core.shown import brief

PLUGINS = "VLA_PLUGINS"


def load_plugins(group: str, error: type[Exception]) -> list[Any]:
    """Imports the modules of VLA_PLUGINS, and returns what installed packages name in a group.

    Raises `error` for a module that can't be imported.
    """
    for module in filter(None, os.environ.get(PLUGINS, "").split(",")):
        try:
            import_module(module.strip())
        except ImportError as problem:
            raise error(f"{PLUGINS} names {brief(module)}: {problem}") from problem
    return [entry.load() for entry in entry_points(group=group)]
