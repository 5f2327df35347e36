"""States and actions in rows of a LeRobot data set: features joined, columns picked and scaled."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from vla.contract.dimensions import Dimension
from vla.contract.embodiment import EmbodimentContract
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.columns import number_column, odd_type
from vla.datasets.lerobot.mapping import LeRobotMapping, features_in
from vla.datasets.lerobot.meta import DatasetInfo

# Gives the columns [N, D] float64 of one feature; raises DatasetError where it can't.
FeatureReader = Callable[[str], np.ndarray]


def states_of(
    read: FeatureReader, mapping: LeRobotMapping, contract: EmbodimentContract, where: str
) -> np.ndarray:
    """The states [N, S] float32 of an episode, in the contract's units.

    Raises DatasetError that begins with `where` for columns that are not as many as the contract
    has names, or that are too large for float32.
    """
    values = _picked(
        read, mapping.state, mapping.state_columns, mapping.state_scale, contract.state_names, where
    )
    for column, dimension in enumerate(contract.states):
        if mapping.state_gripper is not None and dimension.kind == "gripper":
            values[:, column] = _opening(values[:, column], mapping, dimension, contract)
    return _single(values, mapping.state, where)


def actions_of(
    read: FeatureReader, mapping: LeRobotMapping, contract: EmbodimentContract, where: str
) -> np.ndarray:
    """The actions [N, A] float32 of an episode, the gripper as it is stored; as states_of()."""
    values = _picked(
        read, mapping.action, mapping.action_columns, mapping.action_scale, contract.action_names,
        where,
    )  # fmt: skip
    return _single(values, mapping.action, where)


def row_reader(rows: pa.Table, info: DatasetInfo, where: str) -> FeatureReader:
    """Reads features of rows of a data file, as the data set claims them."""
    return lambda feature: _feature(rows, info, feature, where)


def joined_name(named: str | tuple[str, ...]) -> str:
    """A feature, or several that are joined, for an error."""
    return " + ".join(features_in(named))


def _picked(
    read: FeatureReader,
    named: str | tuple[str, ...],
    columns: tuple[int, ...],
    scale: tuple[float, ...],
    names: tuple[str, ...],
    where: str,
) -> np.ndarray:
    """The columns [N, D] of features, D as many as the contract has names."""
    values = np.hstack([read(feature) for feature in features_in(named)])
    chosen = columns or tuple(range(values.shape[1]))
    if len(chosen) != len(names) or max(chosen) >= values.shape[1]:
        raise DatasetError(
            f"{where}: {joined_name(named)} has {values.shape[1]} columns, of which {len(chosen)} "
            f"are taken; the contract has {len(names)}: {', '.join(names)}"
        )
    if scale and len(scale) != len(names):
        raise DatasetError(
            f"the mapping has {len(scale)} factors for {joined_name(named)}; give {len(names)}, "
            f"one each for {', '.join(names)}"
        )
    # The last column is what -1 picks.
    values = np.hstack([values, np.zeros((len(values), 1))])
    return values[:, list(chosen)] * (np.array(scale) if scale else 1.0)


def _feature(rows: pa.Table, info: DatasetInfo, feature: str, where: str) -> np.ndarray:
    """All columns [N, D] of one feature, as the data set claims them."""
    if odd := odd_type(info.features[feature], rows.schema.field(feature).type):
        raise DatasetError(
            f"{where}: {feature} is claimed to be {odd}; correct meta/info.json, or convert it"
        )
    values = number_column(rows, feature, where)
    claimed = math.prod(info.features[feature].get("shape", [values.shape[1]]))
    if claimed != values.shape[1]:
        raise DatasetError(
            f"{where}: {feature} has {values.shape[1]} columns, meta/info.json says {claimed}; "
            "correct its shape, or fetch the file again"
        )
    return values


def _opening(
    values: np.ndarray, mapping: LeRobotMapping, dimension: Dimension, contract: EmbodimentContract
) -> np.ndarray:
    """The state's gripper [N] in the contract's unit, from values as they are stored."""
    low, high = mapping.state_gripper_range or (0.0, 1.0)
    share = (values - low) / (high - low)
    opening = share if mapping.state_gripper == "open" else 1.0 - share
    if dimension.name == "gripper_closed":
        return 1.0 - opening
    in_metres = dimension.name == "gripper_width" or dimension.unit == "m"
    return opening * contract.gripper_open_width if in_metres else opening


def _single(values: np.ndarray, named: str | tuple[str, ...], where: str) -> np.ndarray:
    if not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise DatasetError(
            f"{where}: {joined_name(named)}, scaled, is infinite; correct the mapping"
        )
    return values.astype(np.float32)
