"""Families in which the instruction alone decides: their goals, and the sentences for each.

Of such a family one scene serves all goals, after LA4VLA (arXiv 2606.27295, sections 3.1 and 5.5).
Training draws from the first sentences of a goal; the others are for evaluation only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

ATOMIC_PREFIX = "atomic_"
PRESS_BUTTON, INSERT_BOOK, PLACE_IN_CELL = "press_button", "insert_book", "place_in_cell"

# What is said of one axis: a direction and its opposite.
OPPOSITES = (
    ("forward", "backward"),
    ("left", "right"),
    ("up", "down"),
    ("clockwise", "counterclockwise"),
)


@dataclass(frozen=True)
class Sentences:
    """The sentences of a goal, lower case."""

    train: tuple[str, ...]  # the first also answers what the robot will do
    test: tuple[str, ...]


def _each(
    words: tuple[str, ...] | Mapping[str, str], train: tuple[str, ...], test: tuple[str, ...]
) -> dict[str, Sentences]:
    """Sentences of goals by name, with the goal's words in the place of {}."""
    said = words if isinstance(words, Mapping) else {word: word for word in words}
    return {
        name: Sentences(
            tuple(text.format(text_of) for text in train),
            tuple(text.format(text_of) for text in test),
        )
        for name, text_of in said.items()
    }


_SIDES = ("forward", "backward", "left", "right")
_TURNS = ("clockwise", "counterclockwise")
# A goal is called by its direction, behind "object" where a held object is what moves.
_ATOMIC: dict[str, dict[str, Sentences]] = {
    "grasp": {
        "object": Sentences(
            ("grasp the object", "align with the object and close the gripper on it",
             "take hold of the object"),
            ("close the fingers around the object", "grip the object and hold it where it is"),
        )
    },
    "place": {
        "object": Sentences(
            ("put the held object down and open the gripper", "place the object and release it",
             "set down what is held"),
            ("lower the object , then let go of it", "put down the thing in the gripper"),
        )
    },
    "lift": {
        "up": Sentences(
            ("lift the held object", "lift the object up", "raise what is held"),
            ("bring the object higher", "move the held thing upward"),
        )
    },
    "lower": {
        "down": Sentences(
            ("lower the held object", "lower the object and keep holding it",
             "bring down what is held"),
            ("hold the object lower", "move the held thing downward"),
        )
    },
    "transport": _each(
        _SIDES,
        ("carry the held object {}", "move the object {} without putting it down",
         "transport the object {}"),
        ("take the held thing {}", "shift what the gripper holds {}"),
    ),
    "wrist_rotate": _each(
        _TURNS,
        ("rotate the held object {}", "turn the object {} about the tool 's axis",
         "turn what is held {}"),
        ("twist the held thing {}", "spin the object {} with the wrist"),
    ),
    "reorient": {
        **_each(
            ("forward", "backward"),
            ("tilt the gripper {}", "tip the empty gripper {}", "turn the fingers to point {}"),
            ("lean the hand {}", "incline the gripper {}"),
        ),
        **_each(
            {"object forward": "forward", "object backward": "backward"},
            ("tilt the held object {}", "tip the object {}", "turn what is held so it leans {}"),
            ("lean the held thing {}", "incline the object {}"),
        ),
    },
    "push": {
        "forward": Sentences(
            ("push forward", "push the object forward", "push it away from the arm"),
            ("shove it forward", "slide the object away from the arm"),
        )
    },
    "pull": {
        "backward": Sentences(
            ("pull backward", "pull the object backward", "pull it toward the arm"),
            ("draw it backward", "slide the object toward the arm"),
        )
    },
    "press": {
        "down": Sentences(
            ("press down on the target", "press the target", "push the target down"),
            ("press what is below the gripper", "bear down on the target"),
        )
    },
    "move": _each(
        (*_SIDES, "up", "down"),
        ("move the gripper {}", "move the empty gripper {}", "shift the gripper {}"),
        ("bring the hand {}", "guide the gripper {}"),
    ),
    "rotate": _each(
        _TURNS,
        ("rotate the gripper {}", "turn the gripper {} about its axis", "turn the hand {}"),
        ("twist the empty gripper {}", "spin the hand {}"),
    ),
    "wait": {
        "empty": Sentences(
            ("wait without moving", "stay where you are", "keep the gripper still"),
            ("do not move", "hold still"),
        ),
        "holding": Sentences(
            ("wait without moving , holding the object", "keep the held object still",
             "stay where you are and keep holding the object"),
            ("hold the object and do not move", "hold still with the object"),
        ),
    },
}  # fmt: skip

# Seen from the robot: top is far from it. The paper's order of trials.
BUTTONS = ("top right", "bottom right", "bottom left", "top left")
SHELVES = ("top", "middle", "bottom")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")
CELLS = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)


def _cell_words(cell: str) -> str:
    row, column = cell.split()
    if row == column == "middle":
        return "center cell"
    return f"{row} {column} cell"


# Goals by family, in the order in which seeds go through them.
GOALS: Mapping[str, Mapping[str, Sentences]] = MappingProxyType(
    {
        **{f"{ATOMIC_PREFIX}{primitive}": goals for primitive, goals in _ATOMIC.items()},
        PRESS_BUTTON: _each(
            BUTTONS,
            ("press the {} button", "push the {} button", "press the button at the {}",
             "touch the {} button"),
            ("hit the button on the {}", "use your finger on the {} button"),
        ),
        INSERT_BOOK: _each(
            SHELVES,
            ("insert the book into the {} shelf", "put the book into the {} shelf",
             "slide the book into the {} shelf", "place the book in the {} shelf"),
            ("push the book onto the {} shelf", "file the book away in the {} shelf"),
        ),
        PLACE_IN_CELL: _each(
            {cell: _cell_words(cell) for cell in CELLS},
            ("place the can in the {}", "put the can in the {}", "set the can down in the {}",
             "put the can upright into the {}"),
            ("stand the can in the {}", "the can belongs in the {} , put it there"),
        ),
    }
)  # fmt: skip
GOAL_FAMILIES = tuple(GOALS)
ATOMIC_FAMILIES = tuple(family for family in GOALS if family.startswith(ATOMIC_PREFIX))
INSTRUCTED_FAMILIES = (PRESS_BUTTON, INSERT_BOOK, PLACE_IN_CELL)


def goal_of(family: str, seed: int) -> str:
    """The goal of a seed: those that follow each other go through all goals in one scene."""
    goals = tuple(GOALS[family])
    return goals[seed % len(goals)]


def scene_seed(family: str, seed: int) -> int:
    """The seed of the scene that a seed shares with those of the other goals."""
    return seed // len(GOALS[family]) if family in GOALS else seed


def goal_of_answer(family: str, answer: str) -> str:
    """The goal behind an answer, which is its first sentence. Raises ValueError for another."""
    said = answer.rstrip(" .")
    for goal, sentences in GOALS[family].items():
        if sentences.train[0] == said:
            return goal
    raise ValueError(f"no goal of '{family}' is said as '{answer}'")
