"""People rate the answers of two checkpoints, blind: the page, its tables, and what they say.

An answer is right (1), right but for a minor error (0.5) or wrong (0), as InstructVLA's authors
rate annotations (appendix C.3). Which of two answers is whose, only a key file tells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from vla.annotation.page import filled_page, read_page_table
from vla.core.files import read_json
from vla.core.shown import brief, listed, shown_path
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.evaluation.answer_texts import GivenAnswer
from vla.evaluation.comparison_statistics import paired_bootstrap
from vla.evaluation.errors import AnswerError
from vla.language_action.agreement import interval_alpha

PAGE_FILE, KEY_FILE = "rate.html", "rate_key.json"
COLUMNS = ("rater", "number", "first", "second", "digest")
SCORES = MappingProxyType({"right": 1.0, "partly": 0.5, "wrong": 0.0})


@dataclass(frozen=True)
class RatedCheckpoint:
    """How good the answers of one checkpoint were found, 0 to 1."""

    name: str
    mean: float
    low: float  # of its 95% interval
    high: float


@dataclass(frozen=True)
class RatingReport:
    """What the tables of all raters say."""

    rated: int  # pairs of answers that anybody rated
    pairs: int  # on the page
    raters: dict[str, int]  # how many pairs each rated
    checkpoints: tuple[RatedCheckpoint, RatedCheckpoint]
    difference: float  # of the first checkpoint from the second
    low: float  # of its 95% interval
    high: float
    doubly_rated: int  # pairs that two or more rated
    alpha: float | None  # Krippendorff's; None where nothing tells it


def write_rating_page(
    one: tuple[str, Sequence[GivenAnswer]],
    other: tuple[str, Sequence[GivenAnswer]],
    folder: str | Path,
    seed: int = 0,
) -> tuple[Path, Path]:
    """Writes the page and its key; returns their paths.

    one, other: names of checkpoints with their answers; what both were asked is shown, the answers
    in an order that the seed draws. Raises AnswerError where they were asked nothing in common, or
    where a key is there already, whose ratings would be lost.
    """
    folder = Path(folder)
    page, key = folder / PAGE_FILE, folder / KEY_FILE
    if key.exists():
        raise AnswerError(f"{shown_path(key)} is there already; name another folder")
    theirs = {(entry.kind, entry.key, entry.question): entry for entry in other[1]}
    pairs = [
        (entry, theirs[same])
        for entry in one[1]
        if (same := (entry.kind, entry.key, entry.question)) in theirs
    ]
    if not pairs:
        raise AnswerError("the two were asked nothing in common; ask both about one data set")
    generator = np.random.default_rng(seed)
    pairs = [pairs[index] for index in generator.permutation(len(pairs))]
    swapped = generator.random(len(pairs)) < 0.5
    rows = [
        {
            "number": number,
            "kind": first.kind,
            "question": first.question,
            "reference": first.gt,
            "image": first.image,
            "answers": [second.response, first.response] if swap else
                       [first.response, second.response],
        }
        for number, ((first, second), swap) in enumerate(zip(pairs, swapped, strict=True))
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:10]
    folder.mkdir(parents=True, exist_ok=True)
    values = {"columns": COLUMNS, "ratings": list(SCORES), "digest": digest, "rows": rows}
    page.write_text(filled_page(PAGE_FILE, values), encoding="utf-8")
    secret = {"digest": digest, "names": [one[0], other[0]], "swapped": swapped.tolist()}
    key.write_text(json.dumps(secret) + "\n")
    return page, key


def read_rating_tables(folder: str | Path, tables: Sequence[str | Path]) -> RatingReport:
    """What the tables of a folder's page say. Raises AnswerError or DatasetError."""
    path = Path(folder) / KEY_FILE
    key = read_json(path, AnswerError)
    try:
        names, digest, swapped = key["names"], str(key["digest"]), [bool(s) for s in key["swapped"]]
        one, other = map(str, names)
    except (KeyError, TypeError, ValueError) as error:
        raise AnswerError(
            f"{shown_path(path)} is no key of a page; give the folder as it was written"
        ) from error
    found: dict[int, dict[str, tuple[float, float]]] = {}
    for table in tables:
        for line, row in enumerate(read_page_table(table, COLUMNS, "table of ratings"), start=2):
            where = f"{shown_path(table)}, line {line}"
            if not (row["first"].strip() or row["second"].strip()):
                continue
            number, rater, scores = _rating(row, where, digest, len(swapped))
            if rater in found.setdefault(number, {}):
                raise DatasetError(f"{where}: '{rater}' rates number {number} twice; remove a row")
            found[number][rater] = scores[::-1] if swapped[number] else scores
    if not found:
        raise DatasetError("nothing is rated; rate some answers on the page, and save the table")
    return _report((one, other), found, len(swapped))


def _rating(
    row: dict[str, Any], where: str, digest: str, count: int
) -> tuple[int, str, tuple[float, float]]:
    """Number, rater, and the scores of the first and the second answer."""
    if row["digest"].strip() != digest:
        raise DatasetError(f"{where} rates another page; give the tables of this folder's page")
    text, rater = row["number"].strip(), one_line(row["rater"])
    if not text.isdecimal() or not int(text) < count:
        raise DatasetError(f"{where}: there is no number {brief(text)}")
    if not rater:
        raise DatasetError(f"{where} names no rater; write the name into its first column")
    words = [row[name].strip().lower() for name in ("first", "second")]
    if odd := [word for word in words if word not in SCORES]:
        raise DatasetError(f"{where}: {brief(odd[0])} is none of {listed(SCORES)}")
    return int(text), rater, (SCORES[words[0]], SCORES[words[1]])


def _report(
    names: tuple[str, str], found: dict[int, dict[str, tuple[float, float]]], pairs: int
) -> RatingReport:
    means = np.array(
        [np.mean(list(scores.values()), axis=0) for scores in found.values()]
    )  # [P, 2]
    one, other = means[None, :, 0], means[None, :, 1]
    alone = [paired_bootstrap(values, np.zeros_like(values)) for values in (one, other)]
    between = paired_bootstrap(one, other)
    raters = [rater for scores in found.values() for rater in scores]
    units = [
        [pair[side] for pair in scores.values()] for scores in found.values() for side in (0, 1)
    ]
    return RatingReport(
        len(found),
        pairs,
        {name: raters.count(name) for name in dict.fromkeys(raters)},
        (
            RatedCheckpoint(names[0], alone[0].difference, alone[0].low, alone[0].high),
            RatedCheckpoint(names[1], alone[1].difference, alone[1].low, alone[1].high),
        ),
        between.difference,
        between.low,
        between.high,
        sum(len(scores) > 1 for scores in found.values()),
        interval_alpha(units),
    )


def rating_text(report: RatingReport) -> str:
    """The report as lines, ready to print."""
    by = listed(f"{name} ({count})" for name, count in report.raters.items())
    lines = [f"{report.rated} of {report.pairs} pairs of answers are rated, by {by}"]
    for entry in report.checkpoints:
        lines.append(f"{entry.name}: {entry.mean:.1%} ({entry.low:.1%} to {entry.high:.1%})")
    lines.append(f"difference {report.difference:+.1%} ({report.low:+.1%} to {report.high:+.1%})")
    if report.alpha is not None:
        lines.append(
            f"agreement: Krippendorff's alpha (interval) {report.alpha:.3f}, of "
            f"{report.doubly_rated} pairs that two or more have rated"
        )
    return "\n".join(lines)
