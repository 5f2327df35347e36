"""Multimodal data in LLaVA's conversation format: images with turns of questions and answers.

A JSON list, or JSON Lines, of rows (vla.datasets.conversation_rows), of any length: rows are read
when they are drawn, by an index that is made once per machine (vla.core.kept). Markers of images
are removed from the text: images come first in a question here. Invisible characters become escapes
(see vla.core.text).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.core.configuration import bounded
from vla.core.files import read_json_text, require_regular
from vla.core.kept import KeptFolder, keep, save_array
from vla.core.shown import shown_path
from vla.core.text import one_line
from vla.datasets.bad_rows import BadRows
from vla.datasets.conversation_rows import ConversationRow, read_row
from vla.datasets.frames import DatasetError
from vla.datasets.images import decode_image
from vla.datasets.row_spans import line_spans, list_spans
from vla.datasets.sample import Conversation

# Of one row; the largest of released sets have some 100 kB.
MOST_ROW_BYTES = 1 << 24
_INDEX = "rows-1"


@dataclass
class LlavaOptions:
    """Options of conversations in LLaVA's format."""

    # Share of the rows drawn that may be unusable; each is replaced by a row nearby. The first ten
    # of a process never end a run, unless the share is 0.
    bad_share: float = bounded(0.01, 0, 1)


class LlavaConversations:
    """Conversations of one file; rows and images are read on demand.

    images: folder of the rows' relative paths. bad_share: see LlavaOptions. Raises DatasetError
    where the file can't be read, or is no list of rows.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path = "",
        bad_share: float = LlavaOptions.bad_share,
    ):
        self.path = Path(path)
        self._folder = Path(images) if images else self.path.parent
        self._index = _index(self.path)
        self._bad = BadRows(shown_path(path), bad_share)
        if not len(self):
            raise DatasetError(f"{shown_path(path)} holds no conversations")

    def __len__(self) -> int:
        return len(self._index.array("spans"))

    def sample(self, index: int, generator: np.random.Generator) -> Conversation:
        """One conversation, or where it can't be used, one nearby.

        Raises DatasetError where too many can't be.
        """
        return self._bad.first_usable(index, len(self), self.read)

    def read(self, index: int) -> Conversation:
        """One conversation with its images. Raises DatasetError that names what is wrong."""
        row, images = self.row(index), []
        for path in row.images:
            where = f"{row.source}: image {shown_path(path)}"
            cure = "fix it, or take the row out"
            images.append(decode_image(path, where, cure, any_colors=True))
        return Conversation(tuple(images), row.turns, source=row.source)

    def row(self, index: int) -> ConversationRow:
        """One row, its images unread. Raises DatasetError that names what is wrong."""
        where = f"{shown_path(self.path)}, row {index}"
        begin, end = self._index.array("spans")[index].tolist()
        if end - begin > MOST_ROW_BYTES:
            raise DatasetError(f"{where} has {end - begin} bytes; shorten it, or take it out")
        try:
            # Mapping the file instead would count its pages as memory of every process.
            with self.path.open("rb") as stream:
                stream.seek(begin)
                text = stream.read(end - begin).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(
                f"{where} can't be read as UTF-8 text ({one_line(error)})"
            ) from error
        return read_row(read_json_text(text, where, DatasetError), where, self._folder)


def _index(path: Path) -> KeptFolder:
    require_regular(path, DatasetError)
    find = line_spans if path.suffix == ".jsonl" else list_spans

    def make(folder: Path) -> None:
        save_array(folder, "spans", find(path))

    try:
        return keep(_INDEX, [path], find.__name__, make)
    except OSError as error:
        raise DatasetError(f"cannot read {shown_path(path)}: {error.strerror}") from error
