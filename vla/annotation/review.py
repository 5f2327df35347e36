"""Reviews of annotations: a page to read, a table to fill in, and importing that table.

The page needs no network: frames and texts are in it. It saves the same table as the one that lies
beside it, which any spreadsheet or editor opens as well.
"""

from __future__ import annotations

import base64
import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla.annotation.page import filled_page, read_page_table
from vla.annotation.records import ACCEPTED, CAPTION, REJECTED, Entry, Record, Records
from vla.annotation.replies import caption_problems, pair_problems
from vla.annotation.source import AnnotationSource
from vla.core.shown import brief, listed
from vla.datasets.frames import DatasetError

PAGE_FILE, TABLE_FILE = "review.html", "review.csv"
COLUMNS = ("episode", "entry", "digest", "verdict", "question", "answer", "instruction", "blind")
_NEEDED = COLUMNS[:6]  # of a table that is taken over
_SHOWN_SIZE = 320
_MOST_PROBLEMS = 20
_VERDICTS = {"accept": ACCEPTED, "reject": REJECTED, "edit": ACCEPTED, "": ""}
_WORDS = {ACCEPTED: "accept", REJECTED: "reject", "": ""}
_SCORES = {"accept": 1.0, "edit": 0.5, "reject": 0.0}


@dataclass(frozen=True)
class Applied:
    """What a review changed."""

    accepted: int
    rejected: int
    edited: int
    unmarked: int  # entries without a verdict
    twice: int = 0  # entries that were judged without the instruction, and then with it
    # Mean of their verdicts as the paper scores them (appendix C.3): right is 1, edited 0.5.
    blind_score: float = 0.0
    score: float = 0.0


def write_review(
    source: AnnotationSource, records: Iterable[Record], folder: str | Path, blind: bool = False
) -> tuple[Path, Path]:
    """Writes the page and the table for some records; returns their paths.

    blind: the page shows an episode's instruction once its entries were judged without it. Raises
    DatasetError where frames cannot be read, or where a table is there already, which may hold a
    reviewer's work.
    """
    folder = Path(folder)
    table = folder / TABLE_FILE
    if table.exists():
        raise DatasetError(f"{table} is there already; take it over or move it away first")
    episodes = {episode.index: episode for episode in source.episodes}
    shown, rows = [], []
    for record in sorted(records, key=lambda record: record.episode):
        episode = episodes.get(record.episode)
        if episode is None or source.digest(episode) != record.data:
            raise DatasetError(
                f"episode {record.episode} is not the one that was annotated; run 'vla data "
                "annotate' again"
            )
        frames = source.frames(episode, source.shown_frames(episode), _SHOWN_SIZE)
        shown.append(
            {
                "episode": record.episode,
                "instruction": record.instruction,
                "source": " ".join(f"{name}: {value}" for name, value in record.source.items()),
                "frames": [base64.b64encode(frame.jpeg).decode() for frame in frames],
                "entries": _rows(record),
            }
        )
        rows += [row | {"instruction": record.instruction} for row in _rows(record)]
    review = {
        "title": source.folder.resolve().name,
        "columns": COLUMNS,
        "blind": blind,
        "episodes": shown,
    }
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE_FILE
    page.write_text(filled_page(PAGE_FILE, review), encoding="utf-8")
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return page, table


def _rows(record: Record) -> list[dict[str, Any]]:
    return [
        {
            "episode": record.episode,
            "entry": name,
            "digest": entry.digest(),
            "verdict": _WORDS[entry.verdict],
            "question": entry.question,
            "answer": entry.answer,
            "blind": "",  # the verdict without the instruction
        }
        for name, entry in record.named_entries().items()
    ]


def apply_review(path: str | Path, records: Records) -> Applied:
    """Takes a filled-in table over, whole or not at all, and counts what it says.

    A row whose text was changed counts as edited, unless it is rejected. A row without a verdict
    and with its text unchanged leaves its entry as it is. Raises DatasetError that lists the rows
    which name no entry, an unknown verdict, an entry that was annotated again since, or an unusable
    text.
    """
    named = {index: record.named_entries() for index, record in records.latest.items()}
    problems: list[str] = []
    twice: list[tuple[str, str]] = []  # verdicts without and with the instruction
    counts: Counter[str] = Counter()
    for number, row in enumerate(read_page_table(path, _NEEDED, "review"), start=2):
        try:
            index, name = _place(row, named)
            said, entry = _reviewed(row, named[index][name])
            blind = row.get("blind", "").strip().lower()
            if blind not in ("", *_SCORES):
                raise DatasetError(f"blind {brief(blind)} is none of {listed(_SCORES)}")
        except DatasetError as problem:
            problems.append(f"line {number}: {problem}")
            continue
        counts[said] += 1
        if blind and said:
            twice.append((blind, said))
        named[index][name] = entry
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        lines = problems[:_MOST_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
        raise DatasetError(f"{path} was not taken over:\n  " + "\n  ".join(lines))
    for index, entries in named.items():
        record = records.latest[index]
        if (changed := tuple(entries.values())) != record.entries:
            records.add(replace(record, entries=changed))
    blind_score, score = (
        sum(_SCORES[verdicts[which]] for verdicts in twice) / max(1, len(twice)) for which in (0, 1)
    )
    return Applied(
        counts["accept"],
        counts["reject"],
        counts["edit"],
        counts[""],
        len(twice),
        blind_score,
        score,
    )


def _place(row: dict[str, str], named: dict[int, dict[str, Entry]]) -> tuple[int, str]:
    episode, name = row["episode"].strip(), row["entry"].strip()
    index = int(episode) if episode.isdecimal() and len(episode) < 12 else -1
    if name not in named.get(index, {}):
        raise DatasetError(f"there is no {brief(name)} of episode {brief(episode)}")
    return index, name


def _reviewed(row: dict[str, str], entry: Entry) -> tuple[str, Entry]:
    """What a row says, a word of _VERDICTS, and the entry afterwards."""
    verdict = row["verdict"].strip().lower()
    verdict = _WORDS.get(verdict, verdict)
    if verdict not in _VERDICTS:
        raise DatasetError(f"verdict {brief(verdict)} is none of accept, reject, edit")
    before = (entry.question, entry.answer)
    pair = (" ".join(row["question"].split()), " ".join(row["answer"].split()))
    if row["digest"].strip() != entry.digest():
        first = entry.original and replace(entry, question=entry.original[0],
                                           answer=entry.original[1])  # fmt: skip
        if not first or first.digest() != row["digest"].strip() or pair != before:
            raise DatasetError("it was annotated again or edited since this review was written")
    if verdict == "reject":
        return verdict, replace(entry, verdict=REJECTED)
    if pair != before:
        problems = caption_problems(pair[1]) if entry.kind == CAPTION else pair_problems(pair)
        if problems:
            raise DatasetError("; ".join(problems))
        question, answer = pair
        original = entry.original or before
        return "edit", Entry(entry.kind, question, answer, ACCEPTED, original)
    if not verdict:
        return verdict, entry
    return "accept", replace(entry, verdict=ACCEPTED)
