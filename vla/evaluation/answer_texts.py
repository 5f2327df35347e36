"""Answers of a policy beside reference texts: their file, and how they are made comparable."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vla.core.files import checked_text, read_json
from vla.core.shown import brief, shown_path
from vla.evaluation.errors import AnswerError

MOST_BYTES = 200_000_000
MOST_LETTERS = 1024  # of a text that is compared, as the authors cut it
_LONGEST = 100_000
_MARKS = re.compile(r"ASSISTANT:|\n|</?s>|<unk>|</?p>|<ref>|<\|endoftext\|>")
_NUMBERS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
]
# What the authors' cleaning, which comes from SQA3D and LEO, makes of single words.
_WORDS: Mapping[str, str] = MappingProxyType(
    {str(number): word for number, word in enumerate(_NUMBERS)}
    | {
        "23": "twenty-three",
        "none": "zero",
        "letf": "left",
        "let": "left",
        "tehre": "there",
        "rigth": "right",
        "brght": "right",
        "behine": "behind",
        "chai": "chair",
        "wasing": "washing",
        "waslked": "walked",
        "oclock": "o'clock",
        "backwards": "backward",
    }
)


@dataclass(frozen=True)
class GivenAnswer:
    """What was asked, what was answered, and what should have been."""

    key: str  # identifies it among those of its kind
    response: str
    gt: str  # the reference
    kind: str = ""  # such as "caption", "question" and "instruction"
    question: str = ""
    image: str = ""  # JPEG of what was asked about, base64; "" where there is none


def comparable(text: str) -> str:
    """A text as InstructVLA's authors compare it: without marks, capitals, articles and digits."""
    text = re.sub(r"\s{2,}", " ", _MARKS.sub("", text).strip())[:MOST_LETTERS].lower()
    text = re.sub(r"[^a-z0-9,'\s\-:]+", "", text.strip())
    text = re.sub(r"\b\w+\b", lambda found: _WORDS.get(found[0], found[0]), text)
    text = re.sub(r"\b([a-z]+)[0-9]\b", r"\1", text)  # "mat2" is a mat
    return re.sub(r"\b(?:a|an|the) (?=[a-z])", "", text)


def read_answers(path: str | Path) -> list[GivenAnswer]:
    """The answers of a file: a list of {"key", "response", "gt"}, as the authors write it.

    "kind", "question" and "image" may be there, too; the list may be the entry "answers" of a
    report. Raises AnswerError that names the entry.
    """
    values, shown = read_json(path, AnswerError, MOST_BYTES), shown_path(path)
    if isinstance(values, dict):
        values = values.get("answers")
    if not isinstance(values, list) or not values:
        raise AnswerError(f"{shown} has no answers: expected a list of key, response and gt")
    answers = [_answer(value, f"{shown}: entry {n}") for n, value in enumerate(values, start=1)]
    keys: set[tuple[str, str]] = set()
    for entry in answers:
        if (entry.kind, entry.key) in keys:
            raise AnswerError(f"{shown} has the key {brief(entry.key)} twice; remove one")
        keys.add((entry.kind, entry.key))
    return answers


def _answer(value: Any, where: str) -> GivenAnswer:
    if not isinstance(value, dict):
        raise AnswerError(f"{where} is no answer, but {brief(value)}")
    if missing := [name for name in ("key", "response", "gt") if name not in value]:
        raise AnswerError(f"{where} lacks '{missing[0]}'; an answer has key, response and gt")
    texts = {
        name: checked_text(value[name], f"{where}: {name}", AnswerError, _LONGEST)
        for name in ("response", "gt", "kind", "question", "image")
        if name in value
    }
    return GivenAnswer(str(value["key"]), **texts)


def by_kind(answers: Sequence[GivenAnswer]) -> dict[str, list[GivenAnswer]]:
    """The answers of each kind, in the order in which the kinds come."""
    found: dict[str, list[GivenAnswer]] = {}
    for entry in answers:
        found.setdefault(entry.kind or "all", []).append(entry)
    return found
