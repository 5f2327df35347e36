"""The frames of a whole LeRobot data set as arrays, read once per machine (vla.core.kept).

Reading 140 000 episodes, and checking them, takes minutes. What comes of it for a mapping and a
contract is kept, so that the next process only maps it. It is read again when a file of the data
set changes, or the code that reads it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from tqdm import tqdm

from vla.contract.embodiment import EmbodimentContract
from vla.core.findings import PROBLEM
from vla.core.kept import KeptFolder, keep, save_array, save_texts, save_values
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.index import read_info
from vla.datasets.lerobot.mapping import LeRobotMapping
from vla.datasets.lerobot.meta import DatasetInfo, EpisodeMeta, pattern_of
from vla.datasets.lerobot.tracks import (
    StoredEpisode,
    check_values,
    frames_per_step,
    has_words,
    known_tasks,
    read_stored,
    table_reader,
    track_of,
)

# Of the layout of what is kept.
_KIND = "lerobot-1"
# Of each episode: its index, length, first row, data file, and where its tasks begin and end;
# and the file of each video, and the time in it at which it begins.
_COLUMNS = ("episodes", "video_files", "video_begins")
# What is kept is of these.
_META = ("tasks.parquet", "tasks.jsonl", "episodes.jsonl", "episodes/chunk-*/*.parquet")


class EpisodeTable(Sequence[EpisodeMeta]):
    """All episodes of a data set, each made when it is asked for. Paths begin with its folder."""

    def __init__(self, kept: KeptFolder, folder: Path, cameras: Sequence[str]):
        self._kept, self._folder, self._cameras = kept, folder, list(cameras)

    def __len__(self) -> int:
        return len(self._kept.array("episodes"))

    @overload
    def __getitem__(self, index: int) -> EpisodeMeta: ...
    @overload
    def __getitem__(self, index: slice) -> list[EpisodeMeta]: ...
    def __getitem__(self, index: int | slice) -> EpisodeMeta | list[EpisodeMeta]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        row, files, begins = (self._kept.array(name)[numbers].tolist() for name in _COLUMNS)
        return self._episode(row, files, begins, self._path, self._task)

    def __iter__(self) -> Iterator[EpisodeMeta]:
        # Many episodes share a file, and tasks.
        path, task = functools.cache(self._path), functools.cache(self._task)
        columns = [self._kept.array(name).tolist() for name in _COLUMNS]
        rows = zip(*columns, strict=True)
        return (self._episode(row, files, begins, path, task) for row, files, begins in rows)

    def _episode(
        self,
        row: list[int],
        files: list[int],
        begins: list[float],
        path: Callable[[int], Path],
        task: Callable[[int], str],
    ) -> EpisodeMeta:
        own, length, first_row, data, begin, end = row
        tasks = tuple(task(number) for number in range(begin, end))
        videos = {
            camera: (path(file), at)
            for camera, file, at in zip(self._cameras, files, begins, strict=True)
        }
        first = tasks[0] if tasks else ""
        return EpisodeMeta(own, length, first, path(data), first_row, videos, tasks)

    def _path(self, number: int) -> Path:
        return self._folder / self._kept.text("paths", number)

    def _task(self, number: int) -> str:
        return self._kept.text("texts", int(self._kept.array("tasks")[number]))


def keep_tracks(
    info: DatasetInfo,
    mapping: LeRobotMapping,
    contract: EmbodimentContract,
    own: bool,
    as_stored: bool,
) -> KeptFolder:
    """The frames of a data set, and its episodes; see LeRobotEpisodes for the last two.

    info: its description. Arrays by frame: states [N, S], actions [N, A], frames [N], words [N];
    by episode that has words: ends [E], used [E], its number among all. Raises DatasetError where
    an episode can't be read, or a value contradicts the contract.
    """
    folder = info.folder.resolve()
    files = [folder / "meta" / "info.json"]
    files += (path for name in _META for path in sorted((folder / "meta").glob(name)))
    files += sorted(folder.glob(pattern_of(folder, info.data_path)))
    settings = f"{mapping}\n{contract}\n{own} {as_stored}\n{_code()}"

    def make(to: Path) -> None:
        _write(to, read_info(info.folder), mapping, contract, own, as_stored)

    try:
        return keep(_KIND, files, settings, make)
    except OSError as error:
        raise DatasetError(f"{info.folder} can't be read ({one_line(error)})") from error


@functools.cache
def _code() -> str:
    """Tells the code of this package from other versions of it."""
    folder = Path(__file__).parents[1]
    sources = sorted(folder.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _write(
    to: Path,
    info: DatasetInfo,
    mapping: LeRobotMapping,
    contract: EmbodimentContract,
    own: bool,
    as_stored: bool,
) -> None:
    every = 1 if as_stored else frames_per_step(info, contract)
    tasks = None if as_stored else known_tasks(info)
    read = table_reader(mapping)
    notes: list[str] = []
    # Small sets are read before anything is shown.
    episodes = tqdm(info.episodes, desc=f"reading {info.folder.name}", unit="episode", delay=5)
    stored = [read_stored(info, episode, mapping, contract, tasks, read) for episode in episodes]
    used = list(range(len(stored)))
    if tasks is not None:
        used = [number for number in used if has_words(stored[number])]
        stored = _with_words(stored, used, info.folder, notes)
    for finding in check_values(info, stored, mapping, contract, own):
        text = f"{finding.message}; {finding.cure}"
        if finding.level == PROBLEM:
            raise DatasetError(f"{info.folder}: {text}")
        notes.append(text)
    tracks = [track_of(entry, mapping, contract, every) for entry in stored]
    texts = _Numbered()
    words = [texts.number(text) for track in tracks for text in track.instructions]
    save_array(to, "states", np.concatenate([track.states for track in tracks]))
    save_array(to, "actions", np.concatenate([track.actions for track in tracks]))
    save_array(to, "frames", np.concatenate([track.frames for track in tracks]).astype(np.int32))
    save_array(to, "words", np.array(words, np.int32))
    save_array(to, "ends", np.cumsum([len(track.states) for track in tracks]))
    save_array(to, "used", np.array(used))
    save_values(to, "notes", notes)
    _write_episodes(to, info, texts)


def _with_words(
    stored: list[StoredEpisode], used: list[int], folder: Path, notes: list[str]
) -> list[StoredEpisode]:
    """The episodes that have instructions. Raises DatasetError where none has."""
    if not used:
        raise DatasetError(f"no episode of {folder} has an instruction; write them into its meta/")
    if len(used) < len(stored):
        notes.append(f"{len(stored) - len(used)} episodes without an instruction are left out")
    return [stored[number] for number in used]


def _write_episodes(to: Path, info: DatasetInfo, texts: _Numbered) -> None:
    paths, cameras = _Numbered(), info.video_keys
    tasks: list[int] = []
    rows, files, begins = [], [], []
    for episode in info.episodes:
        first = len(tasks)
        tasks += [texts.number(task) for task in episode.tasks]
        data = paths.number(episode.data.relative_to(info.folder).as_posix())
        rows.append([episode.index, episode.length, episode.first_row, data, first, len(tasks)])
        videos = [episode.videos[camera] for camera in cameras]
        files.append([paths.number(path.relative_to(info.folder).as_posix()) for path, _ in videos])
        begins.append([begin for _, begin in videos])
    save_array(to, "episodes", np.array(rows, np.int64))
    save_array(to, "tasks", np.array(tasks, np.int32))
    save_array(to, "video_files", np.array(files, np.int32).reshape(len(rows), -1))
    save_array(to, "video_begins", np.array(begins, np.float64).reshape(len(rows), -1))
    save_texts(to, "texts", texts)
    save_texts(to, "paths", paths)


class _Numbered:
    """Texts, each stored once, by number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text, a new one where it has none."""
        return self._numbers.setdefault(text, len(self._numbers))

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)
