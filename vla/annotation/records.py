"""The annotations of each episode, their origin, and the reviewer's verdicts.

They are lines of DATASET/meta/annotation_records.jsonl. DATASET/meta/annotations.json, which
training reads, is made from it and from the language motion labels, without rejected entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vla.annotation.record_file import RecordFile, digest_of, read_lines
from vla.core.files import checked_entries, checked_number, checked_text
from vla.core.shown import brief
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import ANNOTATIONS_FILE
from vla.datasets.sample import Annotation, Pair
from vla.datasets.vla_it import read_vla_it, write_vla_it

RECORDS_FILE = "annotation_records.jsonl"
CAPTION, QUESTION, REWRITE, CONTEXT = KINDS = ("Caption", "QA", "CR", "CC")
ACCEPTED, REJECTED = "accepted", "rejected"
_HEADER = {"vla_ros_annotation_records": 1}


@dataclass(frozen=True)
class Entry:
    """One text about an episode."""

    kind: str  # one of KINDS, as VLA-IT names them
    question: str  # "" for a caption
    answer: str
    verdict: str = ""  # the reviewer's: ACCEPTED, REJECTED or ""
    original: Pair | None = None  # the pair before it was edited

    def digest(self) -> str:
        """Identifies this text, in a few characters."""
        return digest_of([self.kind, self.question, self.answer], 10)


@dataclass(frozen=True)
class Record:
    """The entries of one episode."""

    episode: int
    instruction: str
    data: str  # digest of the episode
    entries: tuple[Entry, ...]
    source: dict[str, Any]  # who said it and how: kind, model, prompt, frames
    made: str  # made_digest() of the source
    usage: dict[str, int] = field(default_factory=dict)  # tokens, where a model made it

    def named_entries(self) -> dict[str, Entry]:
        """Entries by names such as "Caption" and "QA 1", counted from 1 within their kind."""
        counts = dict.fromkeys(KINDS, 0)
        named = {}
        for entry in self.entries:
            counts[entry.kind] += 1
            number = "" if entry.kind == CAPTION else f" {counts[entry.kind]}"
            named[f"{entry.kind}{number}"] = entry
        return named

    @property
    def reviewed(self) -> bool:
        """Whether any entry has a verdict."""
        return any(entry.verdict for entry in self.entries)

    def annotation(self) -> Annotation | None:
        """What training may use; None where everything was rejected."""
        kept = [entry for entry in self.entries if entry.verdict != REJECTED]
        if not kept:
            return None
        pairs = {
            kind: tuple((e.question, e.answer) for e in kept if e.kind == kind) for kind in KINDS
        }
        caption = pairs[CAPTION][0][1] if pairs[CAPTION] else ""
        return Annotation(caption, pairs[QUESTION], pairs[REWRITE], pairs[CONTEXT])


def entries_of(annotation: Annotation) -> tuple[Entry, ...]:
    """The entries of an annotation, in the order of KINDS."""
    pairs = {
        CAPTION: (("", annotation.caption),) if annotation.caption else (),
        QUESTION: annotation.question_answers,
        REWRITE: annotation.command_rewrites,
        CONTEXT: annotation.contexts,
    }
    return tuple(Entry(kind, *pair) for kind in KINDS for pair in pairs[kind])


class Records(RecordFile[Record]):
    """The records of a data set.

    Raises DatasetError where its annotations come from elsewhere, and as a RecordFile.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / "meta" / RECORDS_FILE
        super().__init__(path, _HEADER, _record, f"annotating {folder}")

    def __enter__(self):
        annotations = self.folder / "meta" / ANNOTATIONS_FILE
        if annotations.exists() and not self.path.exists():
            raise DatasetError(
                f"{annotations} was not written by 'vla data annotate' and would be lost; move it "
                "away first"
            )
        return super().__enter__()


def read_records(folder: str | Path) -> dict[int, Record]:
    """The records of a data set by episode index. Raises DatasetError where there are none."""
    path = Path(folder) / "meta" / RECORDS_FILE
    if not path.exists():
        raise DatasetError(f"{folder} has no annotations yet; make them with 'vla data annotate'")
    return read_lines(path, _HEADER, _record)[0]


def _record(value: Any, where: str) -> Record:
    """A record, each entry as its field says. Raises DatasetError, TypeError or KeyError."""
    checked_entries(value, where, DatasetError, [field.name for field in fields(Record)])
    for name in ("instruction", "data", "made"):
        checked_text(value[name], f"{where}: {name}", DatasetError, 10_000)
    checked_number(value["episode"], f"{where}: episode", DatasetError, 0, 1e9, True)
    if not isinstance(value["source"], dict) or not isinstance(value.get("usage", {}), dict):
        raise DatasetError(f"{where}: source and usage must be mappings")
    if not isinstance(value["entries"], list):
        raise DatasetError(f"{where}: entries must be a list, got {brief(value['entries'])}")
    return replace(
        Record(**value), entries=tuple(_entry(entry, where) for entry in value["entries"])
    )


def _entry(value: Any, where: str) -> Entry:
    known = [field.name for field in fields(Entry)]
    checked_entries(value, f"{where}: an entry", DatasetError, known)
    for name in ("question", "answer", "verdict"):
        checked_text(value.get(name, ""), f"{where}: {name}", DatasetError, 10_000)
    if value["kind"] not in KINDS or value.get("verdict", "") not in (ACCEPTED, REJECTED, ""):
        raise DatasetError(f"{where}: an entry has an unknown kind or verdict, {brief(value)}")
    original = value.get("original")
    if original is not None and (
        not isinstance(original, list)
        or len(original) != 2
        or not all(isinstance(text, str) for text in original)
    ):
        raise DatasetError(f"{where}: original must be a pair of texts, got {brief(original)}")
    return Entry(**value | {"original": original and tuple(original)})


def write_annotations(
    folder: str | Path,
    files: dict[int, str],
    records: dict[int, Record],
    motions: dict[int, list[str]] | None = None,
) -> Path:
    """Writes annotations.json as a whole and returns its path.

    files: data file of each episode, as the key in the VLA-IT layout. motions: language motion
    labels, one per frame, by episode; None keeps those that are there. Episodes with neither labels
    nor a record are left out.
    """
    path = Path(folder) / "meta" / ANNOTATIONS_FILE
    if motions is None:
        there = read_vla_it(path) if path.exists() else {}
        motions = {int(episode): list(entry.motions) for (_, episode), entry in there.items()}
    labels = {}
    for episode, file in files.items():
        record = records.get(episode)
        annotation = None if record is None else record.annotation()
        if motions.get(episode) or annotation is not None:
            labels[file, str(episode)] = (motions.get(episode, []), annotation)
    write_vla_it(path, labels)
    return path
