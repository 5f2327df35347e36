"""The family `press_button`: four buttons alike, of which the instruction names one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mujoco
import numpy as np

from vla.control.robots import panda
from vla.envs.tabletop.goal_sentences import BUTTONS, PRESS_BUTTON
from vla.envs.tabletop.goals.base import GoalScene, Target, View, random_color, upright
from vla.envs.tabletop.layout import SceneObject
from vla.envs.tabletop.tasks import Task, TaskStatus

if TYPE_CHECKING:
    from vla.envs.tabletop.simulator import TableTopSimulator

BUTTON_TOP, BUTTON_TRAVEL = 0.045, 0.02  # height of its top, and how far it goes down [m]
_PRESSED = 0.006  # so far down it is pressed [m]
_APART = 0.075  # from the middle of the four, along x and y [m]
_HOVER = 0.07  # above a button [m]


def button_xml(name: str) -> str:
    """MJCF of a button that springs back: its base is the body `NAME_base`."""
    return f"""
        <body name="{name}_base"><geom type="cylinder" size="0.04 0.01" pos="0 0 0.01"
          contype="1" conaffinity="1" rgba="0.3 0.3 0.32 1"/>
          <body name="{name}" pos="0 0 {BUTTON_TOP - 0.011:.3f}">
            <joint name="{name}" type="slide" axis="0 0 1" range="-{BUTTON_TRAVEL} 0" damping="4"
              stiffness="120" springref="0.02" armature="0.05"/>
            <geom name="{name}" type="cylinder" size="0.03 0.011" mass="0.05" contype="1"
              conaffinity="1"/></body></body>"""


def press(view: View, place: np.ndarray, quaternion: np.ndarray) -> Target:
    """Above a button at a place [2], then down on it, with closed fingers.

    quaternion: of the tool meanwhile.
    """
    away = float(np.hypot(*(view.tool[:2] - place)))
    above = away > 0.008 + 0.2 * max(0.0, float(view.tool[2]) - BUTTON_TOP)
    height = BUTTON_TOP + _HOVER if above else BUTTON_TOP - BUTTON_TRAVEL
    return Target(np.array([*place, height]), quaternion, 0.0)


class ButtonScene(GoalScene):
    """Four buttons in a square. The first that a finger presses counts."""

    name = "buttons"
    families = (PRESS_BUTTON,)
    thing = ""

    def __init__(self, model: mujoco.MjModel):
        super().__init__(model)
        self._bodies = {goal: goal.replace(" ", "_") for goal in BUTTONS}
        self.pressed = ""  # the button that was pressed first

    @staticmethod
    def bodies_xml() -> str:
        """The buttons."""
        return "".join(button_xml(goal.replace(" ", "_")) for goal in BUTTONS)

    def lay_out(
        self, data: mujoco.MjData, generator: np.random.Generator
    ) -> dict[str, SceneObject]:
        """All in one colour."""
        middle, color = generator.uniform((0.47, -0.12), (0.53, -0.02)), random_color(generator)
        for goal, body in self._bodies.items():
            row, column = goal.split()
            # Top is far from the robot, and right its right.
            side = np.array([1 if row == "top" else -1, 1 if column == "left" else -1])
            self.model.body(f"{body}_base").pos[:2] = middle + _APART * side
            self.model.geom(body).rgba[:3] = color
        return {}

    def place_arm(
        self, simulator: TableTopSimulator, task: Task, generator: np.random.Generator
    ) -> None:
        """Near its home, with closed fingers."""
        simulator.place_arm(panda.HOME + generator.uniform(-0.08, 0.08, 7), 0.0, 0.0)

    def begin(self, simulator: TableTopSimulator) -> None:
        """No button counts as pressed."""
        self.pressed = ""

    def update(self, simulator: TableTopSimulator) -> None:
        """Notes which button is pressed first."""
        if not self.pressed:
            self.pressed = next((g for g in BUTTONS if self._is_pressed(simulator, g)), "")

    def _is_pressed(self, simulator: TableTopSimulator, goal: str) -> bool:
        body = self._bodies[goal]
        travel = -float(simulator.data.joint(body).qpos[0])
        return travel > _PRESSED and simulator.touching_fingers(body) > 0

    def check(self, simulator: TableTopSimulator, task: Task) -> TaskStatus:
        """Whether its button was the first; after another one it can't be."""
        misread = self.pressed not in ("", task.target)
        return TaskStatus(self.pressed == task.target, misread, is_lost=misread)

    def failure(self, simulator: TableTopSimulator, task: Task) -> str:
        """Another button, or none."""
        return "misread" if self.pressed else "nothing_pressed"

    def target(self, view: View, task: Task) -> Target:
        """Onto the button, and up again."""
        place = self.model.body(f"{self._bodies[task.target]}_base").pos[:2]
        if self.pressed:
            return Target(np.array([*place, BUTTON_TOP + _HOVER]), upright(0.0), 0.0)
        return press(view, place, upright(0.0))
