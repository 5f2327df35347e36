"""What readers of released weights share: files of torch, statistics, what came of them."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.contract.embodiment import EmbodimentContract
from vla.contract.normalization import (
    ABSOLUTE,
    BINARY,
    LARGEST,
    MOST_DIMENSIONS,
    RELATIVE,
    NormStats,
)
from vla.core.files import checked_numbers, read_json, require_regular
from vla.core.shown import brief, listed, shown_path
from vla.core.text import one_line
from vla.policies.config import CheckpointError
from vla.policies.loaded import Loaded

MOST_STATISTICS = 100_000_000  # Bytes.


@dataclass
class Converted:
    """A converted model."""

    config: Any  # of its policy type
    weights: dict[str, torch.Tensor]  # by our names
    loaded: list[Loaded]  # what each source gave
    random: dict[str, int]  # parameters of weights that no source gave, by name


def read_torch(path: str | Path) -> Any:
    """What torch.save wrote, tensors left on disk until they are used; nothing of it is run.

    Raises CheckpointError where it can't be read, or holds objects other than tensors.
    """
    require_regular(path, CheckpointError)
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # Of pickle, zip files and torch alike.
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise CheckpointError(
                f"{shown_path(path)} holds objects that are no tensors, whose code is not run "
                "here; save its state dict alone with torch.save, and convert that"
            ) from error
        reason = one_line(str(error).strip().split("\n")[0].rstrip("."))
        raise CheckpointError(
            f"{shown_path(path)} cannot be read: {reason}; fetch it again"
        ) from error


def contract_cameras(contract: EmbodimentContract, count: int) -> tuple[str, ...]:
    """Names of the reference camera and then of others, so many of them. Raises CheckpointError."""
    names = sorted(
        (camera.name for camera in contract.cameras), key=lambda n: n != contract.reference_camera
    )
    if len(names) < count:
        raise CheckpointError(
            f"the model takes {count} cameras, but contract '{contract.name}' has {len(names)}"
        )
    return tuple(names[:count])


def data_sets(path: str | Path) -> list[str]:
    """Keys of the data sets in a released dataset_statistics.json. Raises CheckpointError."""
    return sorted(_statistics(path))


def _statistics(path: str | Path) -> dict[str, dict]:
    content = read_json(path, CheckpointError, MOST_STATISTICS, finite=False)
    path = shown_path(path)
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise CheckpointError(f"{path} is no mapping of data sets to statistics; fetch it again")
    return content


def _vector(content: dict, name: str, where: str) -> dict[str, Any]:
    vector = content.get(name)
    if not isinstance(vector, dict):
        raise CheckpointError(f"{where} has no statistics of '{name}'; fetch it again")
    return vector


def read_statistics(
    path: str | Path, key: str | None, contract: EmbodimentContract, uses_state: bool
) -> dict[str, NormStats]:
    """Normalisation out of a released dataset_statistics.json.

    key: of the data set in it; None where it has one only. Actions that its mask leaves out, or
    the gripper where there is no mask, are binary; everything else lies between the quantiles,
    angles too, as the authors have it. What else the file knows of the values is kept. Raises
    CheckpointError where the file, the key or its dimensions do not fit.
    """
    content = _statistics(path)
    if key is None and len(content) == 1:
        key = next(iter(content))
    if key not in content:
        raise CheckpointError(
            f"{shown_path(path)} has statistics of {listed(sorted(content))}; name one of "
            "them with --unnorm-key"
        )
    where = f"{shown_path(path)}: {one_line(key, 60)}"
    action = _vector(content[key], "action", where)
    mask = action.get("mask", [name != "gripper" for name in contract.action_names])
    if not isinstance(mask, list):
        raise CheckpointError(f"{where}: action: mask must be a list, got {brief(mask)}")
    kinds = tuple(RELATIVE if scaled else BINARY for scaled in mask)
    stats = {"action": _stats(action, contract.action_names, kinds, f"{where}: action")}
    if uses_state:
        every = (ABSOLUTE,) * len(contract.state_names)
        state = _vector(content[key], "proprio", where)
        stats["state"] = _stats(state, contract.state_names, every, f"{where}: proprio")
    else:
        stats["state"] = unread_state(contract)
    return stats


def in_units(stats: NormStats, units: Sequence[float]) -> NormStats:
    """Statistics of values [D] of which 1 is so many metres or radians, or 1 for neither."""
    factors = np.asarray(units)
    arrays = ("q01", "q99", "mean", "std", "min", "max")
    known = {name: value for name in arrays if (value := getattr(stats, name)) is not None}
    return replace(stats, **{name: value * factors for name, value in known.items()})


def unread_state(contract: EmbodimentContract) -> NormStats:
    """Of a policy without proprioception: a part of every checkpoint that acts, and never read."""
    one = np.ones(len(contract.state_names))
    return NormStats(contract.state_names, (ABSOLUTE,) * len(one), -one, one)


def _stats(entry: dict, names: tuple[str, ...], kinds: tuple[str, ...], where: str) -> NormStats:
    arrays = {
        name: np.array(
            checked_numbers(
                entry.get(name), f"{where}: {name}", CheckpointError, MOST_DIMENSIONS, LARGEST
            )
        )
        for name in ("q01", "q99", "mean", "std", "min", "max")
        if name in entry or name.startswith("q")
    }
    lengths = {len(kinds), *map(len, arrays.values())} - {len(names)}
    if lengths:
        raise CheckpointError(f"{where} has {min(lengths)} values, the contract {len(names)}")
    return NormStats(names, kinds, **arrays)
