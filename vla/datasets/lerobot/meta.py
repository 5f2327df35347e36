"""The description in a LeRobot data set's meta/: rate, features, tasks, file paths.

Numbers are bounded, and paths stay inside the folder.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

import pyarrow as pa
import pyarrow.parquet as parquet

from vla.core.files import read_json, read_json_lines, require_regular
from vla.core.shown import brief
from vla.core.text import one_line
from vla.datasets.frames import DatasetError

# More than any data set has.
FASTEST_RATE = 1000.0
MOST_LIST_BYTES = 2**28
MOST_ROWS, MOST_EPISODES, MOST_FEATURES, MOST_VALUES = 10**9, 10**7, 1000, 10**8
LONGEST_TASK = 10_000
VIDEO, STORED = "video", "image"
# Entry of meta/info.json, true for a data set that has no images and is to have none.
WITHOUT_IMAGES = "without_images"
NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
           "float16", "float32", "float64")  # fmt: skip
_PLACE = re.compile(r"\{([a-z_]+)(?::0?([0-9]{1,2})d)?\}")


@dataclass(frozen=True)
class EpisodeMeta:
    """One episode, its rows in one parquet file."""

    index: int
    length: int
    instruction: str  # the first of its tasks, "" where the list of episodes names none
    data: Path  # the parquet file
    first_row: int  # of the episode, in that file
    # By feature: the file, and the time in it at which the episode begins [s].
    videos: dict[str, tuple[Path, float]]
    tasks: tuple[str, ...] = ()  # all that the list of episodes names


@dataclass(frozen=True)
class Claims:
    """What meta/info.json says of the whole set; None where it says nothing."""

    episodes: int | None = None
    frames: int | None = None
    tasks: int | None = None


@dataclass(frozen=True)
class DatasetInfo:
    """A whole data set."""

    folder: Path
    fps: float
    features: dict[str, dict[str, Any]]  # by name, as in info.json
    episodes: Sequence[EpisodeMeta] = ()
    version: int = 2  # 2 or 3
    chunks_size: int = 1000
    data_path: str = ""
    video_path: str = ""
    claims: Claims = Claims()
    without_images: bool = False  # as meta/info.json says

    @property
    def video_keys(self) -> list[str]:
        """The features that lie in video files."""
        return [name for name, entry in self.features.items() if entry["dtype"] == VIDEO]


def read_description(folder: str | Path) -> DatasetInfo:
    """Reads meta/info.json alone, without episodes.

    Raises DatasetError that names the entry which is missing, of the wrong kind or absurd.
    """
    folder = Path(folder)
    path = folder / "meta" / "info.json"
    if not path.exists():
        raise DatasetError(f"{path} is missing; give the folder of a LeRobot data set")
    info = read_json(path, DatasetError)
    if not isinstance(info, dict):
        raise DatasetError(f"{path} holds no mapping; fetch it again")
    version = one_line(info.get("codebase_version"), 40)
    if not re.match(r"v?[23]\.\d", version):
        raise DatasetError(f"{folder} is LeRobot {version}; v2.1 and v3.0 can be read")
    fps = info.get("fps")
    if not is_number(fps) or not 0 < fps <= FASTEST_RATE:
        raise DatasetError(
            f"{path}: fps is {brief(fps)}, not a rate in frames a second; correct it"
        )
    features = _features(info.get("features"), path)
    number = 2 if version.lstrip("v").startswith("2") else 3
    videos = any(entry["dtype"] == VIDEO for entry in features.values())
    return DatasetInfo(
        folder,
        float(fps),
        features,
        version=number,
        chunks_size=whole(info, "chunks_size", str(path), 1, MOST_ROWS) if number == 2 else 1000,
        data_path=_template(info, "data_path", path),
        video_path=_template(info, "video_path", path) if videos else "",
        claims=Claims(
            *(
                whole(info, name, str(path), 0, MOST_ROWS) if info.get(name) is not None else None
                for name in ("total_episodes", "total_frames", "total_tasks")
            )
        ),
        without_images=_without_images(info, features, path),
    )


def _without_images(info: dict, features: dict[str, dict[str, Any]], path: Path) -> bool:
    value = info.get(WITHOUT_IMAGES, False)
    cameras = [name for name, entry in features.items() if entry["dtype"] in (VIDEO, STORED)]
    if not isinstance(value, bool) or (value and cameras):
        more = f" beside the images {one_line(', '.join(cameras))}" if cameras else ""
        raise DatasetError(
            f"{path}: {WITHOUT_IMAGES} is {brief(value)}{more}; leave it out, or fetch it again"
        )
    return value


def _features(features: Any, path: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(features, dict) or not 0 < len(features) <= MOST_FEATURES:
        raise DatasetError(f"{path}: features is no mapping of names; fetch it again")
    for name, entry in features.items():
        where = f"{path}: feature {brief(name)}"
        if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
            raise DatasetError(f"{where} says no dtype; fetch it again")
        shape = entry.get("shape", [1])
        sizes = shape if isinstance(shape, list) else [None]
        if not all(is_whole(size) and 0 < size <= MOST_VALUES for size in sizes) or (
            math.prod(sizes) > MOST_VALUES or len(sizes) > 8
        ):
            raise DatasetError(f"{where} has the shape {brief(shape)}; correct it")
        if len(name) > 200 or "\0" in name:
            raise DatasetError(f"{where} is no name; correct it")
    return features


def _template(info: dict, name: str, path: Path) -> str:
    value = info.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 500:
        raise DatasetError(f"{path}: {name} is {brief(value)}, not a path; fetch it again")
    return value


# What templates of data files are filled with, in v2.1 and v3.0.
_DATA_PLACES = ("episode_chunk", "episode_index", "chunk_index", "file_index")


def path_in(folder: Path, template: str, names: Mapping[str, int | str]) -> Path:
    """The path that a template such as "data/file-{file_index:03d}.parquet" gives, in a folder.

    Templates come from elsewhere: only these names are filled in, with widths up to 99, and the
    result stays in the folder. Raises DatasetError that names the template.
    """

    def put(match: re.Match) -> str:
        name, width = match[1], match[2]
        if name not in names:
            raise DatasetError(f"{folder}/meta/info.json: {brief(template)} names {brief(name)}, "
                               f"which is none of {', '.join(names)}; correct it")  # fmt: skip
        value = names[name]
        return str(value).zfill(int(width)) if width else str(value)

    filled = _PLACE.sub(put, template)
    bare = _PLACE.sub("", template)
    parts = PurePosixPath(filled).parts
    if "{" in bare or "}" in bare:
        raise DatasetError(
            f"{folder}/meta/info.json: {brief(template)} has something else in braces than a name "
            "and a width of at most 99; correct it"
        )
    if not parts or filled.startswith("/") or ".." in parts or not filled.isprintable():
        raise DatasetError(
            f"{folder}/meta/info.json: {brief(template)} leads out of the data set; correct it"
        )
    return folder / filled


def pattern_of(folder: Path, template: str) -> str:
    """A template of data files as a pattern for glob() of their folder.

    Only its placeholders match anything. Raises DatasetError as path_in() does.
    """
    path_in(folder, template, dict.fromkeys(_DATA_PLACES, 0))
    ends = [0, *(match.end() for match in _PLACE.finditer(template))]
    starts = [*(match.start() for match in _PLACE.finditer(template)), len(template)]
    pieces = (template[a:b] for a, b in zip(ends, starts, strict=True))
    return "*".join(glob.escape(piece) for piece in pieces)


def read_tasks(folder: str | Path) -> dict[int, str]:
    """The instructions by their index. Raises DatasetError where they can't be read."""
    meta = Path(folder) / "meta"
    path = meta / "tasks.parquet"
    if path.exists():
        columns = read_table(path).to_pydict()
        indices = columns.pop("task_index", None)
        texts = columns.pop("task", None) or next(iter(columns.values()), None)
        # The texts are the index of a pandas table, which has a name or has none.
        if indices is None or texts is None:
            raise DatasetError(f"{path} lacks the column task_index or the texts; fetch it again")
        pairs = list(zip(indices, texts, strict=True))
    else:
        path = meta / "tasks.jsonl"
        entries = read_lines(path)
        pairs = [(entry.get("task_index"), entry.get("task")) for entry in entries]
    tasks: dict[int, str] = {}
    for index, text in pairs:
        if not is_whole(index) or not isinstance(text, str) or index in tasks:
            raise DatasetError(
                f"{path}: task {brief(index)}, {brief(text)}, is no number with a text of its own; "
                "correct it"
            )
        if len(text) > LONGEST_TASK:
            raise DatasetError(f"{path}: task {index} has {len(text)} characters; shorten it")
        tasks[index] = text
    return tasks


def read_table(
    path: Path, columns: Sequence[str] | None = None, optional: Sequence[str] = ()
) -> pa.Table:
    """A parquet file, or some of its columns, and optional ones where it has them.

    Raises DatasetError that names file and column.
    """
    require_regular(path, DatasetError)
    try:
        with parquet.ParquetFile(path) as file:
            _require_bounded(file.metadata, path)
            held = file.schema_arrow.names
            if missing := [name for name in columns or () if name not in held]:
                raise DatasetError(
                    f"{path} has no column {one_line(', '.join(missing))}; it has: "
                    f"{one_line(', '.join(held), 400)}; fetch it again, or correct meta/info.json"
                )
            if len(set(held)) < len(held):
                raise DatasetError(f"{path} has two columns of one name; write it again")
            if columns is None:
                return file.read()
            return file.read(columns=[*columns, *(name for name in optional if name in held)])
    except (OSError, ValueError, KeyError, TypeError, MemoryError, pa.ArrowException) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} cannot be read ({one_line(error)}); fetch it again") from error


def _require_bounded(metadata: parquet.FileMetaData, path: Path) -> None:
    """Raises DatasetError where a few bytes of a file expand to more values than memory holds."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    for column in range(metadata.num_columns if groups else 0):
        values = sum(group.column(column).num_values for group in groups)
        if values > MOST_VALUES:
            raise DatasetError(f"{path} claims {values} values in a column; fetch it again")


def read_lines(path: Path) -> list[dict]:
    """The mappings of a JSON Lines file. Raises DatasetError."""
    entries = read_json_lines(path, DatasetError, MOST_LIST_BYTES)
    if not all(isinstance(entry, dict) for entry in entries):
        raise DatasetError(f"{path} holds a line that is no mapping; fetch it again")
    return entries


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def whole(entry: Mapping[str, Any], name: str, where: str, low: int, high: int) -> int:
    """A whole number of an entry. Raises DatasetError where it is none, or out of its bounds."""
    value = entry.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not is_whole(value) or not low <= value <= high:
        raise DatasetError(
            f"{where}: {name} is {brief(value)}, not a whole number from {low} to {high}; correct "
            "it"
        )
    return value


def texts_of(values: Iterable[Any] | None, where: str) -> tuple[str, ...]:
    """A list of texts. Raises DatasetError where it is none."""
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DatasetError(f"{where}: tasks is {brief(values)}, not a list of texts; correct it")
    return tuple(values)
