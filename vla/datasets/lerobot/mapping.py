"""How the features of another one's LeRobot data set become a contract's, as a file says it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.files import read_yaml
from vla.core.shown import brief
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.episode_files import IMAGES
from vla.datasets.lerobot.meta import is_number, is_whole

GRIPPERS = ("open", "closed")
# What `vla data convert` and `vla data annotate` put beside LeRobot's own files in meta/.
CONTRACT_FILE, ANNOTATIONS_FILE = "contract.yaml", "annotations.json"
MOST_COLUMNS, MOST_DROPPED = 1000, 10**6


@dataclass(frozen=True)
class LeRobotMapping:
    """How a data set's features become a contract's.

    cameras: feature of each contract camera; one that is left out is black. state, action: features
    whose columns, by state_columns and action_columns, are the contract's names in order.
    state_scale, action_scale: factor for each of these columns, which makes metres, radians and
    shares of them; the gripper's of the action is left to gripper_range: the values of the action's
    last column that become 0 and 1, by default 0 and 1 themselves. gripper: what that 1 means,
    "open" or "closed". binarize: values in between become 0 or 1, the next definite one in time.
    relabel: the motion of a step is the difference of the states around it, instead of the action.
    drop_first: steps at an episode's start that are left out, as the data set counts them.
    drop_wordless: episodes in which a frame has no instruction are left out, instead of refused.
    """

    cameras: dict[str, str]
    state: str = "observation.state"
    state_columns: tuple[int, ...] = ()
    action: str = "action"
    action_columns: tuple[int, ...] = ()
    gripper: str = "open"
    binarize: bool = False
    relabel: bool = False
    drop_first: int = 0
    drop_wordless: bool = False
    gripper_range: tuple[float, float] | None = None
    state_scale: tuple[float, ...] = ()
    action_scale: tuple[float, ...] = ()


def read_mapping(path: str | Path) -> LeRobotMapping:
    """Reads a mapping from YAML. Raises DatasetError that names an unknown or missing entry."""
    values = read_yaml(path, DatasetError)
    known = [entry.name for entry in fields(LeRobotMapping)]
    if not isinstance(values, dict) or "cameras" not in values or values.keys() - set(known):
        odd = values.keys() - set(known) if isinstance(values, dict) else ()
        what = f"unknown entries: {one_line(', '.join(odd))}" if odd else "it has no cameras"
        raise DatasetError(
            f"{path} is not a mapping of a LeRobot data set: {what}; known: {', '.join(known)}"
        )
    for name in ("state_columns", "action_columns", "state_scale", "action_scale", "gripper_range"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    for name, value in values.items():
        if wanted := _wanted(name, value):
            raise DatasetError(f"{path}: {name} must be {wanted}, not {brief(value)}")
    return LeRobotMapping(**values)


def _wanted(name: str, value: Any) -> str:
    """What an entry should be instead; "" where it is right."""
    if name == "cameras":
        texts = isinstance(value, dict) and all(
            isinstance(text, str) for pair in value.items() for text in pair
        )
        return "" if texts else "a feature for each camera"
    if name in ("state", "action"):
        return "" if isinstance(value, str) else "the name of a feature"
    if name == "gripper":
        return "" if value in GRIPPERS else f"one of {', '.join(GRIPPERS)}"
    if name in ("binarize", "relabel", "drop_wordless"):
        return "" if isinstance(value, bool) else "true or false"
    if name == "drop_first":
        return "" if is_whole(value) and 0 <= value <= MOST_DROPPED else "a number of steps"
    values = value if isinstance(value, tuple) else (None,)
    if name.endswith("_columns"):
        right = all(is_whole(column) and 0 <= column < MOST_COLUMNS for column in values)
        return "" if right else "a list of columns, counted from 0"
    if name == "gripper_range":
        right = len(values) == 2 and all(map(is_number, values)) and values[0] < values[1]
        return "" if right else "two numbers, the smaller first, such as [0, 100]"
    right = all(is_number(factor) and factor for factor in values)
    return "" if right else "a list of factors, one for each column"


def own_mapping(folder: str | Path, contract: EmbodimentContract) -> LeRobotMapping:
    """The mapping of a data set that carries its contract, as `vla data convert` writes it.

    Raises DatasetError where it carries none, ContractError where that is another one.
    """
    path = Path(folder) / "meta" / CONTRACT_FILE
    if not path.is_file():
        raise DatasetError(
            f"{folder} was not written by 'vla data convert' ({path} is missing): say by a mapping "
            "how its features become the contract's"
        )
    contract.require_same(load_contract(path), "ours", f"that of {folder}")
    return LeRobotMapping({camera.name: IMAGES + camera.name for camera in contract.cameras})
