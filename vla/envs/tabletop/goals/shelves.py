"""The family `insert_book`: a book in the hand, and three shelves one above the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mujoco
import numpy as np

from vla.control.robots import panda
from vla.envs.tabletop.goal_sentences import INSERT_BOOK, SHELVES
from vla.envs.tabletop.goals.base import GoalScene, Target, View, hold, random_color, upright
from vla.envs.tabletop.layout import SceneObject
from vla.envs.tabletop.tasks import Task, TaskStatus

if TYPE_CHECKING:
    from vla.envs.tabletop.simulator import TableTopSimulator

_BOOK = (0.09, 0.025, 0.008)  # half extents along its length, width and height [m]
_AHEAD = 0.065  # of the fingers, the book's middle [m]
DEPTH, _HALF_WIDTH = 0.12, 0.085  # of the shelves, inside [m]
_LOWEST, _SPACING, _BOARD = 0.02, 0.065, 0.004  # floor of the lowest, the next, thickness [m]
_INSERTED = 0.085  # of the depth, how far the expert goes [m]
_BEFORE = 0.02  # in front of the shelves it goes up and down [m]


def _floor(shelf: str) -> float:
    return _LOWEST + _SPACING * (len(SHELVES) - 1 - SHELVES.index(shelf))


class ShelfScene(GoalScene):
    """A book counts as inserted with half of the shelf's depth."""

    name = "shelves"
    families = (INSERT_BOOK,)
    thing = "book"
    thickness = 2 * _BOOK[1]

    @staticmethod
    def bodies_xml() -> str:
        """Shelves without a back, so that the front camera sees into them, and the book."""
        height = _LOWEST + len(SHELVES) * _SPACING
        solid = 'contype="1" conaffinity="1" rgba="0.62 0.47 0.3 1"'
        boards = "".join(
            f'<geom type="box" size="{DEPTH / 2} {_HALF_WIDTH} {_BOARD / 2}" '
            f'pos="{DEPTH / 2} 0 {_LOWEST + index * _SPACING - _BOARD / 2:.4f}" {solid}/>'
            for index in range(len(SHELVES) + 1)
        )
        sides = "".join(
            f'<geom type="box" size="{DEPTH / 2} 0.003 {height / 2}" '
            f'pos="{DEPTH / 2} {side * (_HALF_WIDTH + 0.003):.4f} {height / 2}" {solid}/>'
            for side in (-1, 1)
        )
        size = " ".join(map(str, _BOOK))
        return (
            f'<body name="shelves">{boards}{sides}</body>'
            f'<body name="book" pos="-2.5 1.5 -0.6"><freejoint name="book"/>'
            f'<geom name="book" class="object" type="box" size="{size}" mass="0.12"/></body>'
        )

    def lay_out(
        self, data: mujoco.MjData, generator: np.random.Generator
    ) -> dict[str, SceneObject]:
        """The shelves before the robot."""
        self.model.body("shelves").pos[:2] = generator.uniform((0.57, -0.10), (0.60, 0.0))
        self.model.geom("book").rgba[:3] = random_color(generator)
        return {"book": SceneObject("book", "book", _BOOK)}

    def place_arm(
        self, simulator: TableTopSimulator, task: Task, generator: np.random.Generator
    ) -> None:
        """Before the shelves, with the end of the book in the hand."""
        x, y = self.model.body("shelves").pos[:2]
        x -= _AHEAD + _BOOK[0] + _BEFORE + generator.uniform(0.0, 0.01)
        place = np.array([x, y + generator.uniform(-0.03, 0.03), generator.uniform(0.10, 0.20)])
        hold(simulator, panda.upright_joints(place, 0.0), "book", self.thickness, _AHEAD)

    def check(self, simulator: TableTopSimulator, task: Task) -> TaskStatus:
        """Whether the book is in its shelf by half of the depth."""
        shelf, depth = self._inside(simulator)
        shelf = shelf if depth >= DEPTH / 2 else ""
        misread = shelf not in ("", task.target)
        lost = misread or self._is_dropped(simulator)
        return TaskStatus(shelf == task.target, misread, lost)

    def failure(self, simulator: TableTopSimulator, task: Task) -> str:
        """From where the book is."""
        if self.check(simulator, task).wrong_object:
            return "misread"
        if self._is_dropped(simulator):
            return "dropped"
        shelf, _ = self._inside(simulator)
        return "not_far_enough" if shelf == task.target else "not_inserted"

    def _is_dropped(self, simulator: TableTopSimulator) -> bool:
        return not simulator.touching_fingers("book") and not self._inside(simulator)[0]

    def _inside(self, simulator: TableTopSimulator) -> tuple[str, float]:
        """The shelf that the book's end is in, and how deep [m]; "" for none."""
        book = simulator.data.body("book")
        end = book.xpos + _BOOK[0] * book.xmat.reshape(3, 3)[:, 0]
        depth, aside, height = end - self.model.body("shelves").pos
        if not 0.0 < depth < DEPTH + 0.01 or abs(aside) > _HALF_WIDTH:
            return "", 0.0
        inside = (s for s in SHELVES if 0.0 < height - _floor(s) < _SPACING - _BOARD)
        return next(inside, ""), float(depth)

    def target(self, view: View, task: Task) -> Target:
        """Up or down before the shelves, then straight in."""
        x, y = self.model.body("shelves").pos[:2]
        middle = _floor(task.target) + _SPACING / 2
        offset = view.tool - view.thing  # the book may have slipped
        entered = view.thing[0] + _BOOK[0] - x
        aside, above = abs(view.thing[1] - y), abs(view.thing[2] - middle)
        aligned = (aside < 0.01 and above < 0.006) or (
            entered > 0.0 and aside < 0.02 and above < 0.015
        )
        if aligned:
            place = np.array([x + _INSERTED - _BOOK[0], y, middle])
        elif entered > -_BEFORE / 2:
            place = np.array([x - _BEFORE - _BOOK[0], view.thing[1], view.thing[2]])
        else:
            place = np.array([x - _BEFORE - _BOOK[0], y, middle])
        return Target(place + offset, upright(0.0), 0.0)
