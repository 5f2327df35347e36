"""Segments that a model made, kept episode by episode, so that a run can stop at any time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vla.annotation.record_file import RecordFile
from vla.core.configuration import bounded, read_dataclass
from vla.datasets.frames import DatasetError
from vla.language_action.segments import (
    MOST_SEGMENTS,
    Segment,
    Segmentation,
    check_segments,
)

RECORDS_FILE = "segment_records.jsonl"
_HEADER = {"vla_ros_segment_records": 1}


@dataclass(frozen=True)
class SegmentRecord:
    """The segments of one episode."""

    episode: int = bounded(0, 0, 1e9)
    duration: float = bounded(0.0, 0, 1e6)  # of the episode [s]
    data: str = ""  # digest of the episode
    segments: tuple[Segment, ...] = field(default=(), metadata={"length": (0, MOST_SEGMENTS)})
    source: dict[str, Any] = field(default_factory=dict)  # who said it and how
    made: str = ""  # made_digest() of the source
    usage: dict[str, int] = field(default_factory=dict)  # tokens


class SegmentRecords(RecordFile[SegmentRecord]):
    """The records in the folder of a segmentation; see RecordFile."""

    def __init__(self, folder: str | Path):
        super().__init__(Path(folder) / RECORDS_FILE, _HEADER, _record, f"writing to {folder}")


def _record(value: Any, where: str) -> SegmentRecord:
    record = read_dataclass(SegmentRecord, value, where, DatasetError)
    check_segments(record.segments, record.duration)
    return record


class Identified(Protocol):
    """An episode that can be told from another one under its number."""

    @property
    def index(self) -> int:
        """Its number in the data set."""

    @property
    def digest(self) -> str:
        """Of its content."""


def segmentation_of(
    records: Mapping[int, SegmentRecord], episodes: Iterable[Identified], source: str
) -> Segmentation:
    """All that was kept of these episodes. source: the data set, as it is named in the result."""
    kept = {
        episode.index: records[episode.index]
        for episode in episodes
        if episode.index in records and records[episode.index].data == episode.digest
    }
    models = dict.fromkeys(str(record.source.get("model", "")) for record in kept.values())
    return Segmentation(
        source,
        ", ".join(models),
        {index: record.duration for index, record in kept.items()},
        {index: record.segments for index, record in kept.items()},
    )
