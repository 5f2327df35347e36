"""One row of a file of conversations, in the forms that released sets have.

Messages are `conversations` or `messages`, each with `from` and `value` (LLaVA, ShareGPT4V, Bunny)
or `role` and `content`, from human and gpt, or user and assistant. Images are `image` or `images`,
a path or a list of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from vla.core.files import inside
from vla.core.shown import brief, listed
from vla.core.text import escape_unseen, one_line
from vla.datasets.frames import DatasetError
from vla.datasets.sample import Pair

IMAGE_MARKER = "<image>"
# More than any conversation has.
MOST_IMAGES = 64
_QUESTION, _ANSWER, _SYSTEM = "question", "answer", "system"
_SPEAKERS = {
    "human": _QUESTION,
    "user": _QUESTION,
    "gpt": _ANSWER,
    "assistant": _ANSWER,
    "system": _SYSTEM,
}
# Kinds of input that nothing here reads.
_OTHER_INPUT = ("video", "videos", "audio", "audios")


@dataclass(frozen=True)
class ConversationRow:
    """What a row says; its images are not read yet."""

    source: str  # file, number and id, for error messages
    images: tuple[Path, ...]
    turns: tuple[Pair, ...]  # questions and answers, without markers of images


def read_row(value: Any, where: str, folder: Path) -> ConversationRow:
    """A row from plain values. where: file and number. folder: of the images' relative paths.

    Answers before the first question, and a question that nothing answers, are left out, as LLaVA's
    code does; what the system says comes before the first question. Raises DatasetError that names
    the row where its shape is another, an image's path leads elsewhere, or a text is empty.
    """
    if isinstance(value, dict) and value.get("id") not in (None, ""):
        where = f"{where} ({one_line(value['id'], 60)})"
    try:
        messages = [_message(entry) for entry in _messages(value)]
    except (TypeError, KeyError) as error:
        raise DatasetError(
            f"{where}: expected 'conversations', a list of 'from' and 'value', or 'messages', a "
            f"list of 'role' and 'content' ({one_line(repr(error))})"
        ) from error
    if other := [name for name in _OTHER_INPUT if value.get(name)]:
        raise DatasetError(f"{where}: it is about {listed(other)}, which cannot be read")
    paths = _paths(value, where)
    images = tuple(inside(folder, path, where, DatasetError) for path in paths)
    turns = _turns(messages, where, bool(images))
    markers = sum(text.count(IMAGE_MARKER) for _, text in messages)
    if markers > len(images):
        held = "there is no image" if not images else f"there are {len(images)} images"
        raise DatasetError(f"{where}: the text has {markers} times {IMAGE_MARKER}, but {held}")
    return ConversationRow(where, images, turns)


def _messages(value: Any) -> list[Any]:
    found = value["messages"] if "messages" in value else value["conversations"]
    if not isinstance(found, list):
        raise TypeError(f"{brief(found)} is no list")
    return found


def _message(entry: Any) -> tuple[Any, str]:
    """Who says what. Raises TypeError or KeyError for another shape."""
    speaker, text = (
        (entry["from"], entry["value"]) if "from" in entry else (entry["role"], entry["content"])
    )
    if isinstance(text, list):
        text = "".join(_part(part) for part in text)
    if not isinstance(text, str):
        raise TypeError(f"a message is not text: {brief(text)}")
    return speaker, text


def _part(part: Any) -> str:
    """A piece of a message in pieces: text, or the place of an image."""
    if part["type"] == "text":
        return part["text"]
    if part["type"] == "image":
        return IMAGE_MARKER
    raise TypeError(f"a part of a message is {brief(part['type'])}")


def _paths(value: dict[str, Any], where: str) -> list[Any]:
    found = value.get("images") or value.get("image") or []
    found = found if isinstance(found, list) else [found]
    if len(found) > MOST_IMAGES:
        raise DatasetError(f"{where}: it has {len(found)} images, more than {MOST_IMAGES}")
    return found


def _turns(messages: list[tuple[Any, str]], where: str, sees: bool) -> tuple[Pair, ...]:
    speakers = [_SPEAKERS.get(who) if isinstance(who, str) else None for who, _ in messages]
    texts = [escape_unseen(text.replace(IMAGE_MARKER, "").strip()) for _, text in messages]
    told = [text for who, text in zip(speakers, texts, strict=True) if who == _SYSTEM and text]
    said = [(who, text) for who, text in zip(speakers, texts, strict=True) if who != _SYSTEM]
    while said and said[0][0] == _ANSWER:
        del said[0]
    if said and said[-1][0] == _QUESTION:
        del said[-1]
    alternate = all(sum(1 for _ in run) == 1 for _, run in groupby(who for who, _ in said))
    if None in speakers or not said or not alternate:
        raise DatasetError(
            f"{where}: human and gpt, or user and assistant, must take turns, with an answer to a "
            f"question: {brief([who for who, _ in messages])}"
        )
    questions, answers = [text for _, text in said[::2]], [text for _, text in said[1::2]]
    questions[0] = "\n".join([*told, questions[0]]).strip()
    # An image may be all that is asked.
    if not all(answers) or not all(questions[1:]) or not (questions[0] or sees):
        raise DatasetError(f"{where}: a message is empty; write it, or take the row out")
    return tuple(zip(questions, answers, strict=True))
