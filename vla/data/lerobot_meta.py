"""What a LeRobot data set says of itself: features, episodes, tasks, where its files are.

Versions 2.1 (a parquet and a video file per episode) and 3.0 (many episodes to a file).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from vla.data.frames import DatasetError


@dataclass(frozen=True)
class Episode:
    """One episode.

    instruction: the first of its tasks. data, first_row: its rows are these of a parquet file.
    videos: by feature, the file and the time in it at which the episode begins [s]. tasks: all that
    it is made of.
    """

    index: int
    length: int
    instruction: str
    data: Path
    first_row: int
    videos: dict[str, tuple[Path, float]]
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetInfo:
    """A whole data set. features: by name, as in info.json."""

    folder: Path
    fps: float
    features: dict[str, dict[str, Any]]
    episodes: list[Episode]


def read_info(folder: str | Path) -> DatasetInfo:
    """Reads meta/. Raises DatasetError that names the file which is missing, damaged or unknown."""
    folder = Path(folder)
    info = _read_json(folder / "meta" / "info.json")
    try:
        version = str(info["codebase_version"])
        fps, features = float(info["fps"]), dict(info["features"])
        if version.startswith("v2"):
            episodes = _episodes_v2(folder, info)
        elif version.startswith("v3"):
            episodes = _episodes_v3(folder, info)
        else:
            raise DatasetError(f"{folder} is LeRobot {version}; v2.1 and v3.0 can be read")
    except (KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{folder}/meta is not as LeRobot writes it: {error!r}") from error
    if not episodes:
        raise DatasetError(f"{folder} has no episodes")
    return DatasetInfo(folder, fps, features, episodes)


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """A parquet file, or some of its columns. Raises DatasetError that names file and column."""
    try:
        return parquet.read_table(path, columns=None if columns is None else list(columns))
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); fetch it again") from error


def _video_keys(info: dict) -> list[str]:
    return [name for name, feature in info["features"].items() if feature["dtype"] == "video"]


def _episodes_v2(folder: Path, info: dict) -> list[Episode]:
    chunk_size, keys = int(info["chunks_size"]), _video_keys(info)
    episodes = []
    for entry in _read_json_lines(folder / "meta" / "episodes.jsonl"):
        index = int(entry["episode_index"])
        names = {"episode_chunk": index // chunk_size, "episode_index": index}
        videos = {
            key: (folder / info["video_path"].format(video_key=key, **names), 0.0) for key in keys
        }
        data = folder / info["data_path"].format(**names)
        tasks = _tasks_of(entry)
        episodes.append(Episode(index, int(entry["length"]), tasks[0], data, 0, videos, tasks))
    return episodes


def _episodes_v3(folder: Path, info: dict) -> list[Episode]:
    keys, episodes, first_rows = _video_keys(info), [], {}
    paths = sorted((folder / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    if not paths:
        raise DatasetError(f"{folder}/meta/episodes has no parquet files")
    for path in paths:
        for entry in read_table(path).to_pylist():
            file = int(entry["data/chunk_index"]), int(entry["data/file_index"])
            data = folder / info["data_path"].format(chunk_index=file[0], file_index=file[1])
            start = int(entry["dataset_from_index"])
            # Rows of a file begin with its first episode.
            first_rows.setdefault(data, start)
            videos = {}
            for key in keys:
                names = {
                    "video_key": key,
                    "chunk_index": int(entry[f"videos/{key}/chunk_index"]),
                    "file_index": int(entry[f"videos/{key}/file_index"]),
                }
                begins = float(entry[f"videos/{key}/from_timestamp"])
                videos[key] = folder / info["video_path"].format(**names), begins
            tasks = _tasks_of(entry)
            episodes.append(
                Episode(
                    int(entry["episode_index"]),
                    int(entry["length"]),
                    tasks[0],
                    data,
                    start - first_rows[data],
                    videos,
                    tasks,
                )
            )
    return episodes


def _tasks_of(entry: dict) -> tuple[str, ...]:
    return tuple(str(task) for task in entry.get("tasks") or [""])


def read_tasks(folder: str | Path) -> dict[int, str]:
    """The instructions by their index. Raises DatasetError where they can't be read."""
    meta = Path(folder) / "meta"
    try:
        if (meta / "tasks.parquet").is_file():
            columns = read_table(meta / "tasks.parquet").to_pydict()
            indices = columns.pop("task_index")
            # The texts are the index of a pandas table, which has a name or has none.
            (texts,) = columns.values()
            return {int(i): str(text) for i, text in zip(indices, texts, strict=True)}
        lines = _read_json_lines(meta / "tasks.jsonl")
        return {int(line["task_index"]): str(line["task"]) for line in lines}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"the tasks in {meta} are not as LeRobot writes them: {error!r}") from (
            error
        )


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise DatasetError(
            f"cannot read {path}: {error.strerror}; give the folder of a LeRobot data set"
        ) from error
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path} is not valid JSON: {error}") from error


def _read_json_lines(path: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path} is not valid JSON Lines: {error}") from error
