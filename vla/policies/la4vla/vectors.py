"""States and actions as the model has them: between bounds, padded and masked.

A robot's own values come first, in its order. What is padding is zero wherever the model reads it,
enters no loss, and is left out of its answers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.contract.normalization import NormStats
from vla.policies.config import CheckpointError
from vla.policies.la4vla.config import LA4VLAConfig


def padded(values: np.ndarray, size: int) -> np.ndarray:
    """Values [..., D] followed by zeros [..., size]."""
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, size - values.shape[-1])])


def used(count: int, size: int) -> np.ndarray:
    """Bool [size]: which of so many values a robot with `count` of them has."""
    return np.arange(size) < count


def bounded_stats(config: LA4VLAConfig, stats: dict[str, NormStats]) -> dict[str, NormStats]:
    """Statistics whose bounds are those that the configuration asks for.

    Raises CheckpointError where the least and largest values were not measured.
    """
    if config.bounds == "quantiles":
        return stats
    found = {}
    for vector, own in stats.items():
        if own.min is None or own.max is None:
            raise CheckpointError(
                f"bounds are extremes, but the statistics of '{vector}' have no min and max; "
                "measure them again, or set bounds to quantiles"
            )
        found[vector] = replace(own, q01=own.min, q99=own.max)
    return found


def require_room(config: LA4VLAConfig, contract: EmbodimentContract) -> None:
    """Raises CheckpointError where a robot has more values than the model's sizes."""
    for name, most, own in (
        ("state", config.max_state, len(contract.state_names)),
        ("action", config.max_action, len(contract.action_names)),
    ):
        if own > most:
            raise CheckpointError(
                f"robot '{contract.name}' has {own} values of {name}, the model has room for "
                f"{most}; set model.max_{name} to {own} or more"
            )
