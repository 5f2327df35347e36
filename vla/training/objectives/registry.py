"""Objectives by name: each file of this folder with an OBJECTIVE, and those of other packages."""

from __future__ import annotations

from pathlib import Path

from vla.core.registry import Registry
from vla.policies.config import CheckpointError
from vla.training.config import TrainConfig
from vla.training.objectives.base import Objective

_INTERFACE = ("__init__", "base", "registry")

OBJECTIVES: Registry[type[Objective]] = Registry(
    "stage",
    "vla_ros.objectives",
    CheckpointError,
    {
        path.stem: f"vla.training.objectives.{path.stem}:OBJECTIVE"
        for path in sorted(Path(__file__).parent.glob("*.py"))
        if path.stem not in _INTERFACE
    },
)


def objective_of(config: TrainConfig) -> Objective:
    """The objective of a run. Raises CheckpointError for one that is not known."""
    return OBJECTIVES[config.stage](config)
