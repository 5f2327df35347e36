"""An RLDS data set on disk: its folder, splits and files, as `tfds` lays them out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.core.files import read_json
from vla.core.shown import brief, first_few, listed
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.meta import MOST_EPISODES, whole
from vla.datasets.rlds.features import FEATURES_FILE, RldsFeatures, read_features

INFO_FILE = "dataset_info.json"
MOST_INFO_BYTES = 2**28  # It may hold statistics.
MOST_FILES = 100_000
_NAME = re.compile(r"(?P<name>.+)\.tfrecord-(?P<number>\d{5,})-of-(?P<count>\d{5,})")


@dataclass(frozen=True)
class TFRecordFile:
    """One file, or the part of it that is wanted."""

    path: Path
    episodes: int  # that it holds, as dataset_info.json says
    first: int  # number in the split of its first episode
    begin: int  # of the wanted ones, counted in the file
    end: int


@dataclass(frozen=True)
class RldsSource:
    """One split of a data set."""

    folder: Path
    split: str
    features: RldsFeatures
    files: tuple[TFRecordFile, ...]  # those with a wanted episode, in order

    @property
    def episodes(self) -> int:
        """How many are wanted."""
        return sum(file.end - file.begin for file in self.files)


def open_source(path: str | Path, split: str = "train", chosen: slice = slice(None)) -> RldsSource:
    """A split of a data set, or the chosen episodes of it; only their files need to be there.

    path: the folder with features.json, or the one above it. Raises DatasetError where something is
    missing or unknown.
    """
    folder = _folder(Path(path))
    info = read_json(folder / INFO_FILE, DatasetError, MOST_INFO_BYTES, finite=False)
    where = f"{folder}/{INFO_FILE}"
    if not isinstance(info, dict):
        raise DatasetError(f"{where} must be a mapping, got {brief(info)}; fetch it again")
    kind = info.get("fileFormat") or "tfrecord"
    if kind != "tfrecord":
        raise DatasetError(
            f"{where} says that the files are {brief(kind)}, and only tfrecord can be read; write "
            "the data set again as that"
        )
    lengths = _lengths(info, split, where)
    files = _wanted(_files(folder, split, len(lengths)), lengths, chosen)
    if not files:
        raise DatasetError(
            f"{folder}: none of the {sum(lengths)} episodes of '{split}' is chosen; name others"
        )
    if missing := [file.path for file in files if not file.path.is_file()]:
        names = first_few((file.name for file in missing), 3)
        raise DatasetError(
            f"{folder} lacks {len(missing)} of {len(files)} files: {names}; fetch them, or "
            "convert a part by --episodes"
        )
    return RldsSource(folder, split, read_features(folder), files)


def _folder(path: Path) -> Path:
    """The folder with the description, which may be that of a version under the named one."""
    if (path / FEATURES_FILE).is_file() or (path / INFO_FILE).is_file():
        return path
    below = sorted(file.parent for file in path.glob(f"*/{FEATURES_FILE}"))
    if len(below) == 1:
        return below[0]
    if below:
        versions = listed(folder.name for folder in below)
        raise DatasetError(f"{path} has several versions: {versions}; name one of their folders")
    raise DatasetError(
        f"{path} has no {FEATURES_FILE}: it is no data set of tfds; name the folder of its version"
    )


def _lengths(info: dict[str, Any], split: str, where: str) -> list[int]:
    """How many episodes each file of a split has."""
    entries = info.get("splits")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DatasetError(f"{where}: splits is {brief(entries)}, not a list; fetch it again")
    entry = next((entry for entry in entries if entry.get("name") == split), None)
    if entry is None:
        known = listed(str(entry.get("name")) for entry in entries)
        raise DatasetError(f"{where} has no split {brief(split)}; it has: {known}")
    counts = entry.get("shardLengths")
    if not isinstance(counts, list) or not 0 < len(counts) <= MOST_FILES:
        raise DatasetError(
            f"{where}: the split '{split}' does not say how many episodes each file has "
            "(shardLengths); fetch it again"
        )
    # Whole numbers of 64 bits are texts in the JSON of protocol buffers.
    numbers = [
        int(c) if isinstance(c, str) and c.isdecimal() and len(c) < 10 else c for c in counts
    ]
    return [whole({"shardLengths": n}, "shardLengths", where, 0, MOST_EPISODES) for n in numbers]


def _files(folder: Path, split: str, count: int) -> list[Path]:
    """The path of each file, named as those that are there."""
    names = set()
    for file in folder.iterdir():
        found = _NAME.fullmatch(file.name)
        if found and found["name"].endswith(f"-{split}") and int(found["count"]) == count:
            names.add(found["name"])
    if len(names) != 1:
        there = f"those of {listed(sorted(names))}" if names else "none"
        raise DatasetError(
            f"{folder} must have files NAME-{split}.tfrecord-00000-of-{count:05d} of one name, it "
            f"has {there}; fetch them, or take others away"
        )
    (name,) = names
    return [folder / f"{name}.tfrecord-{number:05d}-of-{count:05d}" for number in range(count)]


def _wanted(paths: list[Path], lengths: list[int], chosen: slice) -> tuple[TFRecordFile, ...]:
    """The files that hold a chosen episode."""
    begin, end, _ = chosen.indices(sum(lengths))
    files, first = [], 0
    for path, length in zip(paths, lengths, strict=True):
        low, high = max(begin - first, 0), min(end - first, length)
        if low < high:
            files.append(TFRecordFile(path, length, first, low, high))
        first += length
    return tuple(files)
