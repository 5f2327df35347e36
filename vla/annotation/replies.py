"""What a model must reply, and whether what it replied can be used."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vla.annotation.schema import object_schema, reply_by_schema, reply_error
from vla.core.text import unseen_character
from vla.datasets.sample import Annotation, Pair

PAIR_LISTS = ("question_answers", "command_rewrites", "contexts")
LONGEST_CAPTION = 600
LONGEST_TEXT = 300
_PAIR = object_schema({"question": {"type": "string"}, "answer": {"type": "string"}})
# How many pairs there are is checked here alone.
REPLY_SCHEMA = object_schema(
    {
        "caption": {"type": "string"},
        **{name: {"type": "array", "items": _PAIR} for name in PAIR_LISTS},
    }
)
_ROBOT = re.compile(
    r"\b(robots?|robotic|grippers?|manipulators?|end[- ]?effectors?|(mechanical )?arms?)\b", re.I
)
# Training shows one image at a time, at any moment of the episode.
_FRAME = re.compile(
    r"\b(first|second|third|last|middle|final|next|previous) (image|frame|picture|photo)s?\b"
    r"|\b(images|frames|pictures|photos)\b|\b(image|frame|picture|photo) (1|2|3|one|two|three)\b",
    re.I,
)


@dataclass(frozen=True)
class PairCounts:
    """How many pairs of each kind a model is asked for; from half to double as many are taken."""

    questions: int = 4
    rewrites: int = 4
    contexts: int = 3

    def __post_init__(self):
        if min(self.questions, self.rewrites, self.contexts) < 1:
            raise ValueError("ask for at least one question, one rewrite and one context")


def read_reply(text: str, instruction: str, wanted: PairCounts = PairCounts()) -> Annotation:
    """The annotation in a reply. Raises ReplyError that says all that is wrong with it.

    instruction: the command that the episode carries out, which a rewrite must not repeat.
    """
    value = reply_by_schema(text, REPLY_SCHEMA)
    caption = _tidy(value["caption"])
    pairs = {
        name: tuple((_tidy(p["question"]), _tidy(p["answer"])) for p in value[name])
        for name in PAIR_LISTS
    }
    problems = caption_problems(caption)
    least = (wanted.questions, wanted.rewrites, wanted.contexts)
    for name, asked in zip(PAIR_LISTS, least, strict=True):
        if not max(1, asked // 2) <= len(pairs[name]) <= 2 * asked:
            problems.append(f"{name} has {len(pairs[name])} entries, {asked} are wanted")
        for index, pair in enumerate(pairs[name]):
            problems += [f"{name}[{index}]: {problem}" for problem in pair_problems(pair)]
    problems += _repetitions(pairs, instruction)
    if problems:
        raise reply_error(problems)
    return Annotation(caption, *(pairs[name] for name in PAIR_LISTS))


def caption_problems(caption: str) -> list[str]:
    """What is wrong with a caption, in sentences."""
    problems = []
    if len(caption.split()) < 3:
        problems.append("caption is empty or shorter than three words")
    if len(caption) > LONGEST_CAPTION:
        problems.append(f"caption has {len(caption)} characters, at most {LONGEST_CAPTION} may be")
    if found := _ROBOT.search(caption):
        problems.append(f"caption mentions the robot ('{found[0]}'): describe the scene without it")
    if unseen := unseen_character(caption):
        problems.append(f"caption has {unseen}")
    return problems + _frame_problems("caption", caption)


def pair_problems(pair: Pair) -> list[str]:
    """What is wrong with a question and its answer, in sentences."""
    problems = []
    for name, text in zip(("question", "answer"), pair, strict=True):
        if not re.search(r"\w", text):
            problems.append(f"{name} is empty")
        if len(text) > LONGEST_TEXT:
            problems.append(f"{name} has {len(text)} characters, at most {LONGEST_TEXT} may be")
        if found := unseen_character(text):
            problems.append(f"{name} has {found}")
        problems += _frame_problems(name, text)
    if not problems and _plain(pair[0]) == _plain(pair[1]):
        problems.append("question and answer are the same")
    return problems


def _repetitions(pairs: dict[str, tuple[Pair, ...]], instruction: str) -> list[str]:
    """Questions that are there twice, and rewrites that repeat the instruction."""
    seen: dict[str, str] = {}
    problems = []
    for name in PAIR_LISTS:
        for index, (question, _) in enumerate(pairs[name]):
            place, text = f"{name}[{index}]", _plain(question)
            if name != "question_answers" and text == _plain(instruction):
                problems.append(f"{place} repeats the instruction")
            elif text in seen:
                problems.append(f"{place} repeats {seen[text]}")
            seen.setdefault(text, place)
    return problems


def _frame_problems(name: str, text: str) -> list[str]:
    found = _FRAME.search(text)
    return [f"{name} speaks of '{found[0]}': the reader sees one moment only"] if found else []


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
