"""Part of a data set, by whole episodes: some tasks, a few episodes of each, or a share of all.

Which episodes are drawn depends on their number alone, so that a smaller part lies in a larger one
and every run has the same. A run writes down which it took, with a digest, in its folder; another
run may name that file as its list.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from vla.core.files import checked_entries, checked_text, read_json
from vla.core.resources import given_or_shared
from vla.core.shown import brief, listed, shown_path
from vla.datasets.frames import DatasetError
from vla.datasets.sample import EpisodeDataset, RobotDataset, RobotSample
from vla.datasets.sources import RobotData
from vla.datasets.windows import Timeline
from vla.training.data import RobotSlice

MOST_LIST = 64_000_000  # bytes


@dataclass
class ChosenEpisodes:
    """The frames of some episodes of a data set."""

    dataset: EpisodeDataset
    episodes: np.ndarray  # their numbers in it, increasing
    name: str  # of the data, for messages
    digest: str  # of what was chosen: numbers, tasks and lengths
    annotated: np.ndarray | None = None  # those of `episodes` with annotations; None for all

    def __post_init__(self):
        self.contract = self.dataset.contract
        ends = np.asarray(self.dataset.episode_ends)
        starts = np.concatenate([[0], ends[:-1]])
        spans = zip(starts[self.episodes], ends[self.episodes], strict=True)
        self._rows = np.concatenate([np.arange(start, end) for start, end in spans])
        told = np.isin(self.episodes, self.episodes if self.annotated is None else self.annotated)
        self._annotated = np.repeat(told, (ends - starts)[self.episodes])

    def __len__(self) -> int:
        return len(self._rows)

    def sample(
        self, index: int, generator: np.random.Generator, images: bool = True
    ) -> RobotSample:
        """One frame of a chosen episode."""
        sample = self.dataset.sample(int(self._rows[index]), generator, images)
        if self._annotated[index]:
            return sample
        return replace(sample, annotation=None, answer=None)

    def states(self) -> np.ndarray:
        """States [N, S] of its frames."""
        return self.dataset.states()[self._rows]

    def actions(self) -> np.ndarray:
        """Actions [N, A] of its frames."""
        return self.dataset.actions()[self._rows]

    def timeline(self) -> Timeline:
        """Of its frames."""
        whole = self.dataset.timeline()
        ends = np.unique(np.searchsorted(self._rows, whole.ends))
        return Timeline(whole.times[self._rows], ends[ends > 0])

    @property
    def episode_ends(self) -> np.ndarray:
        """Frames up to and with each chosen episode."""
        lengths = np.diff(self.dataset.episode_ends, prepend=0)
        return np.cumsum(lengths[self.episodes])

    def episode_tasks(self) -> list[str]:
        """The task of each chosen episode."""
        tasks = self.dataset.episode_tasks()
        return [tasks[number] for number in self.episodes]


def chosen(entry: RobotData, dataset: RobotDataset) -> RobotDataset:
    """The episodes of a data set that its entry asks for; the data set itself where it asks none.

    Raises DatasetError where there are none, and where a list is of other data.
    """
    if not (
        entry.tasks
        or entry.per_task
        or entry.share < 1
        or entry.annotation_share < 1
        or entry.episode_list
    ):
        return dataset
    if not (hasattr(dataset, "episode_ends") and hasattr(dataset, "episode_tasks")):
        raise DatasetError(
            f"{shown_path(entry.path)}: data of kind '{entry.kind}' does not say where episodes "
            "end; leave out tasks, per_task, share, annotation_share and episode_list"
        )
    known = cast("EpisodeDataset", dataset)
    tasks, expected = known.episode_tasks(), ""
    if entry.episode_list:
        if entry.tasks or entry.per_task or entry.share < 1:
            raise DatasetError(
                f"{shown_path(entry.path)}: episode_list says which episodes are used; leave out "
                "tasks, per_task and share"
            )
        numbers, expected = _read_list(given_or_shared(entry.episode_list), len(tasks))
    else:
        numbers = _drawn(entry, tasks)
    digest = _digest(numbers, tasks, np.diff(known.episode_ends, prepend=0))
    if expected and digest != expected:
        raise DatasetError(
            f"{shown_path(entry.episode_list)} is a list of other data than "
            f"{shown_path(entry.path)}: its digest is {expected}, that of these episodes "
            f"{digest}; give the data that it was made of, or make a new list"
        )
    annotated = None
    if entry.annotation_share < 1:
        count = round(entry.annotation_share * len(numbers))
        annotated = np.array(_in_drawn_order(numbers)[:count], dtype=np.int64)
    return ChosenEpisodes(known, np.array(numbers, dtype=np.int64), entry.path, digest, annotated)


def _drawn(entry: RobotData, tasks: list[str]) -> list[int]:
    where = shown_path(entry.path)
    if unknown := [task for task in entry.tasks if task not in tasks]:
        raise DatasetError(
            f"{where} has no task {brief(unknown[0])}; it has: {listed(sorted(set(tasks)))}"
        )
    order = _in_drawn_order(range(len(tasks)))
    order = [number for number in order if not entry.tasks or tasks[number] in entry.tasks]
    if entry.share < 1:
        order = order[: max(1, round(entry.share * len(order)))]
    if entry.per_task:
        counts: Counter[str] = Counter()
        kept = []
        for number in order:
            counts[tasks[number]] += 1
            if counts[tasks[number]] <= entry.per_task:
                kept.append(number)
        order = kept
    if not order:
        raise DatasetError(f"{where}: no episode is left; ask for more")
    return sorted(order)


def _in_drawn_order(numbers: Iterable[int]) -> list[int]:
    """Episodes in a random order that is the same each time."""
    # Each number's place is drawn for itself, so that more episodes behind change nothing of it.
    return sorted(numbers, key=lambda number: np.random.default_rng([7, number]).random())


def _digest(numbers: list[int], tasks: list[str], lengths: np.ndarray) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the chosen numbers, tasks and lengths."""
    rows = [[number, tasks[number], int(lengths[number])] for number in numbers]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]


def _read_list(path: Path, count: int) -> tuple[list[int], str]:
    """The episodes and the digest of a list. count: of the data's episodes."""
    values: Any = read_json(path, DatasetError, MOST_LIST)
    where = shown_path(path)
    checked_entries(values, where, DatasetError, ("data", "digest", "episodes"))
    numbers = values.get("episodes")
    if not isinstance(numbers, list) or not numbers:
        raise DatasetError(f"{where} has no list 'episodes'; give one that a run wrote")
    for number in numbers:
        if type(number) is not int or not 0 <= number < count:
            raise DatasetError(
                f"{where}: {brief(number)} is no episode of the data, which has {count}; give the "
                "data that the list was made of"
            )
    if numbers != sorted(set(numbers)):
        raise DatasetError(f"{where}: the episodes must increase; give a list that a run wrote")
    return numbers, checked_text(values.get("digest"), f"{where}: digest", DatasetError, 64)


def note_chosen(output: Path, datasets: list[RobotDataset]) -> None:
    """Writes the list of each chosen part into a run's folder: episodes-1.json and so on.

    Raises DatasetError where the run began with other episodes.
    """
    whole = [part.dataset if isinstance(part, RobotSlice) else part for part in datasets]
    parts = [part for part in whole if isinstance(part, ChosenEpisodes)]
    for index, part in enumerate(parts, start=1):
        path = output / f"episodes-{index}.json"
        if path.exists():
            before = read_json(path, DatasetError, MOST_LIST)
            if not isinstance(before, dict) or before.get("digest") != part.digest:
                raise DatasetError(
                    f"{shown_path(path)}: the run began with other episodes than "
                    f"{shown_path(part.name)} has now; give another output folder"
                )
            continue
        values = {"data": part.name, "digest": part.digest, "episodes": part.episodes.tolist()}
        path.write_text(json.dumps(values) + "\n")
