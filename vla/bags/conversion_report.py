"""The report of a conversion: offsets, gaps and rates by stream, episodes kept and refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vla.bags.frames import BagEpisode
from vla.core.files import read_json_text
from vla.core.text import LONGEST_LINE, one_line
from vla.datasets.frames import DatasetError
from vla.observations.messages import NANOSECONDS

# An interval between two messages is a gap when it is this many times the median.
GAP = 1.5
MILLISECOND = 1e-3
GIGABYTE = 1e9


@dataclass
class StreamReport:
    """Messages of one stream, of one episode or several."""

    topic: str
    messages: int = 0
    seconds: float = 0.0  # that they span
    gaps: int = 0  # intervals that are longer than usual
    missing: int = 0  # messages that the gaps lack, by the stream's usual interval
    longest_gap: float = 0.0  # [s]
    dropped: int = 0  # messages that the recorder says it lost
    # Age of what frames took from the stream [s].
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def merge(self, other: StreamReport) -> None:
        """Adds the messages of another episode."""
        for name in ("messages", "seconds", "gaps", "missing", "dropped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest_gap = max(self.longest_gap, other.longest_gap)
        self.offsets = np.concatenate([self.offsets, other.offsets])

    def summary(self) -> dict[str, Any]:
        """Plain numbers."""
        p50, p95 = np.percentile(self.offsets, [50, 95]) if len(self.offsets) else (0.0, 0.0)
        return {
            "topic": self.topic,
            "messages": self.messages,
            "rate_hz": round(self.messages / self.seconds, 2) if self.seconds else 0.0,
            "offset_p50_ms": round(p50 / MILLISECOND, 3),
            "offset_p95_ms": round(p95 / MILLISECOND, 3),
            "gaps": self.gaps,
            "longest_gap_ms": round(self.longest_gap / MILLISECOND, 3),
            "missing": self.missing,
            "dropped": self.dropped,
        }


@dataclass
class EpisodeReport:
    """One bag that was kept."""

    bag: str
    frames: int
    seconds: float
    instructions: list[str]
    custom_data: dict[str, str]
    subtasks: list[dict[str, Any]]
    skipped: int  # frames without an image of their own; see FrameLog
    before: int
    streams: dict[str, StreamReport]
    episode_index: int = -1

    def summary(self) -> dict[str, Any]:
        """The episode's origin, and the contents of its bag."""
        known = ("episode_id", "outcome", "note", "checkpoint_id", "package_version", "complete")
        return {
            "episode_index": self.episode_index,
            "bag": self.bag,
            **{name: self.custom_data.get(name, "") for name in known},
            "instructions": self.instructions,
            "subtasks": self.subtasks,
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "skipped_frames": self.skipped,
            "samples_before_all_streams": self.before,
            "streams": {name: stream.summary() for name, stream in self.streams.items()},
        }


@dataclass(frozen=True)
class Refusal:
    """A bag that was left out, and why."""

    bag: str
    reason: str


@dataclass
class ConversionReport:
    """A whole conversion."""

    contract: str
    contract_id: str
    rate: float
    storage: str
    package_version: str
    kept: list[EpisodeReport] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    bag_bytes: int = 0  # of the bags that were kept
    wall_seconds: float = 0.0  # that it took

    def summary(self) -> dict[str, Any]:
        """As JSON has it."""
        minutes = max(self.wall_seconds, 1e-9) / 60
        return {
            "contract": self.contract,
            "contract_id": self.contract_id,
            "rate_hz": self.rate,
            "storage": self.storage,
            "package_version": self.package_version,
            "episodes_kept": len(self.kept),
            "episodes_refused": len(self.refused),
            "frames": sum(episode.frames for episode in self.kept),
            "seconds": round(sum(episode.seconds for episode in self.kept), 3),
            "skipped_frames": sum(episode.skipped for episode in self.kept),
            "bag_gigabytes": round(self.bag_bytes / GIGABYTE, 6),
            "wall_seconds": round(self.wall_seconds, 3),
            "gigabytes_per_minute": round(self.bag_bytes / GIGABYTE / minutes, 3),
            "streams": {n: stream.summary() for n, stream in self.streams().items()},
            "kept": [episode.summary() for episode in self.kept],
            "refused": [asdict(refusal) for refusal in self.refused],
        }

    def streams(self) -> dict[str, StreamReport]:
        """The streams of all episodes that were kept."""
        total: dict[str, StreamReport] = {}
        for episode in self.kept:
            for name, stream in episode.streams.items():
                total.setdefault(name, StreamReport(stream.topic)).merge(stream)
        return total

    def json(self) -> str:
        """The summary as JSON."""
        return json.dumps(self.summary(), indent=1, ensure_ascii=False) + "\n"

    def table(self) -> str:
        """The summary for people."""
        summary = self.summary()
        lines = [
            f"{summary['episodes_kept']} episodes kept, {summary['episodes_refused']} refused; "
            f"{summary['frames']} frames at {self.rate:g} Hz, {summary['seconds']:.1f} s"
        ]
        if self.kept:
            lines.append(
                f"{summary['bag_gigabytes']:.3f} GB of bags in {self.wall_seconds:.1f} s: "
                f"{summary['gigabytes_per_minute']:.2f} GB a minute"
            )
            lines += ["", *_stream_table(summary["streams"])]
        if self.refused:
            reasons = (one_line(refusal.reason, LONGEST_LINE) for refusal in self.refused)
            lines += ["", "refused:", *(f"  {reason}" for reason in reasons)]
        return "\n".join(lines)


def report_of(episode: BagEpisode) -> EpisodeReport:
    """What became of the bag of an episode."""
    log, custom = episode.log, episode.metadata.custom_data
    drops = _drops(custom.get("drops", ""))
    streams = {
        name: _stream(topic, log.stamps[name], log.ages[name], drops.get(topic, 0))
        for name, topic in log.topics.items()
    }
    step = (episode.times[-1] - episode.times[0]) / NANOSECONDS / (len(episode.times) - 1)
    return EpisodeReport(
        bag=str(episode.folder),
        frames=len(episode.times),
        seconds=len(episode.times) * step,
        instructions=list(dict.fromkeys(episode.instructions)),
        custom_data=custom,
        subtasks=subtasks_of(episode),
        skipped=log.skipped,
        before=log.before,
        streams=streams,
    )


def subtasks_of(episode: BagEpisode) -> list[dict[str, Any]]:
    """Sub-tasks that were marked while recording: name, and first frame."""
    text = str(episode.metadata.custom_data.get("subtasks") or "[]")
    try:
        marked = read_json_text(text, "custom_data: subtasks", DatasetError)
        frames = [int(np.searchsorted(episode.times, entry["stamp"])) for entry in marked]
        return [
            {"name": str(entry["name"]), "frame": frame}
            for entry, frame in zip(marked, frames, strict=True)
        ]
    except (ValueError, KeyError, TypeError) as error:
        reason = one_line(error)
        raise DatasetError(f"{episode.folder}: subtasks cannot be read ({reason})") from error


def _stream(topic: str, stamps: list[int], ages: Iterable[int], dropped: int) -> StreamReport:
    intervals = np.diff(np.sort(stamps)) / NANOSECONDS
    usual = float(np.median(intervals)) if len(intervals) else 0.0
    long = intervals[intervals > GAP * usual]
    return StreamReport(
        topic=topic,
        messages=len(stamps),
        seconds=float(intervals.sum()) + usual,
        gaps=len(long),
        missing=int((np.rint(long / usual) - 1).sum()) if usual else 0,
        longest_gap=float(intervals.max()) if len(intervals) else 0.0,
        dropped=dropped,
        offsets=np.array(ages, dtype=float) / NANOSECONDS,
    )


def _drops(text: str) -> dict[str, int]:
    """Messages that the recorder lost, by topic; empty where it does not say."""
    try:
        counts = read_json_text(str(text) or "{}", "custom_data: drops", ValueError)
        return {str(topic): int(count) for topic, count in counts.items()}
    except (ValueError, AttributeError, TypeError):
        return {}


def _stream_table(streams: dict[str, dict[str, Any]]) -> list[str]:
    columns = (
        ("stream", None),
        ("messages", "messages"),
        ("Hz", "rate_hz"),
        ("offset p50 ms", "offset_p50_ms"),
        ("p95 ms", "offset_p95_ms"),
        ("gaps", "gaps"),
        ("longest ms", "longest_gap_ms"),
        ("missing", "missing"),
        ("dropped", "dropped"),
    )
    rows = [[title for title, _ in columns]]
    for name, stream in streams.items():
        values = [name if key is None else stream[key] for _, key in columns]
        rows.append([f"{v:.1f}" if isinstance(v, float) else str(v) for v in values])
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
