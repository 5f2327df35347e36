"""Whether the entries of a training configuration go together."""

from __future__ import annotations

from vla.core.shown import brief
from vla.policies.config import CheckpointError
from vla.training.config import TrainConfig
from vla.training.objectives.registry import objective_of
from vla.training.source_registry import ROBOT_SOURCES


def check_train_config(config: TrainConfig) -> None:
    """Raises CheckpointError that says what does not go together."""
    objective = objective_of(config)
    if config.schedule not in ("constant", "cosine"):
        raise CheckpointError(f"unknown schedule '{config.schedule}'; known: constant, cosine")
    if config.precision not in ("no", "bf16"):
        raise CheckpointError(f"unknown precision {brief(config.precision)}; known: no, bf16")
    objective.check()
    for entry in config.robot:
        if entry.contract and ROBOT_SOURCES[entry.kind].own_contract_only:
            raise CheckpointError(
                f"{entry.path}: {entry.kind} data is made for the run's own contract; leave the "
                "entry's contract out"
            )
