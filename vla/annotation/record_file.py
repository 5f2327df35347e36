"""What is stored of each episode of a data set, line by line, and what is still to be done."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar

from vla.core.files import read_bytes, read_json_text, require_regular
from vla.core.shown import shown_path
from vla.core.text import one_line
from vla.datasets.frames import DatasetError

MOST_BYTES = 1_000_000_000


class Numbered(Protocol):
    """An episode by its number."""

    @property
    def index(self) -> int:
        """Its number in the data set."""


class Kept(Protocol):
    """What is stored of an episode."""

    @property
    def episode(self) -> int:
        """Its number in the data set."""

    @property
    def data(self) -> str:
        """Digest of the episode."""

    @property
    def source(self) -> Mapping[str, Any]:
        """Who said it and how."""

    @property
    def made(self) -> str:
        """made_digest() of the source."""


E = TypeVar("E", bound=Numbered)
R = TypeVar("R", bound=Kept)


def digest_of(value: Any, length: int) -> str:
    """Identifies plain values, in so many characters."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def made_digest(source: Mapping[str, Any]) -> str:
    """Of everything in a source that changes what is said."""
    return digest_of(dict(source), 16)


class RecordFile(Generic[R]):
    """Records by episode index; use it as a context, which locks the file.

    One line per finished episode, written at once; of several lines of an episode the last one
    counts. header: the first line. parse(value, where): a record from the plain values of a line;
    raises ValueError, TypeError or KeyError. task: what goes on there, for errors. Raises
    DatasetError where the file is damaged, or another process writes it.
    """

    def __init__(
        self, path: Path, header: dict[str, Any], parse: Callable[[Any, str], R], task: str
    ):
        self.path = path
        self.latest: dict[int, R] = {}
        self._header, self._parse, self._task = header, parse, task
        self._file: IO[bytes] | None = None

    def __enter__(self):
        if self.path.exists():
            # To append to a pipe would wait for its reader.
            require_regular(self.path, DatasetError)
        try:
            self._file = self.path.open("ab")
        except OSError as error:
            raise DatasetError(f"cannot write {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.latest, whole = read_lines(self.path, self._header, self._parse)
            # A line that a crash cut must not become the beginning of the next.
            self._file.truncate(whole)
            if whole == 0:
                self._append(self._header)
        except BlockingIOError as error:
            self._file.close()
            raise DatasetError(f"another process is {self._task}; wait for it") from error
        except DatasetError:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, record: R) -> None:
        """Stores a record, on disk before this returns."""
        self._append(asdict(record))  # type: ignore[call-overload]
        self.latest[record.episode] = record

    def _append(self, value: dict) -> None:
        assert self._file is not None, "open the records as a context first"
        self._file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def read_lines(
    path: Path, header: dict[str, Any], parse: Callable[[Any, str], R]
) -> tuple[dict[int, R], int]:
    """Records by episode, and how many bytes of the file are whole lines; see RecordFile."""
    content = read_bytes(path, DatasetError, MOST_BYTES)
    whole = content.rfind(b"\n") + 1
    records: dict[int, R] = {}
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        where = f"{shown_path(path)}, line {number}"
        try:
            value = read_json_text(line.decode(), where, DatasetError)
            if number == 1 and value == header:
                continue
            record = parse(value, where)
        except (ValueError, TypeError, KeyError) as error:
            said = one_line(error).removeprefix(where).strip(": ")
            raise DatasetError(
                f"{where}, is damaged ({said}); delete the line, and its episode is annotated again"
            ) from error
        records[record.episode] = record
    return records, whole


@dataclass
class Plan(Generic[E]):
    """What of a data set is to be done."""

    # Never done, or another episode had this number.
    missing: list[E] = field(default_factory=list)
    # What differs in how it was done, by episode.
    changed: dict[int, list[str]] = field(default_factory=dict)
    finished: int = 0  # episodes that need nothing
    left_out: dict[int, str] = field(default_factory=dict)  # why it cannot be done, by episode


def plan(
    episodes: Iterable[E],
    digest: Callable[[E], str],
    source_of: Callable[[E], Mapping[str, Any]],
    records: Mapping[int, Kept],
    why_not: Callable[[E], str],
) -> Plan[E]:
    """Compares episodes with what is already there.

    why_not: why an episode can't be asked about, "" where it can.
    """
    result: Plan[E] = Plan()
    for episode in episodes:
        record = records.get(episode.index)
        if reason := why_not(episode):
            result.left_out[episode.index] = reason
        elif record is None or record.data != digest(episode):
            result.missing.append(episode)
        elif record.made != made_digest(source := source_of(episode)):
            known = {**record.source, **source}
            result.changed[episode.index] = [
                name for name in known if record.source.get(name) != source.get(name)
            ]
        else:
            result.finished += 1
    return result
