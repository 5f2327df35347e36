"""The scene of a task in MuJoCo."""

from __future__ import annotations

import mujoco
import numpy as np

from vla.envs.instruct.tasks import InstructTask
from vla.envs.instruct.things import PATTERNS, assets_xml, bodies_xml, pattern_pixels
from vla.envs.tabletop import scene
from vla.envs.tabletop.layout import SceneLayout, SceneObject
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import CABINET, Task

_CABINET = (0.49, 0.445, 0.0)  # in the base frame [m]
_DRAWER_OUT = 0.115  # of an open drawer [m]
_AWAY = (-2.5, -2.0, -0.65)  # of a bowl or plate that the scene lacks


class InstructLayout(SceneLayout):
    """Lays out the scene of a task; light, wood and shades are a seed's, as in training."""

    def __init__(self, model: mujoco.MjModel, task: InstructTask):
        super().__init__(model)
        self._task = task

    def lay_out(
        self, data: mujoco.MjData, generator: np.random.Generator, family: str
    ) -> dict[str, SceneObject]:
        """Puts everything in its place; the things by name."""
        model, task = self.model, self._task
        model.body(CABINET).pos[:] = _CABINET
        is_open = task.drawer == "open"
        data.qpos[model.joint("drawer").qposadr[0]] = _DRAWER_OUT if is_open else 0.0
        for name, radius in (("bowl", scene.BOWL_RADIUS), ("plate", scene.PLATE_RADIUS)):
            place, _ = task.landmarks.get(name, (None, radius))
            model.body(name).pos[:] = _AWAY if place is None else (*place, 0.0)
            if place is None:
                model.body(name).pos[1] -= 5 * radius
        slots = {"block": 0, "can": 0}
        objects = {}
        for thing in task.named_things:
            body, size = thing.name, thing.size
            if thing.kind in slots:
                body = f"{thing.kind}{slots[thing.kind]}"
                slots[thing.kind] += 1
                self._dress(body, thing.color or (1.0, 1.0, 1.0), size, generator)
                if thing.pattern:
                    geom = model.geom(body)
                    geom.matid = model.material(thing.pattern).id
                    geom.rgba[:3] = 1.0
            else:
                size = (size[1], size[0], size[2])  # fingers close along y
            item = SceneObject(thing.name, body, size)
            address = model.joint(body).qposadr[0]
            data.qpos[address : address + 3] = self._standing(item)
            objects[thing.name] = item
        self._park_unused(data, {item.body for item in objects.values()})
        self._set_light(generator)
        return objects

    def _standing(self, item: SceneObject) -> np.ndarray:
        """Where a thing stands when the task begins [3] [m]."""
        place = self._task.things[item.name]
        if not isinstance(place, str):
            return np.array([*place, item.half_height + 0.001])
        foot = self.model.body(place).pos + (scene.CABINET_PLACE if place == CABINET else 0.0)
        return foot + np.array([0.0, 0.0, item.half_height + 0.01])


class InstructSimulator(TableTopSimulator):
    """The table top with the scene of one task.

    camera_size: side of the square images that render() gives [px].
    """

    def __init__(self, task: InstructTask, camera_size: int = 96):
        self._asked = task
        super().__init__(camera_size)

    def _enter_scene(self, family: str) -> None:
        if not self._scenes:
            things = self._asked.named_things
            xml = scene.scene_xml(bodies_xml(things), assets_xml(things))
            model = mujoco.MjModel.from_xml_string(xml)
            for index in range(model.ntex):
                _paint(model, index)
            self._scenes[""] = InstructLayout(model, self._asked), mujoco.MjData(model)
        self._scene_name = ""
        self._layout, self.data = self._scenes[""]
        self.model = self._layout.model

    @property
    def first_opening(self) -> float:
        """How far the drawer is out when the task begins [m]."""
        return _DRAWER_OUT if self._asked.drawer == "open" else 0.0

    def _draw_task(self, family: str, generator: np.random.Generator) -> Task:
        return self._asked.parts[0]


def _paint(model: mujoco.MjModel, index: int) -> None:
    """Paints a texture, if it is a pattern's."""
    name = model.texture(index).name
    if name in PATTERNS:
        first = model.tex_adr[index]
        pixels = pattern_pixels(name)
        model.tex_data[first : first + pixels.size] = pixels.ravel()
