"""The robots that a checkpoint acts for: an embodiment contract and normalisation statistics each.

contract.yaml and norm_stats.json of a checkpoint's first robot are in its folder, those of further
robots in robots/NAME; such a folder can be opened as a checkpoint, with the same weights for that
robot.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from vla.contract.embodiment import (
    ContractError,
    EmbodimentContract,
    dimension_kinds,
    load_contract,
)
from vla.contract.normalization import (
    WRAPPING,
    NormalizationError,
    NormStats,
    read_norm_stats,
    write_norm_stats,
)
from vla.policies.config import CheckpointError

ROBOTS = "robots"
CONTRACT = "contract.yaml"
NORM_STATS = "norm_stats.json"


@dataclass(frozen=True)
class Robot:
    """A robot that a model has learned or is about to learn."""

    contract: EmbodimentContract
    # Of "state" and "action"; empty for a model that has not learned to act.
    stats: dict[str, NormStats]


def checkpoint_folder(folder: str | Path) -> Path:
    """The checkpoint's folder, given that or the folder of a robot in it."""
    folder = Path(folder)
    return folder.parent.parent if folder.parent.name == ROBOTS else folder


def robot_folder(folder: str | Path, index: int, contract: EmbodimentContract) -> Path:
    """The folder of a checkpoint's or a run's robot of that index."""
    return Path(folder) if index == 0 else Path(folder) / ROBOTS / contract.name


def read_robot(folder: str | Path) -> Robot:
    """The robot of a folder. Raises CheckpointError, one sentence."""
    folder = Path(folder)
    try:
        contract = load_contract(folder / CONTRACT)
        return Robot(contract, read_stats(folder, contract))
    except ContractError as error:
        raise CheckpointError(str(error)) from error


def read_robots(folder: str | Path) -> list[Robot]:
    """All robots of a checkpoint, its first one first. Raises CheckpointError."""
    folder = checkpoint_folder(folder)
    others = sorted(path.parent for path in (folder / ROBOTS).glob(f"*/{CONTRACT}"))
    return [read_robot(place) for place in (folder, *others)]


def write_robots(folder: str | Path, robots: list[Robot]) -> None:
    """Writes contracts and statistics into a checkpoint's folder."""
    for index, robot in enumerate(robots):
        place = robot_folder(folder, index, robot.contract)
        place.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(robot.contract.to_dict(), sort_keys=False)
        (place / CONTRACT).write_text(text)
        if robot.stats:
            write_norm_stats(robot.stats, place / NORM_STATS)


def read_stats(folder: str | Path, contract: EmbodimentContract) -> dict[str, NormStats]:
    """Statistics of a folder; empty where it has none. Raises CheckpointError if they don't fit."""
    path = Path(folder) / NORM_STATS
    if not path.exists():
        return {}
    try:
        names = {"state": contract.state_names, "action": contract.action_names}
        stats = read_norm_stats(path, names)
    except NormalizationError as error:
        raise CheckpointError(str(error)) from error
    for vector, expected in dimension_kinds(contract).items():
        entry = stats[vector]
        for name, kind, usual in zip(entry.names, entry.kinds, expected, strict=True):
            # The authors' models normalise angles by quantiles; but a length never wraps.
            if kind in WRAPPING and usual not in WRAPPING:
                raise CheckpointError(
                    f"{path}: '{vector}' has '{name}' as {kind}, but in contract "
                    f"'{contract.name}' it is {usual}; take the statistics of this robot"
                )
    return stats
