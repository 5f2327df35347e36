"""The family `place_in_cell`: a can in the hand, and a grid of nine cells alike on the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mujoco
import numpy as np

from vla.envs.tabletop.goal_sentences import CELLS, COLUMNS, PLACE_IN_CELL, ROWS
from vla.envs.tabletop.goals.base import (
    GoalScene,
    Target,
    View,
    hold,
    jittered,
    random_color,
    upright,
)
from vla.envs.tabletop.layout import SceneObject
from vla.envs.tabletop.tasks import Task, TaskStatus

if TYPE_CHECKING:
    from vla.envs.tabletop.simulator import TableTopSimulator

CELL = 0.085  # side of a cell [m]
_RADIUS, _HALF_HEIGHT = 0.023, 0.038  # of the can [m]
_EARLY = 0.03  # let go higher above the table, it was opened early [m]
_UPRIGHT, _TIPPED = 0.97, 0.8  # of the can's axis, its upward part
_CARRY, _LEAVE = 0.15, 0.20  # height of the tool on the way, and at the end [m]


class CellScene(GoalScene):
    """Three rows of three cells, which are drawn on the table. Top is far from the robot."""

    name = "cells"
    families = (PLACE_IN_CELL,)
    thing = "can0"
    thickness = 2 * _RADIUS

    def __init__(self, model: mujoco.MjModel):
        super().__init__(model)
        self._let_go_at: float | None = None  # height above the table [m]

    @staticmethod
    def bodies_xml() -> str:
        """The grid, which nothing touches."""
        cells = "".join(
            f'<geom type="box" size="{CELL / 2 - 0.003:.4f} {CELL / 2 - 0.003:.4f} 0.0005" '
            f'pos="{x:.4f} {y:.4f} 0.001" contype="0" conaffinity="0" rgba="0.95 0.95 0.95 1"/>'
            for x, y in map(_offset, CELLS)
        )
        half = 1.5 * CELL
        return (
            f'<body name="grid"><geom type="box" size="{half} {half} 0.0004" pos="0 0 0.0004" '
            f'contype="0" conaffinity="0" rgba="0.15 0.15 0.17 1"/>{cells}</body>'
        )

    def lay_out(
        self, data: mujoco.MjData, generator: np.random.Generator
    ) -> dict[str, SceneObject]:
        """The grid before the robot."""
        self.model.body("grid").pos[:2] = generator.uniform((0.49, -0.13), (0.53, -0.07))
        self.model.geom("can0").rgba[:3] = random_color(generator)
        return {"can": SceneObject("can", "can0", (_RADIUS, _HALF_HEIGHT))}

    def place_arm(
        self, simulator: TableTopSimulator, task: Task, generator: np.random.Generator
    ) -> None:
        """Left of the grid, with the can in the hand."""
        place = generator.uniform((0.40, 0.12, 0.14), (0.46, 0.16, 0.18))
        hold(simulator, jittered(place, 0.0, generator), "can0", self.thickness)

    def begin(self, simulator: TableTopSimulator) -> None:
        """The can has not been let go."""
        self._let_go_at = None

    def update(self, simulator: TableTopSimulator) -> None:
        """Notes how high the can is when it is let go."""
        if self._let_go_at is None and not simulator.touching_fingers(self.thing):
            self._let_go_at = float(simulator.data.body(self.thing).xpos[2]) - _HALF_HEIGHT

    def check(self, simulator: TableTopSimulator, task: Task) -> TaskStatus:
        """Whether the can stands in its cell, untouched; opened early it can't any more."""
        cell = self._stands_in(simulator)
        misread = cell not in ("", task.target)
        lost = misread or self._opened_early or self._axis(simulator) < _TIPPED
        return TaskStatus(cell == task.target and not lost, misread, lost)

    def failure(self, simulator: TableTopSimulator, task: Task) -> str:
        """From where the can is, and how it was let go."""
        if self._opened_early:
            return "opened_early"
        if self._axis(simulator) < _TIPPED:
            return "tipped"
        if self._stands_in(simulator):
            return "misread"
        return "not_placed" if self._let_go_at is None else "wrong_place"

    @property
    def _opened_early(self) -> bool:
        return self._let_go_at is not None and self._let_go_at > _EARLY

    def _axis(self, simulator: TableTopSimulator) -> float:
        return float(simulator.data.body(self.thing).xmat[8])

    def _stands_in(self, simulator: TableTopSimulator) -> str:
        """The cell in which the can stands upright and untouched; "" for none."""
        place = simulator.data.body(self.thing).xpos
        stands = place[2] < _HALF_HEIGHT + 0.006 and self._axis(simulator) > _UPRIGHT
        if not stands or simulator.touching_fingers(self.thing):
            return ""
        offset = place[:2] - self.model.body("grid").pos[:2]
        return next((c for c in CELLS if np.abs(offset - _offset(c)).max() < CELL / 2), "")

    def target(self, view: View, task: Task) -> Target:
        """Over the cell, down, open, and up."""
        if not view.held:
            near = float(np.linalg.norm(view.thing - view.tool)) < 0.04
            if near and view.width < self.thickness + 0.02:
                return Target(view.tool, upright(0.0), 1.0)
            return Target(np.array([*view.tool[:2], _LEAVE]), upright(0.0), 1.0)
        place = self.model.body("grid").pos[:2] + _offset(task.target)
        aim = view.tool[:2] + place - view.thing[:2]
        low = float(view.tool[2] - view.thing[2]) + _HALF_HEIGHT + 0.003
        away = float(np.hypot(*(aim - view.tool[:2])))
        if away > 0.01 + 0.1 * max(0.0, float(view.tool[2]) - low):
            return Target(np.array([*aim, _CARRY]), upright(0.0), 0.0)
        if view.tool[2] > low + 0.006:
            return Target(np.array([*aim, low]), upright(0.0), 0.0)
        return Target(view.tool, upright(0.0), 1.0)


def _offset(cell: str) -> np.ndarray:
    """Middle of a cell from the middle of the grid [2] in metres."""
    row, column = cell.split()
    return CELL * np.array([1.0 - ROWS.index(row), 1.0 - COLUMNS.index(column)])
