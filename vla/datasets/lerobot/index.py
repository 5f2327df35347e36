"""The rows and the video section of each episode of a LeRobot data set.

Versions 2.1 (a parquet and a video file per episode) and 3.0 (many episodes to a file). Rows are
found by their episode index: lists of episodes from other tools do not always name the right file.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vla.core.shown import brief
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.columns import whole_column
from vla.datasets.lerobot.meta import (
    MOST_EPISODES,
    MOST_ROWS,
    DatasetInfo,
    EpisodeMeta,
    is_number,
    path_in,
    pattern_of,
    read_description,
    read_lines,
    read_table,
    texts_of,
    whole,
)

EPISODE, INDEX = "episode_index", "index"
# Tolerance of an episode's duration in a video file, in frames.
SPAN_TOLERANCE = 1.5


def read_info(folder: str | Path) -> DatasetInfo:
    """Reads meta/ and finds the rows of each episode.

    Raises DatasetError that names the missing, damaged or unknown file, or a contradiction in
    meta/.
    """
    info = read_description(folder)
    episodes = _episodes_v2(info) if info.version == 2 else _episodes_v3(info)
    if not episodes:
        raise DatasetError(f"{folder} has no episodes; fetch meta/ again")
    seen: set[int] = set()
    for episode in episodes:
        if episode.index in seen:
            raise DatasetError(f"{folder}/meta lists episode {episode.index} twice; correct it")
        seen.add(episode.index)
    _check_claim(info, "total_episodes", info.claims.episodes, len(episodes), "episodes")
    frames = sum(episode.length for episode in episodes)
    _check_claim(info, "total_frames", info.claims.frames, frames, "frames")
    return replace(info, episodes=episodes)


def _check_claim(info: DatasetInfo, name: str, claimed: int | None, held: int, what: str) -> None:
    if claimed is not None and claimed != held:
        raise DatasetError(
            f"{info.folder}/meta/info.json: {name} is {claimed}, but the list of episodes has "
            f"{held} {what}; fetch meta/ again, or correct the number"
        )


def _episodes_v2(info: DatasetInfo) -> list[EpisodeMeta]:
    path, episodes = info.folder / "meta" / "episodes.jsonl", []
    for number, entry in enumerate(read_lines(path), start=1):
        where = f"{path}, line {number}"
        index = whole(entry, EPISODE, where, 0, MOST_EPISODES)
        length = whole(entry, "length", where, 1, MOST_ROWS)
        names = {"episode_chunk": index // info.chunks_size, EPISODE: index}
        videos = {
            key: (path_in(info.folder, info.video_path, names | {"video_key": key}), 0.0)
            for key in info.video_keys
        }
        data = path_in(info.folder, info.data_path, names)
        tasks = texts_of(entry.get("tasks"), where)
        first = tasks[0] if tasks else ""
        episodes.append(EpisodeMeta(index, length, first, data, 0, videos, tasks))
    return episodes


@dataclass(frozen=True)
class _Run:
    """Consecutive rows of one episode in a file."""

    path: Path
    first_row: int
    rows: int
    begins: int | None  # `index` of the first row, where there is one


def _episodes_v3(info: DatasetInfo) -> list[EpisodeMeta]:
    paths = sorted((info.folder / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    if not paths:
        raise DatasetError(f"{info.folder}/meta/episodes has no parquet files; fetch it again")
    runs, episodes = _Runs(info), []
    for path in paths:
        table = read_table(path)
        kept = [name for name in table.column_names if not name.startswith("stats/")]
        for number, entry in enumerate(table.select(kept).to_pylist()):
            episodes.append(_episode_v3(info, entry, f"{path}, row {number}", runs))
    return episodes


def _episode_v3(info: DatasetInfo, entry: dict, where: str, runs: _Runs) -> EpisodeMeta:
    index = whole(entry, EPISODE, where, 0, MOST_EPISODES)
    length = whole(entry, "length", where, 1, MOST_ROWS)
    names = {
        f"{part}_index": whole(entry, f"data/{part}_index", where, 0, MOST_EPISODES)
        for part in ("chunk", "file")
    }
    claimed = path_in(info.folder, info.data_path, names)
    first = whole(entry, "dataset_from_index", where, 0, MOST_ROWS)
    if entry.get("dataset_to_index") is not None:
        end = whole(entry, "dataset_to_index", where, 0, MOST_ROWS)
        if end - first != length:
            raise DatasetError(
                f"{where}: episode {index} has the length {length}, but the rows {first} to {end}; "
                "fetch meta/ again"
            )
    run = runs.find(index, claimed, length, first)
    videos = {key: _video_span(info, entry, key, length, where) for key in info.video_keys}
    tasks = texts_of(entry.get("tasks"), where)
    instruction = tasks[0] if tasks else ""
    return EpisodeMeta(index, length, instruction, run.path, run.first_row, videos, tasks)


def _video_span(
    info: DatasetInfo, entry: dict, key: str, length: int, where: str
) -> tuple[Path, float]:
    """The video file of an episode, and when the episode begins in it [s]."""
    column = f"videos/{key}/"
    names: dict[str, int | str] = {
        f"{part}_index": whole(entry, f"{column}{part}_index", where, 0, MOST_EPISODES)
        for part in ("chunk", "file")
    }
    begins, ends = entry.get(f"{column}from_timestamp"), entry.get(f"{column}to_timestamp")
    if not is_number(begins) or not 0 <= begins <= MOST_ROWS:
        raise DatasetError(
            f"{where}: {one_line(column)}from_timestamp is {brief(begins)}, not a time in the "
            "video; fetch meta/ again"
        )
    if ends is not None and (
        not is_number(ends) or abs((ends - begins) * info.fps - length) > SPAN_TOLERANCE
    ):
        raise DatasetError(
            f"{where}: the {length} frames at {info.fps:g} Hz lie from {begins:g} to "
            f"{brief(ends)} s of {one_line(key)}'s video, which is another length; correct fps, or "
            "fetch meta/ again"
        )
    return path_in(info.folder, info.video_path, names | {"video_key": key}), float(begins)


class _Runs:
    """The rows of each episode, by the contents of the data files."""

    def __init__(self, info: DatasetInfo):
        self._info = info
        self._by_file: dict[Path, dict[int, list[_Run]]] = {}
        self._searched = False

    def find(self, episode: int, claimed: Path, length: int, begins: int) -> _Run:
        """The rows of an episode: in the claimed file, or else in any.

        Raises DatasetError where there are none, or their number or index differs from the claim.
        """
        found = self._of(claimed).get(episode, []) if claimed.exists() else []
        if not found and not self._searched:
            folder = self._info.folder
            for path in sorted(folder.glob(pattern_of(folder, self._info.data_path))):
                self._of(path)
            self._searched = True
        if not found:
            found = [run for runs in self._by_file.values() for run in runs.get(episode, ())]
        if not found:
            what = "none of the data files holds its rows" if claimed.exists() else "it is missing"
            raise DatasetError(f"{claimed}, episode {episode}: {what}; fetch the data files again")
        run = found[0]
        if len(found) > 1 or run.rows != length:
            rows = sum(other.rows for other in found)
            pieces = f", in {len(found)} pieces" if len(found) > 1 else ""
            raise DatasetError(
                f"{run.path}, episode {episode}: {rows} of {length} rows{pieces}; fetch the file "
                "again"
            )
        if run.begins is not None and run.begins != begins:
            raise DatasetError(
                f"{run.path}, episode {episode}: its rows begin with index {run.begins}, but meta/ "
                f"says {begins}: two ways to find them that differ; fetch meta/ and data/ again"
            )
        return run

    def _of(self, path: Path) -> dict[int, list[_Run]]:
        if path not in self._by_file:
            self._by_file[path] = _runs_of(path)
        return self._by_file[path]


def _runs_of(path: Path) -> dict[int, list[_Run]]:
    # Not every tool writes the index, and the episode alone identifies the rows.
    table = read_table(path, [EPISODE], optional=[INDEX])
    episodes = whole_column(table, EPISODE, str(path))
    indices = whole_column(table, INDEX, str(path)) if INDEX in table.column_names else None
    changes = np.flatnonzero(np.diff(episodes)) + 1
    starts = [0, *changes] if len(episodes) else []
    runs: dict[int, list[_Run]] = {}
    for start, end in itertools.zip_longest(starts, changes, fillvalue=len(episodes)):
        begins = None if indices is None else int(indices[start])
        run = _Run(path, int(start), int(end - start), begins)
        runs.setdefault(int(episodes[start]), []).append(run)
    return runs
