"""Episodes of LeRobot data sets as footage, whatever contract they were recorded for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from vla.bags.dataset_to_bag import kept_episodes
from vla.core.text import one_line
from vla.datasets.lerobot.dataset import stored_frame
from vla.datasets.lerobot.index import EPISODE, INDEX, read_info
from vla.datasets.lerobot.meta import (
    NUMBERS,
    STORED,
    VIDEO,
    DatasetInfo,
    EpisodeMeta,
    read_table,
)
from vla.datasets.lerobot.tracks import (
    FRAME,
    TASK,
    TIME,
    instructions_of,
    known_tasks,
    rows_of,
)
from vla.datasets.lerobot.vectors import row_reader
from vla.datasets.plausible import names_of
from vla.datasets.video import VideoFrames
from vla.playback.footage import (
    INSTRUCTION,
    CameraTrack,
    EpisodeFacts,
    Mark,
    Numbers,
    Picture,
    PlaybackError,
    Recorded,
    StreamFacts,
    Words,
)

# Features that count frames rather than say what happened.
COUNTING = (TIME, FRAME, EPISODE, INDEX, TASK)
PREFIXES = ("observation.images.", "observation.")


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a LeRobot data set."""
    return (folder / "meta" / "info.json").is_file()


def dataset_facts(folder: Path) -> list[EpisodeFacts]:
    """What is known of each episode. Raises DatasetError where the data set can't be read."""
    info, kept = read_info(folder), kept_episodes(folder)
    return [_facts(info, episode, kept.get(episode.index, {})) for episode in info.episodes]


def _facts(info: DatasetInfo, episode: EpisodeMeta, kept: dict[str, Any]) -> EpisodeFacts:
    """kept: what the report of the conversion says of the episode."""
    said = list(dict.fromkeys(episode.tasks or filter(None, [episode.instruction])))
    notes = {"instructions": "; ".join(said)} if len(said) > 1 else {}
    notes |= {n: str(kept[n]) for n in ("bag", "note", "checkpoint_id") if kept.get(n)}
    return EpisodeFacts(
        name=f"{info.folder}:{episode.index}",
        instruction=said[0] if said else "",
        outcome=one_line(kept.get("outcome", "")),
        seconds=episode.length / info.fps,
        size=None,
        rate=info.fps,
        cameras=tuple(CameraTrack(_short(name), episode.length) for name in _cameras(info)),
        marks=_marks(kept, info.fps),
        streams=tuple(
            StreamFacts(name, f"{entry['dtype']} {entry.get('shape', [1])}", episode.length)
            for name, entry in info.features.items()
        ),
        notes=notes,
    )


class DatasetFootage:
    """One episode of a data set. Raises DatasetError where it can't be read."""

    def __init__(self, folder: Path, index: int):
        """index: of the episode. Raises PlaybackError where there is none of that number."""
        info = read_info(folder)
        found = next((e for e in info.episodes if e.index == index), None)
        if found is None:
            known = [episode.index for episode in info.episodes]
            raise PlaybackError(
                f"{folder} has no episode {index}: it has {len(known)}, from {min(known)} to "
                f"{max(known)}"
            )
        self.dataset, self.index = folder, index
        self._info, self._episode = info, found
        self.facts = _facts(info, found, kept_episodes(folder).get(index, {}))
        self._video = VideoFrames()

    def pictures(self) -> Iterator[Picture | Words]:
        """See Footage."""
        return self._frames([])

    def everything(self) -> Iterator[Recorded]:
        """See Footage."""
        names = [
            name
            for name, entry in self._info.features.items()
            if entry["dtype"] in NUMBERS and name not in COUNTING
        ]
        return self._frames(names)

    def flaws(self) -> list[str]:
        """See Footage: data sets are read as a whole or refused."""
        return []

    def _frames(self, features: list[str]) -> Iterator[Any]:
        """Each frame's instruction where it changes, these features of it, and its pictures."""
        info, episode = self._info, self._episode
        where = f"{episode.data}, episode {episode.index}"
        table = read_table(episode.data, features, (TASK, EPISODE))
        rows = rows_of(table, info, episode)
        read = row_reader(rows, info, where)
        values = {name: read(name) for name in features}
        said = instructions_of(rows, episode, known_tasks(info), where)
        changes = {
            next(run)[0]: text for text, run in groupby(enumerate(said), lambda entry: entry[1])
        }
        for frame in range(episode.length):
            time = frame / info.fps
            if changes.get(frame):
                yield Words(time, INSTRUCTION, changes[frame])
            for name, columns in values.items():
                labels = tuple(names_of(info.features[name]))
                yield Numbers(time, _short(name), labels, columns[frame])
            for name in _cameras(info):
                decode = partial(stored_frame, info, episode, name, frame, self._video)
                yield Picture(time, _short(name), decode)


def _cameras(info: DatasetInfo) -> list[str]:
    return [name for name, entry in info.features.items() if entry["dtype"] in (VIDEO, STORED)]


def _short(name: str) -> str:
    for prefix in PREFIXES:
        if name.startswith(prefix) and name != prefix:
            return name.removeprefix(prefix)
    return name


def _marks(kept: dict[str, Any], rate: float) -> tuple[Mark, ...]:
    """Sub-tasks in the report of the conversion; none where they can't be read."""
    try:
        return tuple(
            Mark(entry["frame"] / rate, one_line(entry["name"])) for entry in kept["subtasks"]
        )
    except (KeyError, TypeError):
        return ()
