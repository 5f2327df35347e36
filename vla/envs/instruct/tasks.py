"""The tasks: the file that holds them, and what is checked of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from math import hypot
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from vla.core.configuration import read_dataclass
from vla.core.files import read_yaml
from vla.core.shown import listed, shown_path
from vla.envs.base import SuiteError
from vla.envs.instruct.things import Thing, read_thing
from vla.envs.tabletop.scene import BOWL_RADIUS, PLATE_RADIUS
from vla.envs.tabletop.tasks import CABINET, DESTINATIONS, DRAWER, Task

SHIPPED = Path(__file__).with_name("tasks.yaml")
LEVELS = ("instruction_aggregation", "situated_reasoning")
# The level of each category.
CATEGORIES: Mapping[str, int] = MappingProxyType(
    {
        "other_verbs": 1,
        "other_languages": 1,
        "by_place": 1,
        "by_order": 1,
        "by_neighbor": 1,
        "by_size_and_color": 1,
        "negation": 1,
        "two_parts": 1,
        "new_objects": 1,
        "small_talk": 1,
        "needs": 2,
        "consequences": 2,
        "tidying": 2,
        "tools": 2,
        "next_step": 2,
        "commonsense": 2,
    }
)
LEAST_INSTRUCTIONS = 3
_DESTINATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"pick": (), "place": DESTINATIONS, "store": (CABINET,)}
)
# Where a thing may lie when a task begins, but on the table.
_RESTS = (*DESTINATIONS, CABINET)
_MOST_OF_A_KIND = 3  # blocks, or cans
GAP = 0.02  # between things, at least [m]
# What the arm reaches [m]: x away from the robot, y to its left.
_REACH = ((0.34, 0.66), (-0.32, 0.12))

Place = tuple[float, float]  # x and y [m] in the base frame


@dataclass(frozen=True)
class InstructTask:
    """One task of the benchmark, as the file has it."""

    id: str
    level: Literal[1, 2]
    category: str
    # What is on the table: names, and where each stands, or "bowl", "plate" or "cabinet".
    things: dict[str, Place | str] = field(metadata={"bounds": (-1.0, 1.0)})
    instructions: tuple[str, ...]
    do: tuple[str, ...]  # parts in their order, such as "place/red can/bowl"
    # What it is to take, move or use by mistake: things, places, or the drawer.
    misread: tuple[str, ...]
    drawer: Literal["closed", "open"] = "closed"  # when it begins
    bowl: Place | None = field(default=None, metadata={"bounds": (-1.0, 1.0)})
    plate: Place | None = field(default=None, metadata={"bounds": (-1.0, 1.0)})

    def __post_init__(self):
        if self.category not in CATEGORIES:
            raise ValueError(f"unknown category '{self.category}'; known: {', '.join(CATEGORIES)}")
        if self.level != CATEGORIES[self.category]:
            raise ValueError(
                f"category '{self.category}' is of level {CATEGORIES[self.category]}, not "
                f"{self.level}"
            )
        count = len(set(self.instructions))
        if count < LEAST_INSTRUCTIONS:
            raise ValueError(
                f"it has {count} instructions; write {LEAST_INSTRUCTIONS} different ones or more"
            )
        _require_scene(self)
        if not self.do:
            raise ValueError("nothing is to be done; name at least one part under 'do'")
        _require_parts(self.parts)
        for part in self.parts:
            _require_possible(self, part)
        _require_misread(self)

    @property
    def parts(self) -> tuple[Task, ...]:
        """What is to be done, in this order."""
        return tuple(_part(text, self.things) for text in self.do)

    @property
    def named_things(self) -> tuple[Thing, ...]:
        """What the names of the things describe."""
        return tuple(read_thing(name) for name in self.things)

    @property
    def landmarks(self) -> dict[str, tuple[Place, float]]:
        """Bowl and plate as far as they are on the table: place and radius [m]."""
        given = (("bowl", self.bowl, BOWL_RADIUS), ("plate", self.plate, PLATE_RADIUS))
        return {name: (place, radius) for name, place, radius in given if place is not None}

    def instruction(self, seed: int) -> str:
        """The words of a seed; seeds that follow each other go through them all."""
        return self.instructions[seed % len(self.instructions)]


def _part(text: str, things: Sequence[str] | Mapping[str, object]) -> Task:
    """A part of a task, such as "place/red can/bowl". Raises ValueError."""
    family, *rest = (word.strip() for word in text.split("/"))
    if family in ("open_drawer", "close_drawer") and rest in ([], [DRAWER]):
        return Task(family, DRAWER)
    known = family in _DESTINATIONS
    if not known or len(rest) != 1 + bool(_DESTINATIONS[family]):
        raise ValueError(
            f"cannot read '{text}'; write such as 'pick/red can', 'place/red can/bowl', "
            "'store/red can/cabinet', 'open_drawer' or 'close_drawer'"
        )
    if rest[0] not in things:
        raise ValueError(f"'{text}' needs the {rest[0]}, which the scene lacks: {listed(things)}")
    if rest[1:] and rest[1] not in _DESTINATIONS[family]:
        raise ValueError(f"'{text}': a {family} goes to {listed(_DESTINATIONS[family])}")
    return Task(family, *rest)


def _require_scene(task: InstructTask) -> None:
    """Raises ValueError for things that are unknown, too many, or in each other's way."""
    kinds = Counter(thing.kind for thing in task.named_things)
    for kind, most in (("block", _MOST_OF_A_KIND), ("can", _MOST_OF_A_KIND)):
        if kinds[kind] > most:
            raise ValueError(f"the scene has {kinds[kind]} {kind}s, and {most} is the most")
    taken = list(task.landmarks.items())
    for thing in task.named_things:
        place = task.things[thing.name]
        if isinstance(place, str):
            if place not in _RESTS or (place in DESTINATIONS and place not in task.landmarks):
                raise ValueError(f"the {thing.name} is on '{place}', which the scene lacks")
        else:
            taken.append((thing.name, (place, thing.reach)))
    for name, ((x, y), _) in taken:
        if not (_REACH[0][0] <= x <= _REACH[0][1] and _REACH[1][0] <= y <= _REACH[1][1]):
            raise ValueError(f"the {name} is out of the arm's reach: {x:g}, {y:g}")
    for (one, ((x, y), r)), (two, ((a, b), q)) in combinations(taken, 2):
        if hypot(x - a, y - b) < r + q + GAP - 1e-6:
            raise ValueError(
                f"the {one} and the {two} are closer than {100 * GAP:g} cm; move one away"
            )


def _require_parts(parts: Sequence[Task]) -> None:
    """Raises ValueError for parts that undo each other."""
    for first, second in combinations(parts, 2):
        if first.target == second.target:
            raise ValueError(f"the {first.target} is in two parts; a task does one thing with each")
        if first.family == "pick":
            raise ValueError(f"'{first.text()}' can only be the last part: the hand is full then")


def _require_possible(task: InstructTask, part: Task) -> None:
    """Raises ValueError for a part that is done when the task begins, or that can't be done."""
    if part.target == DRAWER:
        holds = (part.family == "open_drawer") == (task.drawer == "open")
    else:
        holds = bool(part.destination) and task.things[part.target] == part.destination
    if holds:
        raise ValueError(f"'{part.text()}' is done when the task begins; change the scene")
    if part.destination in DESTINATIONS and part.destination not in task.landmarks:
        raise ValueError(f"'{part.text()}' needs the {part.destination}, which the scene lacks")
    if part.target != DRAWER and task.things[part.target] == "bowl":
        raise ValueError(f"'{part.text()}': the gripper takes nothing out of the bowl")


def _require_misread(task: InstructTask) -> None:
    """Raises ValueError for what can't be misread in the scene."""
    targets = {part.target for part in task.parts}
    destinations = {part.destination for part in task.parts}
    known = {*task.things, *task.landmarks, CABINET, DRAWER}
    if not task.misread:
        raise ValueError("name under 'misread' what is taken or used by mistake")
    for name in task.misread:
        if name not in known:
            raise ValueError(f"the scene lacks the {name} that counts as misread: {listed(known)}")
        if name in targets | destinations:
            raise ValueError(f"the {name} is part of the task, and can't count as misread")
        if name in {task.things.get(target) for target in targets}:
            raise ValueError(f"the task begins on the {name}, so it can't count as misread")


@cache
def read_tasks(path: str | Path = SHIPPED) -> dict[str, InstructTask]:
    """The tasks of a file by their ids.

    Raises SuiteError, one sentence that names the task, for one that is not as the file's head
    says, cannot be done, or is done when it begins.
    """
    shown = shown_path(path)
    values = read_yaml(path, SuiteError)
    if not isinstance(values, dict) or list(values) != ["tasks"]:
        raise SuiteError(f"{shown} has no list of tasks under 'tasks'")
    if not isinstance(values["tasks"], list) or not values["tasks"]:
        raise SuiteError(f"{shown}: tasks must be a list, with at least one task")
    tasks: dict[str, InstructTask] = {}
    for number, entry in enumerate(values["tasks"], start=1):
        name = entry.get("id") if isinstance(entry, dict) else None
        where = f"{shown}: task {name!r}" if isinstance(name, str) else f"{shown}: task {number}"
        task = read_dataclass(InstructTask, entry, where, SuiteError)
        if task.id in tasks:
            raise SuiteError(f"{where} has the id of another task; give it one of its own")
        tasks[task.id] = task
    return tasks
