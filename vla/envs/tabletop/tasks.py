"""Task families of the table-top scene: what is asked, in which words, and when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vla.envs.tabletop.goal_sentences import GOAL_FAMILIES, GOALS, goal_of_answer

# What the shipped policy was trained on. Data, seeds and shares depend on these four alone.
FAMILIES = ("pick", "place", "open_drawer", "close_drawer")
# What it was not trained on, to be taught from a few demonstrations.
NEW_FAMILIES = ("store",)
ALL_FAMILIES = FAMILIES + NEW_FAMILIES
# What chains of tasks need besides (vla.envs.chains), in plain words only.
CHAIN_FAMILIES = ("stow", "lay")
RECALL = "recall"  # see vla.envs.tabletop.recall
# Those that a running graph can do: it begins with open fingers.
SCENE_FAMILIES = (*ALL_FAMILIES, *CHAIN_FAMILIES, RECALL)
KNOWN_FAMILIES = SCENE_FAMILIES + GOAL_FAMILIES  # see vla.envs.tabletop.goals
# Evaluation uses scenes of seeds below this one; demonstrations those from it on.
FIRST_TRAINING_SEED = 1_000_000
COLORS = ("red", "green", "blue", "yellow", "purple")
KINDS = ("block", "can")
DESTINATIONS = ("bowl", "plate")
BUTTON = "button"
CABINET, DRAWER, TABLE = "cabinet", "drawer", "table"

_VERBS = {
    "pick": ("pick up", "grab", "take", "lift", "get", "grasp", "hold up", "fetch"),
    "place": ("put", "place", "drop", "set", "move"),
    "open_drawer": ("open", "pull open", "slide open"),
    "close_drawer": ("close", "shut", "push closed"),
    "store": ("put", "place", "set", "move", "lay"),
    "stow": ("put", "place", "drop", "stow"),
    "lay": ("put", "place", "set", "lay"),
    RECALL: ("press", "push", "touch"),
}
_PREFIXES = ("", "", "", "please ", "can you ", "could you ", "now ", "robot , ", "i want you to ")
_KIND_WORDS = {"block": ("block", "block", "cube"), "can": ("can", "can", "tin")}
_INTO = {
    "bowl": ("in the bowl", "into the bowl", "inside the bowl"),
    "plate": ("on the plate", "onto the plate", "on top of the plate"),
    CABINET: ("on top of the cabinet", "onto the cabinet", "on the cabinet"),
    DRAWER: ("in the drawer", "into the drawer", "inside the drawer"),
    TABLE: ("on the table", "onto the table", "down on the table"),
}
_LAMP_WORDS = ("of the color of the lamp", "that has the color of the lamp", "in the lamp 's color")


@dataclass(frozen=True)
class TaskStatus:
    """How far a task is."""

    success: bool  # it is done now
    # Another object than its own was lifted, or pressed, since it began; or another goal reached.
    wrong_object: bool
    is_lost: bool = False  # it can't be done any more


@dataclass(frozen=True)
class Task:
    """One thing to do."""

    family: str
    target: str  # such as "red block" or "red button", "drawer", or one of the family's GOALS
    destination: str = ""  # "bowl", "plate", "cabinet", "drawer", "table" or ""
    instruction: str = ""

    def text(self) -> str:
        """The task in a fixed form that parse_task reads, such as "place/red block/bowl"."""
        return "/".join(part for part in (self.family, self.target, self.destination) if part)

    def answer(self) -> str:
        """What the robot says that it will do, in one sentence."""
        if self.family in GOALS:
            return f"{GOALS[self.family][self.target].train[0]} ."
        if self.family == "pick":
            return f"pick up the {self.target} ."
        if self.family == RECALL:
            return f"press the {self.target} ."
        if self.destination:
            return f"put the {self.target} {_INTO[self.destination][0]} ."
        return "open the drawer ." if self.family == "open_drawer" else "close the drawer ."


def parse_task(text: str) -> Task:
    """Reads Task.text(); raises ValueError that says what a task looks like."""
    parts = [part.strip() for part in text.split("/")]
    expected = (
        "expected such as 'pick/red block', 'place/blue can/bowl', 'store/red can/cabinet' or "
        "'open_drawer/drawer'"
    )
    if parts[0] not in KNOWN_FAMILIES:
        raise ValueError(f"unknown task family '{parts[0]}'; known: {', '.join(KNOWN_FAMILIES)}")
    if parts[0] in GOALS:
        if len(parts) != 2 or parts[1] not in GOALS[parts[0]]:
            goals = ", ".join(GOALS[parts[0]])
            raise ValueError(f"cannot read task '{text}'; goals of '{parts[0]}': {goals}")
        return Task(*parts)
    if parts[0] in ("open_drawer", "close_drawer"):
        return Task(parts[0], "drawer")
    words = parts[1].split() if len(parts) > 1 else []
    kinds = (BUTTON,) if parts[0] == RECALL else KINDS
    if len(words) != 2 or words[0] not in COLORS or words[1] not in kinds:
        raise ValueError(f"cannot read task '{text}'; {expected}")
    if parts[0] in ("pick", RECALL) and len(parts) == 2:
        return Task(parts[0], parts[1])
    if len(parts) == 3 and parts[2] in _destinations(parts[0]):
        return Task(*parts)
    raise ValueError(f"cannot read task '{text}'; {expected}")


def _destinations(family: str) -> tuple[str, ...]:
    """Where a family's objects can go; nowhere for most."""
    only = {"store": (CABINET,), "stow": (DRAWER,), "lay": (TABLE,)}
    return DESTINATIONS if family == "place" else only.get(family, ())


def task_of_answer(family: str, answer: str) -> Task:
    """The task behind Task.answer(). Raises ValueError when the answer names none."""
    if family in GOALS:
        return Task(family, goal_of_answer(family, answer))
    words = answer.rstrip(" .").split()
    names = [f"{a} {b}" for a, b in pairwise(words) if b in (*KINDS, BUTTON)]
    target = names[0] if names else "drawer"
    destination = words[-1] if _destinations(family) else ""
    return parse_task("/".join(part for part in (family, target, destination) if part))


def phrase(task: Task, generator: np.random.Generator) -> str:
    """An instruction for the task in varied words, lower case."""
    if task.family in GOALS:
        return str(generator.choice(GOALS[task.family][task.target].train))
    verb = str(generator.choice(_VERBS[task.family]))
    prefix = str(generator.choice(_PREFIXES))
    if task.target == "drawer":
        return f"{prefix}{verb} the drawer"
    if task.family == RECALL:  # which one, only the lamp has shown
        return f"{prefix}{verb} the button {generator.choice(_LAMP_WORDS)}"
    color, kind = task.target.split()
    target = f"the {color} {generator.choice(_KIND_WORDS[kind])}"
    if task.family == "pick":
        suffix = str(generator.choice(("", "", "", " from the table")))
        return f"{prefix}{verb} {target}{suffix}"
    return f"{prefix}{verb} {target} {generator.choice(_INTO[task.destination])}"


def sample_task(family: str, objects: list[str], generator: np.random.Generator) -> Task:
    """Draws target, destination and wording for a family in a scene.

    objects: names of what a task can be about: blocks and cans, or buttons.
    """
    if family not in KNOWN_FAMILIES:
        raise ValueError(f"unknown task family '{family}'; known: {', '.join(KNOWN_FAMILIES)}")
    if family == "stow":  # a can is too high for the drawer
        objects = [name for name in objects if name.endswith("block")]
    target = "drawer" if family.endswith("drawer") else str(generator.choice(objects))
    destinations = _destinations(family)
    destination = str(generator.choice(destinations)) if destinations else ""
    task = Task(family, target, destination)
    return Task(family, target, destination, phrase(task, generator))
