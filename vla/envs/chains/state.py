"""The scene as symbols, and what each task needs of it and changes in it, after CALVIN.

CALVIN (arXiv 2112.03227) draws its chains from such rules, so that every task can be done when its
turn comes, and no two tasks of a chain are of one kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from vla.envs.tabletop.places import HELD
from vla.envs.tabletop.tasks import CABINET, DESTINATIONS, DRAWER, TABLE, Task

# Tasks of one kind never come twice in a chain.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "open_drawer": "drawer",
        "close_drawer": "drawer",
        "pick": "pick",
        "place": "place",
        "store": "store",
        "stow": "stow",
        "lay": "lay",
    }
)
# From where the gripper can take a thing; out of the bowl and the drawer it cannot.
TAKEN_FROM = (TABLE, "plate", CABINET, HELD)
CHAIN_LENGTH = 5


@dataclass(frozen=True)
class SymbolicState:
    """What decides which tasks can be done."""

    drawer_open: bool
    places: Mapping[str, str]  # of each block and can: see vla.envs.tabletop.places.place_of

    @property
    def held(self) -> str:
        """What the hand holds; "" where it is empty."""
        return next((name for name, place in self.places.items() if place == HELD), "")

    def is_free(self, place: str) -> bool:
        """Whether nothing is in or on a place."""
        return place not in self.places.values()


def obstacle(state: SymbolicState, task: Task) -> str:
    """Why a task can't be done in a state, in words; "" where it can."""
    held = state.held
    if task.target == DRAWER:
        if held:
            return f"the hand holds the {held}"
        if state.drawer_open == (task.family == "open_drawer"):
            return f"the drawer is {'open' if state.drawer_open else 'closed'}"
        return ""
    if task.target not in state.places:
        return f"there is no {task.target}"
    place = state.places[task.target]
    if held and held != task.target:
        return f"the hand holds the {held}"
    if place not in TAKEN_FROM:
        return f"the {task.target} is in the {place}"
    if task.family == "pick":
        return f"the hand holds the {held}" if held else ""
    if place == task.destination:
        return f"the {task.target} is there"
    if task.destination != TABLE and not state.is_free(task.destination):
        return f"the {task.destination} is taken"
    if task.family == "stow":
        return _obstacle_to_stowing(state, task)
    return ""


def _obstacle_to_stowing(state: SymbolicState, task: Task) -> str:
    if not task.target.endswith("block"):
        return f"the {task.target} is too high for the drawer"
    if not state.drawer_open:
        return "the drawer is closed"
    # The hand would touch it while the fingers are above the drawer.
    if not state.is_free(CABINET):
        return "something is on the cabinet"
    return ""


def after(state: SymbolicState, task: Task) -> SymbolicState:
    """The state when a task has been done. Raises ValueError for one that can't be."""
    if why := obstacle(state, task):
        raise ValueError(f"'{task.text()}' can't be done: {why}")
    if task.target == DRAWER:
        return replace(state, drawer_open=task.family == "open_drawer")
    return replace(state, places={**state.places, task.target: task.destination or HELD})


def tasks_in(state: SymbolicState) -> Iterator[Task]:
    """All tasks that can be done in a state."""
    for task in (Task("open_drawer", DRAWER), Task("close_drawer", DRAWER)):
        if not obstacle(state, task):
            yield task
    for name in state.places:
        for family, destinations in (
            ("pick", ("",)),
            ("place", DESTINATIONS),
            ("store", (CABINET,)),
            ("stow", (DRAWER,)),
            ("lay", (TABLE,)),
        ):
            for destination in destinations:
                task = Task(family, name, destination)
                if not obstacle(state, task):
                    yield task


def require_chain(state: SymbolicState, tasks: Sequence[Task], where: str) -> None:
    """Raises ValueError, one sentence, for tasks that can't be done in turn from a state.

    where: names the chain, and begins the sentence.
    """
    kinds: set[str] = set()
    for number, task in enumerate(tasks, start=1):
        if why := obstacle(state, task):
            raise ValueError(f"{where}: task {number}, '{task.text()}', can't be done: {why}")
        if KINDS[task.family] in kinds:
            raise ValueError(
                f"{where}: task {number}, '{task.text()}', is of a kind that the chain has already"
            )
        kinds.add(KINDS[task.family])
        state = after(state, task)
