"""The kinds of commands and questions in annotations, told from their words."""

import pytest

from vla.annotation.records import (
    CAPTION,
    CONTEXT,
    QUESTION,
    REJECTED,
    REWRITE,
    Entry,
    Record,
)
from vla.annotation.taxonomy import (
    ACTION,
    DIRECT,
    LOOK,
    NEGATIVE,
    PLACE,
    QUANTITY,
    REFERENCE,
    SENSE,
    SITUATED,
    STATE,
    SUBTASK,
    TOOL,
    CategoryCount,
    category_counts,
    category_of,
    category_table,
)
from vla.policies.registry import preset

# Of each category, with the instruction of the episode; the first are the paper's own (C.1).
COMMANDS = [
    ("Place the red item next to the box.", "put the apple near the box", REFERENCE),
    ("Close the one with the round handle.", "close the top drawer", REFERENCE),
    ("Shut the drawer.", "close the drawer", ACTION),
    ("Grab the can.", "pick the can", ACTION),
    ("Pick up anything but the sponge.", "pick the can", NEGATIVE),
    ("Do not take the plate, take its neighbour.", "pick the cup", NEGATIVE),
    ("To get the spoon out, what comes first? Do just that.", "open the drawer", SUBTASK),
    ("Hand me something to cut with.", "pick the knife", TOOL),
    ("Bring the thing used for wiping.", "pick the sponge", TOOL),
    ("Pick up the can, please.", "pick the can", DIRECT),
]
QUESTIONS = [
    ("How many apples are on the table?", QUANTITY),
    ("Is the cup on the left or the right of the plate?", PLACE),
    ("Where is the sponge?", PLACE),
    ("Which one is the metallic silver object?", LOOK),
    ("What color is the can?", LOOK),
    ("Which of these would you use to cut paper?", SENSE),
    ("Is the drawer currently open or closed?", STATE),
]


@pytest.mark.parametrize("said, instruction, category", COMMANDS)
def test_rewrites(said, instruction, category):
    assert category_of(REWRITE, said, instruction) == category


@pytest.mark.parametrize("said, category", QUESTIONS)
def test_questions(said, category):
    assert category_of(QUESTION, said, "pick the can") == category


@pytest.mark.parametrize(
    "said, category",
    [
        ("I want to clean the table. Which thing helps?", SITUATED),
        ("My hands are cold.", SITUATED),
        ("I am thirsty, but I don't want sparkling water.", NEGATIVE),
    ],
)
def test_contexts(said, category):
    assert category_of(CONTEXT, said, "pick the can") == category
    assert category_of(CAPTION, "", "pick the can") == ""


def test_what_was_rejected_is_not_counted():
    entries = (
        Entry(CAPTION, "", "A table with a can."),
        Entry(QUESTION, "How many cans?", "One."),
        Entry(QUESTION, "How many plates?", "One.", REJECTED),
        Entry(QUESTION, "Where is it?", "Left."),
        Entry(REWRITE, "Grab the can.", "I will."),
    )
    records = [Record(n, "pick the can", "", entries, {}, "") for n in range(2)]
    counts = category_counts(records)
    assert counts == [
        CategoryCount(CAPTION, "", 2, 1.0),
        CategoryCount(QUESTION, QUANTITY, 2, 0.5),
        CategoryCount(QUESTION, PLACE, 2, 0.5),
        CategoryCount(REWRITE, ACTION, 2, 1.0),
    ]
    lines = [line.split() for line in category_table(counts).splitlines()]
    assert lines[0] == ["captions", "2"] and lines[1] == ["questions", "4"]
    assert lines[2] == ["quantitative", "identification", "2", "50.0%"]
    assert category_table(category_counts([])) == ""


def test_the_published_preset_asks_for_captions_in_nine_ways():
    captions = preset("base").prompts.captions
    assert len(set(captions)) == 9 and all("robot" in text for text in captions)
