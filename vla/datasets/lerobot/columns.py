"""Columns of parquet files as arrays, for any list or number type of other tools."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.meta import NUMBERS, STORED


def number_column(table: pa.Table, name: str, where: str) -> np.ndarray:
    """A column of numbers, or of lists of them that are equally long, as float64 [N, D].

    Raises DatasetError where it holds anything else, a gap, NaN or infinity, or a number that
    float32 cannot hold.
    """
    flat, rows = _flat(table, name, where)
    kind = flat.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DatasetError(f"{where}: {name} holds {kind}, not numbers; correct the mapping")
    if flat.null_count:
        raise DatasetError(f"{where}: {name} has gaps; leave the episode out")
    values = flat.to_numpy(zero_copy_only=False).astype(np.float64)
    if not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise DatasetError(f"{where}: {name} holds NaN or infinity; leave the episode out")
    return values.reshape(rows, -1) if rows else values.reshape(0, 1)


def whole_column(table: pa.Table, name: str, where: str) -> np.ndarray:
    """A column of whole numbers [N], one a row. Raises DatasetError where it is none."""
    flat, rows = _flat(table, name, where)
    if not pa.types.is_integer(flat.type) or flat.null_count or len(flat) != rows:
        raise DatasetError(
            f"{where}: {name} holds {table.column(name).type} or gaps, not one whole number a row; "
            "write it again"
        )
    try:
        return flat.to_numpy(zero_copy_only=False).astype(np.int64)
    except (OverflowError, ValueError) as error:
        raise DatasetError(f"{where}: {name} holds numbers that are too large") from error


def _flat(table: pa.Table, name: str, where: str) -> tuple[pa.Array, int]:
    """The values of a column, row by row, and the number of rows."""
    try:
        column = table.column(name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([])
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        rows = len(column)
        while _is_list(column.type):
            if column.null_count:
                raise DatasetError(f"{where}: {name} has gaps; leave the episode out")
            lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
            if len(lengths) > 1:
                raise DatasetError(
                    f"{where}: {name} has rows of {int(lengths[0])} to {int(lengths[-1])} values; "
                    "leave the episode out"
                )
            column = column.flatten()
    except (pa.ArrowException, KeyError) as error:
        raise DatasetError(f"{where}: {name} cannot be read; fetch the file again") from error
    return column, rows


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def odd_type(entry: Mapping[str, Any], kind: pa.DataType) -> str:
    """How a column's type differs from what info.json claims; "" where it does not.

    The width of numbers does not matter, and that of lists is only known where the type fixes it.
    """
    if isinstance(kind, pa.ExtensionType):
        kind = kind.storage_type
    dtype, inner, values = entry["dtype"], kind, 1
    while _is_list(inner):
        values = values * inner.list_size if pa.types.is_fixed_size_list(inner) else 0
        inner = inner.value_type
    if dtype == STORED:
        return "" if pa.types.is_struct(inner) else f"images, but the column holds {one_line(kind)}"
    claims = {
        "bool": pa.types.is_boolean(inner),
        "string": pa.types.is_string(inner) or pa.types.is_large_string(inner),
    }
    claims |= dict.fromkeys((name for name in NUMBERS if "int" in name), pa.types.is_integer(inner))
    claims |= dict.fromkeys(
        (name for name in NUMBERS if "float" in name), pa.types.is_floating(inner)
    )
    if not claims.get(dtype, True):
        return f"{dtype}, but the column holds {one_line(kind)}"
    size = math.prod(entry.get("shape", [1]))
    if values and values != size:
        return f"{size} values a row, but the column holds {values}"
    return ""
