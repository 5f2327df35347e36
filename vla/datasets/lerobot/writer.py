"""Writes LeRobot data sets, version 3.0: many episodes to a parquet and a video file.

    with LeRobotWriter("datasets/mine", contract) as writer:
        for ... in episodes:
            images = writer.begin()               # or EpisodeImages(folder, ...) in another process
            for ... in frames:
                images.add({"front": pixels, "wrist": pixels})
            writer.add(images.finish(states, actions, instructions))

The folder appears when the block ends, whole; after an exception there is nothing. Images go to the
disk one by one. Beside LeRobot's files, meta/ holds the contract and norm_stats.json. A data set
without images, of episodes by episode_without_images, says so in meta/info.json.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import yaml

from vla.contract.embodiment import EmbodimentContract, dimension_kinds
from vla.contract.normalization import SMALLEST_SPANS, from_summary, wrap_angles, write_norm_stats
from vla.core.locks import lock_file
from vla.core.statistics import RunningStatistics
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import CONTRACT_FILE
from vla.datasets.lerobot.description import (
    ACTION,
    STATE,
    features_of,
    plain_number,
    schema_of,
    write_tasks,
)
from vla.datasets.lerobot.episode_files import (
    IMAGES,
    NO_IMAGES,
    STORED,
    STORED_FILE,
    VIDEO,
    EpisodeFiles,
    EpisodeImages,
)
from vla.datasets.lerobot.meta import WITHOUT_IMAGES
from vla.datasets.lerobot.origins import EpisodeOrigin
from vla.datasets.lerobot.statistics import FeatureStatistics, PixelStatistics
from vla.datasets.video import VideoJoiner

# Of an OSError, after which nothing more can be written.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
STORAGES = (VIDEO, STORED, NO_IMAGES)
REPORT_FILE = "conversion.json"
NORM_STATS_FILE = "norm_stats.json"
CHUNK_FILES = 1000
# Of so many at a time, the list of episodes is written.
LISTED_EPISODES = 1000
EPISODES_FILE = "meta/episodes/chunk-000/file-000.parquet"
MEGABYTE = 1_000_000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


@dataclass
class _File:
    """Where the next episode goes: number of the file, and what it holds [bytes]."""

    number: int = 0
    size: int = 0
    frames: int = 0

    @property
    def names(self) -> dict[str, int]:
        return {
            "chunk_index": self.number // CHUNK_FILES,
            "file_index": self.number % CHUNK_FILES,
        }

    def full(self, more: int, limit: int) -> bool:
        """Whether a new file has to begin; an episode is never split."""
        return self.size > 0 and self.size + more > limit

    def next(self) -> None:
        self.number, self.size, self.frames = self.number + 1, 0, 0


class LeRobotWriter:
    """Writes one data set; see the module's text.

    storage: as of EpisodeImages, or "none" for no images. data_size, video_size: of a file, about
    [bytes]. Raises DatasetError where the folder exists, or another process is writing it.
    """

    def __init__(
        self,
        folder: str | Path,
        contract: EmbodimentContract,
        storage: str = VIDEO,
        data_size: int = 100 * MEGABYTE,
        video_size: int = 200 * MEGABYTE,
    ):
        if storage not in STORAGES:
            raise DatasetError(f"unknown storage '{storage}'; known: {', '.join(STORAGES)}")
        self.folder, self.contract, self.storage = Path(folder), contract, storage
        self._limits = {"data": data_size, "video": video_size}
        self.temporary = _reserve(self.folder)
        self._lock = (self.temporary / "lock").open("w")
        if not lock_file(self._lock):
            raise DatasetError(f"another process is writing {self.folder}; wait for its end")
        for entry in self.temporary.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else None
        self.episodes = 0
        self.frames = 0
        self._rows: list[dict[str, Any]] = []
        self._tasks: dict[str, int] = {}
        self._data = _File()
        self._writer: parquet.ParquetWriter | None = None
        self._list: parquet.ParquetWriter | None = None
        cameras = contract.cameras if storage != NO_IMAGES else ()
        self._videos = {camera.name: _File() for camera in cameras}
        self._joiners: dict[str, VideoJoiner] = {}
        self._pixels = {camera.name: PixelStatistics() for camera in cameras}
        self._statistics = FeatureStatistics()
        names = {"state": contract.state_names, "action": contract.action_names}
        self._norm = {vector: RunningStatistics(entry) for vector, entry in names.items()}
        self._begun = 0
        self._features = features_of(contract, storage)
        self._schema = schema_of(self._features)

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.abandon()

    def episode_folder(self) -> Path:
        """A folder for the images of one more episode; EpisodeImages creates it."""
        self._begun += 1
        return self.temporary / "episodes" / f"{self._begun:06d}"

    def begin(self) -> EpisodeImages:
        """An episode to fill in this process."""
        return EpisodeImages(self.episode_folder(), self.contract, self.storage)

    def add(self, episode: EpisodeFiles, origin: EpisodeOrigin | None = None) -> int:
        """Appends a finished episode, whose own folder is deleted; returns its index.

        origin: of an episode that was converted; kept in the list of episodes. Either all episodes
        have one, or none.
        """
        index, length = self.episodes, len(episode.states)
        for text in episode.instructions:
            self._tasks.setdefault(text, len(self._tasks))
        kinds = dimension_kinds(self.contract)
        for vector, values in (("state", episode.states), ("action", episode.actions)):
            self._norm[vector].add(wrap_angles(values, kinds[vector]))
        columns = self._columns(episode)
        row = {
            "episode_index": index,
            "tasks": list(dict.fromkeys(episode.instructions)),
            "length": length,
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        row |= {f"data/{name}": value for name, value in self._add_data(episode, columns).items()}
        if self.storage == VIDEO:
            for camera in self.contract.cameras:
                row |= self._add_video(camera.name, episode)
        for name, values in columns.items():
            described = self._statistics.add(name, values)
            row |= {f"stats/{name}/{kind}": value for kind, value in described.items()}
        for name, pixels in episode.pixels.items():
            self._pixels[name].merge(pixels)
            for kind, value in pixels.summary().items():
                row[f"stats/{IMAGES}{name}/{kind}"] = value
        if origin is not None:
            row |= origin.columns()
        self._rows.append(row)
        if len(self._rows) == LISTED_EPISODES:
            self._list_episodes()
        self.episodes += 1
        self.frames += length
        shutil.rmtree(episode.folder)
        return index

    def finish(self, texts: Mapping[str, str] = MappingProxyType({})) -> None:
        """Writes what describes the data set, and puts it in its place.

        texts: further files in meta/, by name. Raises DatasetError where no episode was added; then
        there is no data set.
        """
        if not self.episodes:
            self.abandon()
            raise DatasetError(f"no episode for {self.folder}")
        self._list_episodes()
        self._close_files()
        shutil.rmtree(self.temporary / "episodes", ignore_errors=True)
        meta = self.temporary / "meta"
        write_tasks(self._tasks, meta / "tasks.parquet")
        statistics = self._statistics.summary()
        statistics |= {IMAGES + name: pixels.summary() for name, pixels in self._pixels.items()}
        (meta / "info.json").write_text(json.dumps(self._info(), indent=4) + "\n")
        (meta / "stats.json").write_text(json.dumps(statistics, indent=4) + "\n")
        (meta / CONTRACT_FILE).write_text(
            yaml.safe_dump(self.contract.to_dict(), sort_keys=False, allow_unicode=True)
        )
        kinds = dimension_kinds(self.contract)
        stats = {
            vector: from_summary(
                running.summary(), running.names, kinds[vector], SMALLEST_SPANS[vector]
            )
            for vector, running in self._norm.items()
        }
        write_norm_stats(stats, meta / NORM_STATS_FILE)
        for name, text in texts.items():
            (meta / name).write_text(text)
        (self.temporary / "lock").unlink()
        os.rename(self.temporary, self.folder)
        self._lock.close()

    def abandon(self) -> None:
        """Deletes what was written."""
        self._close_files()
        shutil.rmtree(self.temporary, ignore_errors=True)
        self._lock.close()

    def _close_files(self) -> None:
        for writer in (self._writer, self._list):
            if writer is not None:
                writer.close()
        self._writer = self._list = None
        joiners, self._joiners = self._joiners, {}
        for joiner in joiners.values():
            joiner.close()

    def _list_episodes(self) -> None:
        """Writes what is known of the last episodes, of which only so many are in memory."""
        if not self._rows:
            return
        if self._list is None:
            table = pa.Table.from_pylist(self._rows)
            path = self.temporary / EPISODES_FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            self._list = parquet.ParquetWriter(path, table.schema)
        self._list.write_table(pa.Table.from_pylist(self._rows, self._list.schema))
        self._rows = []

    def _columns(self, episode: EpisodeFiles) -> dict[str, np.ndarray]:
        """The values of every feature but the images, [N] or [N, D]."""
        length = len(episode.states)
        rows = np.arange(length)
        return {
            STATE: episode.states,
            ACTION: episode.actions,
            "timestamp": (rows / self.contract.rate).astype(np.float32),
            "frame_index": rows,
            "episode_index": np.full(length, self.episodes),
            "index": self.frames + rows,
            "task_index": np.array([self._tasks[text] for text in episode.instructions]),
            "next.done": rows == length - 1,
        }

    def _add_data(self, episode: EpisodeFiles, columns: dict[str, np.ndarray]) -> dict[str, int]:
        """Writes an episode's rows; returns which file has them."""
        stored = episode.folder / STORED_FILE
        size = 4 * (episode.states.size + episode.actions.size) + 40 * len(episode.states)
        size += stored.stat().st_size if self.storage == STORED else 0
        if self._writer is not None and self._data.full(size, self._limits["data"]):
            self._writer.close()
            self._writer = None
            self._data.next()
        if self._writer is None:
            path = self.temporary / DATA_PATH.format(**self._data.names)
            path.parent.mkdir(parents=True, exist_ok=True)
            # PNG does not get smaller.
            compression = "none" if self.storage == STORED else "snappy"
            self._writer = parquet.ParquetWriter(path, self._schema, compression=compression)
        table = pa.table({name: _array(values) for name, values in columns.items()})
        for images in _stored_tables(stored) if self.storage == STORED else (None,):
            part = table if images is None else table.slice(images[0], len(images[1]))
            if images is not None:
                for name in images[1].column_names:
                    part = part.append_column(name, images[1].column(name))
            self._writer.write_table(part.select(self._schema.names).cast(self._schema))
        names = self._data.names
        self._data.size += size
        return names

    def _add_video(self, camera: str, episode: EpisodeFiles) -> dict[str, Any]:
        """Appends an episode's video; returns its columns for meta/episodes."""
        key, source, file = IMAGES + camera, episode.folder / f"{camera}.mp4", self._videos[camera]
        size = source.stat().st_size
        if file.full(size, self._limits["video"]):
            self._joiners.pop(camera).close()
            file.next()
        if camera not in self._joiners:
            path = self.temporary / VIDEO_PATH.format(video_key=key, **file.names)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._joiners[camera] = VideoJoiner(path)
        self._joiners[camera].append(source)
        begins, file.size = file.frames, file.size + size
        file.frames += len(episode.states)
        return {
            f"videos/{key}/chunk_index": file.names["chunk_index"],
            f"videos/{key}/file_index": file.names["file_index"],
            f"videos/{key}/from_timestamp": begins / self.contract.rate,
            f"videos/{key}/to_timestamp": file.frames / self.contract.rate,
        }

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": "v3.0",
            "robot_type": self.contract.name,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": self._limits["data"] // MEGABYTE,
            "video_files_size_in_mb": self._limits["video"] // MEGABYTE,
            "fps": plain_number(self.contract.rate),
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self.storage == VIDEO else None,
            "features": self._features,
            **({WITHOUT_IMAGES: True} if self.storage == NO_IMAGES else {}),
        }


@contextmanager
def converted_dataset(
    folder: str | Path, contract: EmbodimentContract, storage: str, report: Callable[[], str]
) -> Iterator[LeRobotWriter]:
    """A writer for what is converted; the data set has the report in meta/ when the block ends.

    Where no episode was added, or after an exception, there is none. Raises DatasetError where the
    folder exists or cannot be written.
    """
    writer = LeRobotWriter(folder, contract, storage)
    try:
        yield writer
        if writer.episodes:
            writer.finish({REPORT_FILE: report()})
        else:
            writer.abandon()
    except OSError as error:
        writer.abandon()
        raise DatasetError(f"cannot write {folder}: {error.strerror or error}") from error
    except BaseException:
        writer.abandon()
        raise


def _reserve(folder: Path) -> Path:
    """The hidden folder in which a data set grows. Raises DatasetError where there is one."""
    if folder.exists():
        raise DatasetError(f"{folder} exists already; choose another name, or delete it")
    temporary = folder.absolute().parent / f".{folder.absolute().name}.part"
    try:
        temporary.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"cannot create {folder}: {error.strerror}") from error
    return temporary


def _array(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    flat = pa.array(np.ascontiguousarray(values).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _stored_tables(path: Path) -> Iterator[tuple[int, pa.Table]]:
    """First row and images of each part of a file, one part in memory."""
    with parquet.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            yield first, table
            first += len(table)
