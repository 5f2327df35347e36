"""metadata.yaml of a rosbag2 bag, checked before it is used.

A bag may come from elsewhere. The files that its metadata name must be in its folder, directly or
as links, or the bag is refused. A bag without metadata.yaml, as a killed `ros2 bag record` leaves
it, is described by its files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vla.bags.metadata_copy import INFO, MOST_NODES, checked_custom_data, copied_custom_data
from vla.bags.storage import (
    MCAP,
    SQLITE3,
    STORAGES,
    FileSummary,
    file_summary,
)
from vla.bags.writer import (
    COMPLETE_KEY,
    METADATA_FILE,
    METADATA_VERSION,
    NO_START_TIME,
    BagError,
    dump_yaml,
)
from vla.core.files import (
    MOST_NUMBER,
    checked_number,
    checked_text,
    inside,
    read_yaml,
    require_regular,
)
from vla.core.locks import lock_file
from vla.core.replacing import replace_text
from vla.core.shown import brief, shown_path

_MOST_BYTES = 16_000_000
_FILE_NAME = re.compile(r"[^.].*\.(mcap|db3)(\.zstd)?")


@dataclass(frozen=True)
class BagMetadata:
    """What metadata.yaml says. Times in nanoseconds; counts are those at the last flush."""

    files: tuple[Path, ...]  # in their order, each in the bag's folder
    message_count: int
    start_time: int
    duration: int
    topics: dict[str, int]
    types: dict[str, str]
    custom_data: dict[str, str]
    storage: str = MCAP  # "mcap" or "sqlite3"


def is_bag(folder: str | Path) -> bool:
    """Whether a folder has metadata.yaml, or the files of a bag that lost it."""
    folder = Path(folder)
    return (folder / METADATA_FILE).is_file() or bool(_files_in(folder))


def read_metadata(folder: str | Path) -> BagMetadata:
    """Reads metadata.yaml, or without one describes the bag by reading all its files.

    Custom data that metadata.yaml lost come from the copy in the file. Raises BagError when there
    is no bag, or its metadata are not rosbag2's or name a file outside of the folder.
    """
    folder = Path(folder)
    info = load_info(folder)
    found = parse_info(folder, info)
    if COMPLETE_KEY in found.custom_data:
        return found
    # From another recorder, or rewritten by a tool that drops custom data.
    custom = copied_custom_data(found.files, found.storage) | found.custom_data
    return replace(found, custom_data=custom)


def load_info(folder: Path) -> dict[str, Any]:
    """The content of metadata.yaml, or its substitute; see read_metadata()."""
    path = folder / METADATA_FILE
    if not path.exists():
        if not _files_in(folder):
            raise BagError(f"{shown_path(folder)} is not a bag: it has no {METADATA_FILE}")
        return info_of_files(folder)
    content = read_yaml(path, BagError, _MOST_BYTES, MOST_NODES)
    info = content.get(INFO) if isinstance(content, dict) else None
    if not isinstance(info, dict):
        raise BagError(
            f"{shown_path(path)} is not the metadata of a rosbag2 bag: it has no '{INFO}'; "
            "'ros2 bag reindex' rebuilds it"
        )
    return info


def parse_info(folder: Path, info: Mapping[str, Any]) -> BagMetadata:
    """Checks the content of metadata.yaml. Raises BagError that names the entry."""
    where = shown_path(folder / METADATA_FILE)
    entries = _list(info, "topics_with_message_count", where)
    topics, types = {}, {}
    for entry in entries:
        listed = _mapping(entry, "topic_metadata", where)
        name = checked_text(listed.get("name"), f"{where}: name of a topic", BagError)
        topics[name] = _count(entry, "message_count", where)
        types[name] = checked_text(listed.get("type", ""), f"{where}: type of {name}", BagError)
    storage = info.get("storage_identifier", MCAP)
    if storage not in STORAGES:
        raise BagError(
            f"{where}: the storage is {brief(storage)}, and only mcap and sqlite3 can be read; "
            "turn the bag into mcap by 'ros2 bag convert'"
        )
    mode = str(info.get("compression_mode") or "none").lower()
    form = str(info.get("compression_format") or "zstd").lower()
    if mode not in ("none", "file", "message", "storage") or form != "zstd":
        raise BagError(
            f"{where}: the compression {brief(mode)} by {brief(form)} can't be read, only zstd by "
            "file or by message; turn the bag into one by 'ros2 bag convert'"
        )
    files = tuple(_file(folder, name, where) for name in _list(info, "relative_file_paths", where))
    if not files:
        raise BagError(f"{where} names no file; 'ros2 bag reindex' rebuilds it")
    return BagMetadata(
        files=files,
        message_count=_count(info, "message_count", where),
        start_time=_count(_mapping(info, "starting_time", where), "nanoseconds_since_epoch", where),
        duration=_count(_mapping(info, "duration", where), "nanoseconds", where),
        topics=topics,
        types=types,
        custom_data=checked_custom_data(info, where),
        storage=storage,
    )


def update_custom_data(folder: str | Path, changes: Mapping[str, str]) -> BagMetadata:
    """Adds to or replaces the custom data of a bag atomically; returns the result.

    Only metadata.yaml changes, not the copy in the file. Raises BagError when there is no bag, it
    is being written or completed, or metadata.yaml is a link or cannot be written.
    """
    folder = Path(folder)
    metadata = read_metadata(folder)
    require_no_links(folder, ())
    path = folder / METADATA_FILE
    require_regular(metadata.files[0], BagError)
    try:
        with metadata.files[0].open("rb") as stream:
            if not lock_file(stream):
                raise BagError(f"{folder} is being written or completed just now; try again later")
            info = load_info(folder)
            info["custom_data"] = checked_custom_data(info, path) or metadata.custom_data
            info["custom_data"] = info["custom_data"] | dict(changes)
            replace_text(path, dump_yaml({INFO: info}), durable=True)
    except OSError as error:
        raise BagError(f"cannot change {path}: {error.strerror}") from error
    return read_metadata(folder)


def info_of_files(folder: Path) -> dict[str, Any]:
    """The content of a missing metadata.yaml, from reading all files of the bag."""
    files = _files_in(folder)
    storage = SQLITE3 if ".db3" in files[0].name else MCAP
    where = f"{shown_path(folder)} has no {METADATA_FILE}, and one of its files"
    summaries = [_summary(_file(folder, file.name, where), storage) for file in files]
    return describe(folder, files, storage, summaries)


def describe(
    folder: Path, files: list[Path], storage: str, summaries: list[FileSummary]
) -> dict[str, Any]:
    """The content of metadata.yaml for files with these contents, without custom data."""
    topics: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        for topic in summary.topics:
            known = topics.setdefault(
                topic["topic_metadata"]["name"], {**topic, "message_count": 0}
            )
            known["message_count"] += topic["message_count"]
    return {
        "version": METADATA_VERSION,
        "storage_identifier": storage,
        **span_of(summaries),
        "message_count": sum(summary.message_count for summary in summaries),
        "topics_with_message_count": list(topics.values()),
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file.name for file in files],
        "files": [
            {"path": file.name, **span_of([summary]), "message_count": summary.message_count}
            for file, summary in zip(files, summaries, strict=True)
        ],
        "custom_data": {},
        "ros_distro": "unknown",
    }


def span_of(summaries: list[FileSummary]) -> dict[str, Any]:
    """Begin and duration as metadata.yaml holds them."""
    filled = [summary for summary in summaries if summary.message_count]
    begin = min((summary.start_time for summary in filled), default=NO_START_TIME)
    end = max((summary.end_time for summary in filled), default=begin)
    return {
        "duration": {"nanoseconds": end - begin},
        "starting_time": {"nanoseconds_since_epoch": begin},
    }


def _summary(path: Path, storage: str) -> FileSummary:
    state = require_regular(path, BagError)
    return _cached_summary(path, storage, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _cached_summary(path: Path, storage: str, size: int, changed: int) -> FileSummary:
    """Size and modification time identify the state of the file."""
    return file_summary(path, storage)


def _files_in(folder: Path) -> list[Path]:
    """Files of a bag in a folder, in the order of writing."""

    def order(path: Path) -> list[Any]:
        return [(part.isdigit(), int(part) if part.isdigit() else 0, part)
                for part in re.split(r"(\d+)", path.name)]  # fmt: skip

    try:
        found = [path for path in folder.iterdir() if _FILE_NAME.fullmatch(path.name)]
    except OSError:
        return []
    storages = {path.name.removesuffix(".zstd").rpartition(".")[2] for path in found}
    return sorted(found, key=order) if len(storages) == 1 else []


def _file(folder: Path, name: Any, where: str) -> Path:
    path = inside(folder, name, where, BagError)
    if not path.exists():
        # Until version 4, the paths began with the folder's name.
        others = (folder / path.name, path.with_name(f"{path.name}.zstd"))
        path = next((other for other in others if other.exists()), path)
    return path


def require_no_links(folder: Path, files: Iterable[Path]) -> None:
    """Raises BagError where a file of a bag, or its metadata.yaml, is a link.

    Data sets of Hugging Face, DVC or git-annex consist of links to shared files, so such bags are
    read like any other, and never changed.
    """
    for path in (folder / METADATA_FILE, *files):
        try:
            linked = path.resolve() != folder.resolve() / path.relative_to(folder)
        except (OSError, RuntimeError):
            linked = True
        if linked:
            raise BagError(
                f"{shown_path(path)} is a link, and nothing is written through links; make a copy "
                f"of the bag by 'cp -rL', and change that"
            )


def _mapping(info: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = info.get(key) if isinstance(info, dict) else None
    if not isinstance(value, dict):
        raise BagError(f"{where}: '{key}' must be a mapping, got {brief(value)}")
    return value


def _list(info: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = info.get(key)
    if not isinstance(value, list):
        raise BagError(f"{where}: '{key}' must be a list, got {brief(value)}")
    return value


def _count(info: Mapping[str, Any], key: str, where: str) -> int:
    number = info.get(key)
    return checked_number(number, f"{where}: '{key}'", BagError, 0, MOST_NUMBER - 1, whole=True)
