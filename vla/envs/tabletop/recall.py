"""The family `recall`: a lamp shows a colour for a second, whose button is to be pressed.

The instruction does not name the colour. When the lamp is off, nothing in the scene tells it, so a
policy without memory presses the right one of two buttons half of the time.
"""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np

from vla.envs.tabletop.tasks import BUTTON

LIT_SECONDS = 1.0
BUTTON_HEIGHT = 0.03
_BODIES = ("left_button", "right_button")
_COLORS = ("red", "green")  # of these
_DARK = (0.12, 0.12, 0.12)


def bodies_xml() -> str:
    """Lamp and buttons. They have no joints, so that all scenes have the same configuration."""
    text = (
        '<body name="lamp"><geom type="cylinder" size="0.03 0.01" pos="0 0 0.01" '
        'rgba="0.2 0.2 0.2 1" mass="0" contype="0" conaffinity="0"/>'
        '<geom name="lamp_light" type="sphere" size="0.032" pos="0 0 0.045" mass="0" '
        'contype="0" conaffinity="0"/></body>'
    )
    for name in _BODIES:
        half = BUTTON_HEIGHT / 2
        text += (
            f'<body name="{name}"><geom name="{name}" type="cylinder" size="0.035 {half}" '
            f'pos="0 0 {half}" mass="0" contype="1" conaffinity="1"/></body>'
        )
    return text


class LampAndButtons:
    """The lamp and the two buttons of a scene, which only scenes of the family have."""

    def __init__(self, model: mujoco.MjModel):
        self._model = model
        self.buttons: dict[str, str] = {}  # bodies by name, such as "red button"
        self.pressed = ""  # the button that was pressed first
        self._color, self._lit_from = np.array(_DARK), -np.inf

    def lay_out(
        self, generator: np.random.Generator, values: dict[str, tuple[float, float, float]]
    ) -> list[tuple[float, float, float]]:
        """Draws places; returns what is taken of the table: x, y, radius [m].

        The colours are the same on the same side in every scene: what is asked of a policy is to
        remember one of two colours, not to compare any.
        values: the colours, red, green and blue, by name.
        """
        model = self._model
        self.buttons, self.pressed, self._lit_from = {}, "", -np.inf
        middle = generator.uniform(-0.13, -0.07)
        places = [(generator.uniform(0.62, 0.66), middle + generator.uniform(-0.04, 0.04), 0.05)]
        model.body("lamp").pos[:] = *places[0][:2], 0.0
        for body, side, color in zip(_BODIES, (1.0, -1.0), _COLORS, strict=True):
            x, y = generator.uniform(0.42, 0.52), middle + side * generator.uniform(0.09, 0.13)
            model.body(body).pos[:] = x, y, 0.0
            model.geom(body).rgba[:3] = values[color]
            self.buttons[f"{color} {BUTTON}"] = body
            places.append((x, y, 0.06))
        return places

    def cue(self, target: str, now: float) -> None:
        """The lamp shows the colour of a button for a second from now on [s]."""
        self.pressed = ""
        if target in self.buttons:
            self._color = self._model.geom(self.buttons[target]).rgba[:3].copy()
            self._lit_from = now

    def is_lit(self, now: float) -> bool:
        """Whether the lamp shows its colour."""
        return bool(0.0 <= now - self._lit_from < LIT_SECONDS)

    def update(self, now: float, touched: Callable[[str], int]) -> None:
        """Switches the lamp, and notes which button is pressed first.

        touched(body): how many fingers touch a body.
        """
        if not self.buttons:
            return
        self._model.geom("lamp_light").rgba[:3] = self._color if self.is_lit(now) else _DARK
        if not self.pressed:
            self.pressed = next((n for n, body in self.buttons.items() if touched(body)), "")

    def position(self, name: str) -> np.ndarray:
        """Middle of a button's top [3] in metres."""
        return self._model.body(self.buttons[name]).pos + np.array([0.0, 0.0, BUTTON_HEIGHT])
