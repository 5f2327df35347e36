"""Which kinds of commands and questions annotations hold (InstructVLA, appendix C.1).

A category is told from the words of an entry and of the episode's instruction, without a model: the
first whose rule fits. It is a count to compare data sets by, and wrong about single entries.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vla.annotation.records import CAPTION, CONTEXT, KINDS, QUESTION, REJECTED, REWRITE, Record

# Of rewritten commands and contexts.
NEGATIVE, SUBTASK, TOOL, REFERENCE, ACTION, SITUATED, DIRECT = COMMANDS = (
    "negative task specification",
    "subtask identification",
    "tool-use understanding",
    "complex object referencing",
    "novel action referencing",
    "situated task identification",
    "direct instruction",
)
# Of questions.
QUANTITY, PLACE, STATE, LOOK, SENSE = QUESTIONS = (
    "quantitative identification",
    "spatial identification",
    "state identification",
    "visual identification",
    "commonsense answering",
)

_NEGATION = (
    r"\b(not|don't|doesn't|isn't|aren't|never|no|neither|without|except|but not|rather than"
    r"|other than|anything but|instead of|leave out)\b"
)
_SEQUENCE = (
    r"\b(first|then|next(?! to)|afterwards?|before|after|step|start by|begin (by|with)|finally)\b"
)
_PURPOSE = (
    r"\b(something|anything|tool|thing|one|what|object) (\w+ )?(to|for|that|which)\b"
    r"|\b(used|useful|meant|made|good|suitable) (for|to)\b|\b\w+ (with which|for \w+ing)\b"
)
_RELATION = (
    r"\b(left|right|next to|beside|between|behind|in front of|near(est|er)?|closest|farthest|under"
    r"|above|below|corner|edge|middle|centre|center|other side|across)\b"
)
_ATTRIBUTE = r"\b(one|item|object|thing|piece|that|which|whose|with (a|the)|it|them)\b"
_SITUATION = (
    r"\b(i am|i'm|i feel|i want|i would|i'd|i need|i have|my|we|we're|our|someone|somebody"
    r"|it is (too|getting|time)|should)\b"
)
_QUESTION_RULES = (
    (QUANTITY, r"\b(how (many|much)|number of|count|amount)\b"),
    (SENSE, r"\b(why|would|could|should|used? (for|to)|use|purpose|good for|eat|drink|edible)\b"),
    (PLACE, rf"\bwhere\b|{_RELATION}|\b(on|in|inside|on top of) (what|which)\b|\blocated\b"),
    (STATE, r"\b(open|opened|closed|shut|empty|full|clean|dirty|upright|lying|stacked|switched"
            r"|turned|state|condition|still)\b"),
)  # fmt: skip
# Words that say nothing about an action or an object.
_COMMON = {"a", "an", "the", "to", "of", "in", "on", "at", "from", "for", "and", "please", "up"}


@dataclass(frozen=True)
class CategoryCount:
    """How many entries of an annotation there are of a kind and category."""

    kind: str  # of vla.annotation.records
    category: str  # "" for captions
    entries: int
    share: float  # of its kind


def category_of(kind: str, question: str, instruction: str) -> str:
    """The category of an entry of an episode with an instruction; "" of a caption.

    kind: of vla.annotation.records. question: what the person says.
    """
    if kind == CAPTION:
        return ""
    if kind == QUESTION:
        return next((name for name, rule in _QUESTION_RULES if _says(rule, question)), LOOK)
    for name, rule in ((NEGATIVE, _NEGATION), (SUBTASK, _SEQUENCE), (TOOL, _PURPOSE)):
        if _says(rule, question):
            return name
    if kind == CONTEXT or _says(_SITUATION, question):
        return SITUATED
    own, given = _words(question), _words(instruction)
    if _says(_RELATION, question) or (_says(_ATTRIBUTE, question) and own[1:] != given[1:]):
        return REFERENCE
    # The verb comes first in a command.
    return ACTION if own[:1] != given[:1] else DIRECT


def category_counts(records: Iterable[Record]) -> list[CategoryCount]:
    """Entries that no reviewer rejected, by kind and category, in the paper's order of kinds."""
    counts: Counter[tuple[str, str]] = Counter()
    for record in records:
        for entry in record.entries:
            if entry.verdict != REJECTED:
                name = category_of(entry.kind, entry.question, record.instruction)
                counts[entry.kind, name] += 1
    totals: Mapping[str, int] = Counter(kind for kind, _ in counts.elements())
    order = {CAPTION: ("",), QUESTION: QUESTIONS, REWRITE: COMMANDS, CONTEXT: COMMANDS}
    return [
        CategoryCount(kind, name, counts[kind, name], counts[kind, name] / totals[kind])
        for kind in KINDS
        for name in order[kind]
        if counts[kind, name]
    ]


def category_table(counts: list[CategoryCount]) -> str:
    """The counts as a table to print."""
    names = {CAPTION: "captions", QUESTION: "questions", REWRITE: "rewrites", CONTEXT: "contexts"}
    lines = []
    for kind in dict.fromkeys(count.kind for count in counts):
        own = [count for count in counts if count.kind == kind]
        lines.append(f"{names[kind]:<32} {sum(count.entries for count in own):>8,}")
        lines += [
            f"  {count.category:<30} {count.entries:>8,} {count.share:>7.1%}"
            for count in own
            if count.category
        ]
    return "\n".join(lines)


def _says(rule: str, text: str) -> bool:
    return re.search(rule, text, re.IGNORECASE) is not None


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[\w']+", text.casefold()) if word not in _COMMON]
