"""Where the rows of a JSON list or of JSON Lines begin and end, in one pass over the file.

Memory does not grow with the file, apart from the spans themselves. Rows are not parsed: what is no
JSON within one is found when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vla.core.shown import shown_path
from vla.datasets.frames import DatasetError

BLOCK = 1 << 22  # [bytes]
_BOM = b"\xef\xbb\xbf"
_QUOTE, _OPEN, _CLOSE, _COMMA, _BACKSLASH = 1, 2, 3, 4, 5
_KINDS = np.zeros(256, np.uint8)
for _kind, _characters in ((_QUOTE, b'"'), (_OPEN, b"[{"), (_CLOSE, b"]}"), (_COMMA, b","),
                           (_BACKSLASH, b"\\")):  # fmt: skip
    _KINDS[list(_characters)] = _kind
# How much deeper each leads.
_STEPS = np.array([0, 0, 1, -1, 0, 0])


def line_spans(path: Path) -> np.ndarray:
    """First byte of each line that is not blank, and the one after its last, int64 [N, 2]."""
    found, begun, black, place = [], 0, 0, 0
    for block in _blocks(path):
        codes = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(codes == ord("\n"))
        if len(ends):
            # Characters of each line that can be seen; the first line began in an earlier block.
            seen = np.concatenate([[0], np.cumsum(codes > ord(" "))])
            counts = np.diff(seen[ends], prepend=-black)
            begins = np.concatenate([[begun], place + ends[:-1] + 1])
            found.append(np.stack([begins, place + ends], axis=1)[counts > 0])
            begun, black = place + int(ends[-1]) + 1, int(seen[-1] - seen[ends[-1]])
        else:
            black += int((codes > ord(" ")).sum())
        place += len(block)
    if black:
        found.append(np.array([[begun, place]]))
    return np.concatenate([np.zeros((0, 2), np.int64), *found])


def list_spans(path: Path) -> np.ndarray:
    """First byte of each element of a JSON list and the one after its last, int64 [N, 2].

    Spaces around an element are within its span. Raises DatasetError where the file holds no list,
    or the list does not end with it.
    """
    found = []
    scan = _ListScan(path)
    for block in _blocks(path):
        found.append(scan.separators(block))
    scan.finish()
    separators = np.concatenate(found)
    spans = np.stack([separators[:-1] + 1, separators[1:]], axis=1)
    if len(spans) == 1 and not _content(path, *spans[0]).strip():
        return spans[:0]
    return spans


class _ListScan:
    """Finds the bracket that begins a list, the commas between its elements, and its end."""

    def __init__(self, path: Path):
        self._where = shown_path(path)
        self._place = self._depth = 0
        # Whether the next byte is in a string, and whether a backslash precedes it.
        self._quoted = self._escaped = False
        self._begun = self._ended = False

    def separators(self, block: bytes) -> np.ndarray:
        """Their places in the file, int64, of the next block."""
        codes = np.frombuffer(block, np.uint8)
        self._check_edges(block)
        kinds = _KINDS[codes]
        marks = np.flatnonzero(kinds)
        kinds = kinds[marks]
        escaped = self._escapes(marks[kinds == _BACKSLASH], len(codes))
        quotes = (kinds == _QUOTE) & ~escaped[marks]
        quoted = (np.cumsum(quotes) + self._quoted) % 2
        if len(quoted):
            self._quoted = bool(quoted[-1])
        outside = (quoted == 0) & (kinds >= _OPEN) & (kinds <= _COMMA)
        marks, kinds = marks[outside], kinds[outside]
        steps = _STEPS[kinds]
        depths = self._depth + np.cumsum(steps)
        ends = (depths == 0) & (steps < 0)
        found = marks[((depths == 1) & (kinds == _COMMA)) | ends | ((depths == 1) & (steps > 0)
                      & (depths - steps == 0))]  # fmt: skip
        if len(depths):
            self._depth = int(depths[-1])
        if ends.any():
            self._end_at(int(marks[np.flatnonzero(ends)[0]]), block)
        self._place += len(block)
        return found.astype(np.int64) + self._place - len(block)

    def finish(self) -> None:
        """Raises DatasetError where the file is over and the list is not."""
        if not self._begun:
            raise DatasetError(f"{self._where}: expected a list of rows, and it is empty")
        if not self._ended:
            raise DatasetError(
                f"{self._where} is no whole JSON: it ends within its list; fetch it again"
            )

    def _check_edges(self, block: bytes) -> None:
        stripped = block.lstrip(_BOM if self._place < len(_BOM) else b"").strip()
        if not stripped:
            return
        if self._ended:
            self._refuse_rest()
        if not self._begun and not stripped.startswith(b"["):
            raise DatasetError(f"{self._where}: expected a list of rows; give the right file")
        self._begun = True

    def _end_at(self, place: int, block: bytes) -> None:
        self._ended = True
        if block[place + 1 :].strip():
            self._refuse_rest()

    def _refuse_rest(self) -> None:
        raise DatasetError(
            f"{self._where} is no JSON: something follows its list; fetch it again, or name it "
            ".jsonl if it has a row on each line"
        )

    def _escapes(self, slashes: np.ndarray, size: int) -> np.ndarray:
        """Which bytes of a block follow a backslash that stands for them, bool [size]."""
        escaped = np.zeros(size + 1, bool)
        if len(slashes):
            first = np.flatnonzero(np.diff(slashes, prepend=-2) > 1)
            begins, lengths = slashes[first], np.diff(first, append=len(slashes))
            # The first of a run may itself be what an earlier block's last backslash stands for.
            odd = lengths % 2 == 1
            if begins[0] == 0 and self._escaped:
                odd[0] = not odd[0]
            escaped[begins + lengths] = odd
        if self._escaped and not (len(slashes) and slashes[0] == 0):
            escaped[0] = True
        self._escaped = bool(escaped[size])
        return escaped[:size]


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            yield block


def _content(path: Path, begin: int, end: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(begin)
        return stream.read(end - begin)
