"""Which scene a family of goals has."""

from __future__ import annotations

from vla.envs.tabletop.goals.atomic import AtomicScene
from vla.envs.tabletop.goals.base import GoalScene
from vla.envs.tabletop.goals.buttons import ButtonScene
from vla.envs.tabletop.goals.cells import CellScene
from vla.envs.tabletop.goals.shelves import ShelfScene

_SCENES: tuple[type[GoalScene], ...] = (AtomicScene, ButtonScene, CellScene, ShelfScene)


def goal_scene_of(family: str) -> type[GoalScene] | None:
    """The kind of scene; None for a family that is no family of goals."""
    return next((kind for kind in _SCENES if family in kind.families), None)
