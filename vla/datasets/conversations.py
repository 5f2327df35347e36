"""Multimodal data in LLaVA's conversation format: images with turns of questions and answers.

A JSON list, or JSON Lines, of {"id", "image" (a path, or missing), "conversations": [{"from":
"human" or "gpt", "value"}, ...]}, human first. The marker "<image>" is removed from the text:
images come first in a question here. Invisible characters become escapes (see vla.core.text).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.core.files import inside, read_json, read_json_lines
from vla.core.shown import brief, shown_path
from vla.core.text import escape_unseen, one_line
from vla.datasets.frames import DatasetError
from vla.datasets.images import decode_image
from vla.datasets.sample import Conversation, Pair

IMAGE_MARKER = "<image>"
# Of one file; the 665 000 conversations of LLaVA have 1 GB.
MOST_BYTES = 2**32
_QUESTION, _ANSWER = "human", "gpt"


@dataclass(frozen=True)
class _Entry:
    source: str
    image: Path | None
    turns: tuple[Pair, ...]


class LlavaConversations:
    """Conversations of one file; texts are kept in memory, images are read on demand.

    images: folder of the entries' relative paths. Raises DatasetError that names a malformed entry.
    """

    def __init__(self, path: str | Path, images: str | Path = ""):
        self._folder = Path(images) if images else Path(path).parent
        entries, path = _read(path), shown_path(path)
        self._entries = [
            self._entry(value, f"{path}, entry {index}") for index, value in enumerate(entries)
        ]
        if not self._entries:
            raise DatasetError(f"{path} holds no conversations")

    def __len__(self) -> int:
        return len(self._entries)

    def sample(self, index: int, generator: np.random.Generator) -> Conversation:
        """One conversation. Raises DatasetError where its image can't be read."""
        entry = self._entries[index]
        image = None
        if entry.image is not None:
            where = f"{entry.source}: image {shown_path(entry.image)}"
            image = decode_image(entry.image, where, "fix it, or take the entry out")
        return Conversation(image, entry.turns, source=entry.source)

    def missing_images(self) -> list[Path]:
        """The images that entries name and that do not exist."""
        named = dict.fromkeys(entry.image for entry in self._entries if entry.image is not None)
        return [path for path in named if not path.is_file()]

    def _entry(self, value: Any, where: str) -> _Entry:
        try:
            source = f"{where} ({one_line(value['id'], 60)})" if "id" in value else where
            messages = [(message["from"], message["value"]) for message in value["conversations"]]
        except (TypeError, KeyError) as error:
            raise DatasetError(
                f"{where}: expected 'conversations', a list of 'from' and 'value' "
                f"({one_line(repr(error))})"
            ) from error
        speakers = [speaker for speaker, _ in messages]
        expected = [_QUESTION, _ANSWER] * (len(messages) // 2)
        if not messages or speakers != expected:
            raise DatasetError(
                f"{source}: human and gpt must take turns, human first: {brief(speakers)}"
            )
        if not all(isinstance(text, str) for _, text in messages):
            raise DatasetError(f"{source}: a message is not text")
        texts = [escape_unseen(text.replace(IMAGE_MARKER, "").strip()) for _, text in messages]
        if not all(texts):
            raise DatasetError(f"{source}: message {texts.index('') + 1} is empty; write it, or "
                               "take the entry out")  # fmt: skip
        path = value.get("image")
        image = inside(self._folder, path, source, DatasetError) if path else None
        if image is None and any(IMAGE_MARKER in text for _, text in messages):
            raise DatasetError(f"{source}: the text has {IMAGE_MARKER}, but there is no image")
        return _Entry(source, image, tuple(zip(texts[::2], texts[1::2], strict=True)))


def _read(path: str | Path) -> list[Any]:
    """The entries of a JSON list or of JSON Lines."""
    if str(path).endswith(".jsonl"):
        return read_json_lines(path, DatasetError, MOST_BYTES)
    entries = read_json(path, DatasetError, MOST_BYTES)
    if not isinstance(entries, list):
        raise DatasetError(f"{shown_path(path)}: expected a list of conversations")
    return entries
