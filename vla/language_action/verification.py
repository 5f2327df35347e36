"""Verification of segments: the ratings of several annotators, what they keep, how they agree.

Each segment gets a quality from 0 (unusable) to 3 (high), and a confidence from 0 to 2. Those of an
average quality of at least 2 are kept; the confidence changes nothing (LA4VLA, section 7.6).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vla.annotation.page import read_page_table
from vla.core.shown import brief, listed, shown_path
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.language_action.agreement import interval_alpha
from vla.language_action.primitives import PRIMITIVES
from vla.language_action.segments import KEPT_FROM, Segmentation

COLUMNS = ("annotator", "episode", "segment", "quality", "confidence", "digest")
QUALITIES = ("unusable", "low", "acceptable", "high")
CONFIDENCES = ("low", "medium", "high")


@dataclass(frozen=True)
class Rating:
    """What one annotator says of one segment."""

    annotator: str
    episode: int
    number: int  # of the segment in its episode, from 0
    quality: int  # index into QUALITIES
    confidence: int | None  # index into CONFIDENCES; None where it was left out


@dataclass(frozen=True)
class VerificationReport:
    """What ratings say of the segments of a data set."""

    segments: int
    rated: int  # by anybody
    kept: int
    doubly_rated: int  # by two annotators or more
    alpha: float | None  # Krippendorff's, of the quality; None where nothing tells it
    quality: float  # mean of all ratings
    confidence: float | None  # likewise; None where nobody gave one
    qualities: dict[str, int]  # ratings by their meaning
    annotators: dict[str, int]  # ratings by name
    primitives: dict[str, tuple[int, int]]  # rated and kept segments, of those that were rated


def read_ratings(path: str | Path, segmentation: Segmentation) -> list[Rating]:
    """The ratings in a table that the page saved; rows without a quality are none.

    Raises DatasetError that names the line: a table of other segments, a rating out of range, no
    name, a segment that an annotator rates twice, or no rating at all.
    """
    shown, digest = shown_path(path), segmentation.digest
    ratings: list[Rating] = []
    for line, row in enumerate(read_page_table(path, COLUMNS, "table of ratings"), start=2):
        where = f"{shown}, line {line}"
        if not row["quality"].strip():
            continue
        if row["digest"].strip() != digest:
            raise DatasetError(
                f"{where} rates other segments (their digest is {brief(row['digest'])}, not "
                f"'{digest}'); give the tables of the page of these segments"
            )
        ratings.append(_rating(row, where, segmentation))
    if not ratings:
        raise DatasetError(f"{shown} rates no segment; rate some on the page, and save the table")
    _require_once(ratings, shown)
    return ratings


def _rating(row: dict[str, str], where: str, segmentation: Segmentation) -> Rating:
    name = one_line(row["annotator"])
    if not name:
        raise DatasetError(f"{where} names no annotator; write the name into its first column")
    episode, number = (_whole(row[column]) for column in ("episode", "segment"))
    if not 0 <= number < len(segmentation.episodes.get(episode, ())):
        raise DatasetError(
            f"{where}: there is no segment {brief(row['segment'])} of episode "
            f"{brief(row['episode'])}; give the table as the page saved it"
        )
    quality, confidence = (_whole(row[column]) for column in ("quality", "confidence"))
    if not 0 <= quality < len(QUALITIES):
        raise DatasetError(f"{where}: the quality {brief(row['quality'])} is none of 0 to 3")
    if row["confidence"].strip() and not 0 <= confidence < len(CONFIDENCES):
        raise DatasetError(f"{where}: the confidence {brief(row['confidence'])} is none of 0 to 2")
    return Rating(name, episode, number, quality, confidence if confidence >= 0 else None)


def _whole(text: str) -> int:
    """The number that a cell holds; -1 where it holds none."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1


def _require_once(ratings: Sequence[Rating], shown: str) -> None:
    seen: set[tuple[str, int, int]] = set()
    for rating in ratings:
        key = (rating.annotator.casefold(), rating.episode, rating.number)
        if key in seen:
            raise DatasetError(
                f"{shown}: '{rating.annotator}' rates segment {rating.number} of episode "
                f"{rating.episode} twice; remove one of the rows"
            )
        seen.add(key)


def read_tables(paths: Sequence[str | Path], segmentation: Segmentation) -> list[Rating]:
    """The ratings of several tables, each with annotators of its own.

    Raises DatasetError as read_ratings() does, and where two tables have one annotator's name.
    """
    ratings: list[Rating] = []
    tables: dict[str, str] = {}  # by annotator
    for path in paths:
        new = read_ratings(path, segmentation)
        for name in dict.fromkeys(rating.annotator for rating in new):
            if (other := tables.get(name.casefold())) is not None:
                raise DatasetError(
                    f"{other} and {shown_path(path)} both have ratings of '{name}'; give each "
                    "annotator another name, or one of the two tables"
                )
        tables |= {rating.annotator.casefold(): shown_path(path) for rating in new}
        ratings += new
    return ratings


def verified(
    segmentation: Segmentation, ratings: Sequence[Rating]
) -> tuple[Segmentation, VerificationReport]:
    """The segments with their average quality, instead of any that they had before.

    Raises DatasetError where none is kept.
    """
    units: dict[tuple[int, int], list[int]] = {}
    for rating in ratings:
        units.setdefault((rating.episode, rating.number), []).append(rating.quality)
    episodes = {
        index: tuple(
            replace(segment, quality=_mean(units.get((index, number), ())))
            for number, segment in enumerate(segments)
        )
        for index, segments in segmentation.episodes.items()
    }
    all_segments = [segment for segments in episodes.values() for segment in segments]
    rated = [segment for segment in all_segments if segment.quality is not None]
    kept = [segment for segment in rated if segment.kept]
    if not kept:
        raise DatasetError(
            f"no segment is left: none of the {len(rated)} that were rated has an average quality "
            f"of {KEPT_FROM:g} or more; cut the data in another way, and rate again"
        )
    counts = [Counter(segment.primitive for segment in group) for group in (rated, kept)]
    names = [rating.annotator for rating in ratings]
    levels = [rating.quality for rating in ratings]
    report = VerificationReport(
        segments=len(all_segments),
        rated=len(rated),
        kept=len(kept),
        doubly_rated=sum(len(unit) > 1 for unit in units.values()),
        alpha=interval_alpha(units.values()),
        quality=float(np.mean(levels)),
        confidence=_mean([r.confidence for r in ratings if r.confidence is not None]),
        qualities={name: levels.count(level) for level, name in enumerate(QUALITIES)},
        annotators={name: names.count(name) for name in dict.fromkeys(names)},
        primitives={
            name: (counts[0][name], counts[1][name]) for name in PRIMITIVES if counts[0][name]
        },
    )
    return replace(segmentation, episodes=episodes), report


def _mean(values: Sequence[int]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def verification_text(report: VerificationReport) -> str:
    """The report as lines, ready to print."""
    by = listed(f"{name} ({count})" for name, count in report.annotators.items())
    lines = [
        f"{report.rated} of {report.segments} segments are rated, by {by}",
        f"{report.kept} are kept, {report.kept / report.rated:.1%} of those that are rated",
        "ratings: " + ", ".join(f"{count} {name}" for name, count in report.qualities.items()),
        f"mean quality {report.quality:.2f}"
        + ("" if report.confidence is None else f", mean confidence {report.confidence:.2f}"),
        f"{'primitive':14}{'rated':>8}{'kept':>8}",
    ]
    lines += [f"{name:14}{rated:8}{kept:8}" for name, (rated, kept) in report.primitives.items()]
    if report.alpha is not None:
        lines.append(
            f"agreement: Krippendorff's alpha (interval) {report.alpha:.3f}, of "
            f"{report.doubly_rated} segments that two or more have rated"
        )
    elif report.doubly_rated:
        lines.append("agreement: not to be told, since all ratings are equal")
    else:
        lines.append("agreement: not to be told, since no segment has ratings of two annotators")
    return "\n".join(lines)
