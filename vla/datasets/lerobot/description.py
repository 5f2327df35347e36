"""The description of a LeRobot data set that is written: features, columns, the list of tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from vla.contract.embodiment import EmbodimentContract
from vla.datasets.lerobot.episode_files import IMAGES, NO_IMAGES, STORED, STORED_TYPE, VIDEO

STATE, ACTION = "observation.state", "action"
_SCALARS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
    "next.done": "bool",
}


def features_of(contract: EmbodimentContract, storage: str) -> dict[str, dict[str, Any]]:
    """The features in info.json."""
    features: dict[str, dict[str, Any]] = {}
    for name, names in (
        (STATE, contract.state_names),
        (ACTION, contract.action_names),
    ):
        features[name] = {"dtype": "float32", "shape": [len(names)], "names": list(names)}
    for camera in contract.cameras if storage != NO_IMAGES else ():
        feature: dict[str, Any] = {
            "dtype": storage,
            "shape": [camera.height, camera.width, 3],
            "names": ["height", "width", "channels"],
        }
        if storage == VIDEO:
            feature["info"] = {
                "video.height": camera.height,
                "video.width": camera.width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": plain_number(contract.rate),
                "video.channels": 3,
                "has_audio": False,
            }
        features[IMAGES + camera.name] = feature
    for name, kind in _SCALARS.items():
        features[name] = {"dtype": kind, "shape": [1], "names": None}
    return features


def schema_of(features: dict[str, dict[str, Any]]) -> pa.Schema:
    """The columns of the data files."""
    fields = []
    for name, feature in features.items():
        if feature["dtype"] == VIDEO:
            continue
        if feature["dtype"] == STORED:
            kind = STORED_TYPE
        elif name in _SCALARS:
            kind = pa.bool_() if feature["dtype"] == "bool" else getattr(pa, feature["dtype"])()
        else:
            kind = pa.list_(pa.float32(), feature["shape"][0])
        fields.append((name, kind))
    return pa.schema(fields)


def write_tasks(tasks: dict[str, int], path: Path) -> None:
    """The instructions with their numbers, as pandas writes a table indexed by them."""
    table = pa.table({"task_index": list(tasks.values()), "__index_level_0__": list(tasks)})
    pandas = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [],
        "columns": [
            {
                "name": name,
                "field_name": field,
                "pandas_type": kind,
                "numpy_type": numpy,
                "metadata": None,
            }
            for name, field, kind, numpy in (
                ("task_index", "task_index", "int64", "int64"),
                (None, "__index_level_0__", "unicode", "object"),
            )
        ],
        "pandas_version": "2.0.0",
    }
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def plain_number(value: float) -> int | float:
    """A rate for JSON: 10 instead of 10.0."""
    return int(value) if value == int(value) else value
