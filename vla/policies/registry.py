"""Policy types by name.

A folder of `vla.policies` with a `policy.py` is a type, named as the folder. Types of other
packages come from the entry points of the group `vla_ros.policies`, or from modules named by the
environment variable VLA_PLUGINS, separated by commas, which call `register`. A checkpoint can only
name one of these types; it cannot cause another import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla.core.registry import Registry
from vla.core.shown import brief
from vla.policies.base import PolicyType
from vla.policies.config import CheckpointError

DEFAULT = "instructvla"  # of a config.json without a type

POLICY_TYPES: Registry[PolicyType[Any, Any]] = Registry(
    "policy type",
    "vla_ros.policies",
    CheckpointError,
    {
        path.parent.name: f"vla.policies.{path.parent.name}.policy:POLICY"
        for path in sorted(Path(__file__).parent.glob("*/policy.py"))
    },
)
register = POLICY_TYPES.register


def policy_type(name: str) -> PolicyType[Any, Any]:
    """The type of that name. Raises CheckpointError that lists the known ones."""
    return POLICY_TYPES[name]


def preset(name: str) -> Any:
    """The configuration of a named size, of any type. Raises CheckpointError."""
    known = presets()
    if name not in known:
        raise CheckpointError(f"unknown preset {brief(name)}; known: {', '.join(sorted(known))}")
    return known[name]


def presets() -> dict[str, Any]:
    """The configurations of named sizes of all types."""
    types = (POLICY_TYPES[name] for name in POLICY_TYPES.names())
    return {name: config for kind in types for name, config in kind.presets().items()}
