"""Policy types by name.

A folder of `vla.policies` with a `policy.py` is a type, called as the folder is. Types of other
packages come from the entry points of the group `vla_ros.policies`, or from modules that the
environment variable VLA_PLUGINS names, separated by commas, which call `register`. A checkpoint
only names a type; it never makes anything be imported that is not one of these.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from vla.core.plugins import PLUGINS, load_plugins
from vla.core.shown import brief
from vla.policies.base import PolicyType
from vla.policies.config import CheckpointError

DEFAULT = "instructvla"  # of a config.json without a type
GROUP = "vla_ros.policies"

_registered: dict[str, PolicyType] = {}


def register(policy_type: PolicyType) -> PolicyType:
    """Makes a type known under its name; a later one of the same name takes its place."""
    _registered[policy_type.name] = policy_type
    return policy_type


def policy_type(name: str) -> PolicyType:
    """The type of that name. Raises CheckpointError that names those that are known."""
    if name not in _registered:
        if name in _shipped():
            register(import_module(f"vla.policies.{name}.policy").POLICY)
        else:
            _import_plugins()
    if name not in _registered:
        known = ", ".join(sorted({*_registered, *_shipped()}))
        raise CheckpointError(
            f"unknown policy type {brief(name)}; known: {known}. One from another package is found "
            f"when that is installed, or when {PLUGINS} names its module"
        )
    return _registered[name]


def policy_types() -> list[PolicyType]:
    """All types: those that ship with the package, and those of other packages."""
    for name in _shipped():
        policy_type(name)
    _import_plugins()
    return list(_registered.values())


def preset(name: str) -> Any:
    """The configuration of a named size, of whichever type has it. Raises CheckpointError."""
    known = presets()
    if name not in known:
        raise CheckpointError(f"unknown preset {brief(name)}; known: {', '.join(sorted(known))}")
    return known[name]


def presets() -> dict[str, Any]:
    """The configurations of named sizes of all types."""
    return {name: config for kind in policy_types() for name, config in kind.presets().items()}


def _shipped() -> list[str]:
    return [path.parent.name for path in Path(__file__).parent.glob("*/policy.py")]


def _import_plugins() -> None:
    """Raises CheckpointError for a module that is not there."""
    for kind in load_plugins(GROUP, CheckpointError):
        register(kind)
