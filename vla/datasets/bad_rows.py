"""Rows of a data set that can't be used: counted, named and replaced by others nearby."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from vla.core.text import one_line
from vla.datasets.frames import DatasetError

logger = logging.getLogger(__name__)

Row = TypeVar("Row")

# Of a process; so few say nothing of the data set.
FORGIVEN = 10
# Rows that are named, one by one.
NAMED = 5


class BadRows:
    """Those that one process has met. name: of the data set. share: of rows drawn that may be bad.

    A share of 0 allows none.
    """

    def __init__(self, name: str, share: float):
        self._name, self._share = name, share
        self._tried = self._refused = 0
        self._known: set[int] = set()
        self._reasons: list[str] = []

    def first_usable(self, index: int, count: int, read: Callable[[int], Row]) -> Row:
        """What `read` gives of a row, or of the nearest behind it, 1, 2, 4, ... on, of `count`.

        `read` raises DatasetError for a row that can't be used. Raises DatasetError where too many
        can't be. Which row replaces another does not depend on what was read before.
        """
        for row in _nearby(index, count):
            self._tried += 1
            if row not in self._known:
                try:
                    return read(row)
                except DatasetError as error:
                    self._note(row, str(error))
            self._refused += 1
            allowed = self._share * self._tried + (FORGIVEN if self._share else 0)
            if self._refused > allowed:
                break
        raise DatasetError(
            f"{self._name}: {self._refused} of {self._tried} rows drawn can't be used, more than "
            f"bad_share {self._share:g} allows, such as: {one_line('; '.join(self._reasons), 500)}"
        )

    def _note(self, row: int, reason: str) -> None:
        self._known.add(row)
        if len(self._reasons) < NAMED:
            self._reasons.append(reason)
            logger.warning("%s; a row nearby takes its place", reason)
        elif (known := len(self._known)) and not known & (known - 1):
            logger.warning("%s: %d rows can't be used so far", self._name, known)


def _nearby(index: int, count: int) -> Iterator[int]:
    """A row and then others, in growing steps: missing images are often those of a whole folder."""
    offset = 1
    yield index
    while offset < count:
        yield (index + offset) % count
        offset *= 2
    yield from ((index + offset) % count for offset in range(1, count))
