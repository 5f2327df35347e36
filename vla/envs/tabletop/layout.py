"""Lays out scenes: where things stand, their sizes and colours, and the light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from vla.envs.tabletop import scene
from vla.envs.tabletop.recall import LampAndButtons
from vla.envs.tabletop.tasks import COLORS, RECALL

if TYPE_CHECKING:
    from vla.envs.tabletop.goals.base import GoalScene

COLOR_VALUES = {
    "red": (0.80, 0.10, 0.10),
    "green": (0.10, 0.60, 0.18),
    "blue": (0.10, 0.25, 0.80),
    "yellow": (0.90, 0.78, 0.10),
    "purple": (0.52, 0.16, 0.62),
}

# Width of what collides of a can, along one of its axes, as a share of the can's.
HULL_SHARE = 0.8


@dataclass(frozen=True)
class SceneObject:
    """A block or can on the table."""

    name: str  # such as "red block"
    body: str  # of the model
    size: tuple[float, ...]  # half extents, or radius and half height [m]

    @property
    def half_height(self) -> float:
        """From the centre to the bottom [m]."""
        return self.size[-1]

    @property
    def half_width(self) -> float:
        """From the centre to where a finger touches [m]."""
        return self.size[0]


class SceneLayout:
    """Draws scenes into the model of vla.envs.tabletop.scene."""

    def __init__(self, model: mujoco.MjModel, goals: GoalScene | None = None):
        """goals: what the model has for families of goals, None for the others."""
        self.model, self.goals = model, goals
        self.recall = LampAndButtons(model)
        self._default_sizes = model.geom_size.copy()
        self._default_light = model.light_diffuse.copy()
        self._default_light_position = model.light_pos.copy()
        self._default_cameras = model.cam_pos.copy(), model.cam_quat.copy()
        # What only scenes of the unseen look change.
        self._furniture = [model.geom("floor").id]
        for name in ("cabinet", "drawer"):
            first, count = _geom_range(model, name)
            self._furniture += range(first, first + count)
        self._furniture_colors = model.geom_rgba[self._furniture]

    def lay_out(
        self, data: mujoco.MjData, generator: np.random.Generator, family: str
    ) -> dict[str, SceneObject]:
        """Draws a scene of a family into model and data; blocks and cans by name."""
        model = self.model
        drawer = model.joint("drawer").qposadr[0]
        cabinet = np.array([generator.uniform(0.43, 0.55), generator.uniform(0.42, 0.47), 0.0])
        model.body("cabinet").pos[:] = cabinet
        if family in ("close_drawer", "stow"):
            data.qpos[drawer] = generator.uniform(0.09, scene.DRAWER_TRAVEL)
        elif family != "open_drawer" and self.goals is None and generator.random() < 0.3:
            data.qpos[drawer] = generator.uniform(0.0, scene.DRAWER_TRAVEL)

        # The way of the drawer's handle stays free.
        handle_way = (cabinet[0], cabinet[1] + scene.HANDLE_OFFSET[1] - 0.24, 0.045)
        taken: list[tuple[float, float, float]] = [handle_way]
        is_cleared = family == RECALL or self.goals is not None
        if family == RECALL:
            taken += self.recall.lay_out(generator, COLOR_VALUES)
        for body, radius in (("bowl", scene.BOWL_RADIUS), ("plate", scene.PLATE_RADIUS)):
            if is_cleared:  # no room for them
                model.body(body).pos[:] = -2.5, -1.5 - 5 * radius, -0.65
                continue
            x, y = _free_place(generator, taken, radius + 0.01)
            model.body(body).pos[:] = x, y, 0.0
        count = 0 if is_cleared else int(generator.integers(2, 5))
        kinds = generator.permutation(["block"] * 3 + ["can"] * 3)[:count]
        if family == "stow" and "block" not in kinds:
            kinds[0] = "block"
        names: list[str] = []
        objects: dict[str, SceneObject] = {}
        for kind in kinds:
            slot = sum(name.endswith(kind) for name in names)
            free = [color for color in COLORS if f"{color} {kind}" not in names]
            color = str(generator.choice(free))
            name, body = f"{color} {kind}", f"{kind}{slot}"
            names.append(name)
            size: tuple[float, ...]
            if kind == "block":
                size = (float(generator.uniform(0.019, 0.023)),) * 3
            else:
                size = (
                    float(generator.uniform(0.021, 0.025)),
                    float(generator.uniform(0.034, 0.042)),
                )
            self._dress(body, COLOR_VALUES[color], size, generator)
            x, y = _free_place(generator, taken, 0.035)
            address = model.joint(body).qposadr[0]
            data.qpos[address : address + 3] = x, y, size[-1] + 0.001
            yaw = generator.uniform(-0.4, 0.4) * (kind == "block")
            data.qpos[address + 3 : address + 7] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
            objects[name] = SceneObject(name, body, size)
        if self.goals is not None:
            objects = self.goals.lay_out(data, generator)
        self._park_unused(data, {item.body for item in objects.values()})
        self._set_light(generator)
        return objects

    def _park_unused(self, data: mujoco.MjData, used: set[str]) -> None:
        """Puts blocks and cans that the scene does not use on the floor, behind the robot."""
        slots = [f"block{i}" for i in range(scene.BLOCK_SLOTS)]
        slots += [f"can{i}" for i in range(scene.CAN_SLOTS)]
        for index, body in enumerate(slots):
            if body not in used:
                address = self.model.joint(body).qposadr[0]
                data.qpos[address : address + 3] = -2.5, 0.3 * index - 1.0, -0.65
                # Sizes of an earlier scene must not show in this one's numbers.
                first, count = _geom_range(self.model, body)
                geoms = slice(first, first + count)
                self.model.geom_size[geoms] = self._default_sizes[geoms]

    def _dress(
        self,
        body: str,
        color: tuple[float, float, float],
        size: tuple[float, ...],
        generator: np.random.Generator,
    ) -> None:
        geom = self.model.geom(body)
        geom.size[: len(size)] = size
        shade = generator.uniform(0.85, 1.1) * np.array(color)
        geom.rgba[:3] = np.clip(shade + generator.uniform(-0.03, 0.03, 3), 0, 1)
        if body.startswith("can"):
            self.model.geom(f"{body}_lid").pos[2] = size[-1]
            self.model.geom(f"{body}_hull").size[:] = HULL_SHARE * size[0], size[0], size[1]

    def _set_light(self, generator: np.random.Generator) -> None:
        model = self.model
        model.cam_pos[:], model.cam_quat[:] = self._default_cameras
        model.geom_rgba[self._furniture] = self._furniture_colors
        model.light_diffuse[:] = self._default_light * generator.uniform(0.6, 1.05)
        model.light_pos[:] = self._default_light_position + generator.uniform(-0.4, 0.4, (2, 3))
        model.vis.headlight.ambient[:] = generator.uniform(0.28, 0.42)
        wood = np.array([0.70, 0.65, 0.60]) * generator.uniform(0.7, 1.2)
        model.geom("table").rgba[:3] = np.clip(wood + generator.uniform(-0.06, 0.06, 3), 0, 1)
        for name, base in (("bowl", 0.88), ("plate", 0.80)):
            tint = base + generator.uniform(-0.08, 0.08, 3)
            for geom in range(model.body(name).geomadr[0], sum(_geom_range(model, name))):
                model.geom_rgba[geom, :3] = np.clip(tint, 0, 1)


def _free_place(
    generator: np.random.Generator, taken: list[tuple[float, float, float]], radius: float
) -> tuple[float, float]:
    """A place on the table that keeps a finger's width from everything in `taken`."""
    for gap in (0.035, 0.02, 0.005):
        for _ in range(200):
            x, y = generator.uniform(0.35, 0.65), generator.uniform(-0.31, 0.11)
            if all(np.hypot(x - a, y - b) > radius + r + gap for a, b, r in taken):
                taken.append((x, y, radius))
                return x, y
    raise RuntimeError("no free place left on the table")


def _geom_range(model: mujoco.MjModel, body: str) -> tuple[int, int]:
    return int(model.body(body).geomadr[0]), int(model.body(body).geomnum[0])
