"""Where things are in the scene, and where there is room for one: the drawer and the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vla.envs.tabletop import scene
from vla.envs.tabletop.tasks import CABINET, DESTINATIONS, DRAWER, TABLE

if TYPE_CHECKING:
    from vla.envs.tabletop.simulator import TableTopSimulator

HELD = "hand"
PLACES = (*DESTINATIONS, CABINET, DRAWER, TABLE)
# Of the drawer, in its own frame [m]: top of its floor, inner side of its front, half width.
_FLOOR, _FRONT, _HALF_WIDTH = 0.011, 0.006, scene.CABINET_WIDTH - 0.016
_DEPTH = 2 * (scene.CABINET_DEPTH - 0.01)
# Where things are laid on the table [m]: what the arm reaches, as scenes are laid out.
_SPOTS = [(x, y) for x in np.arange(0.38, 0.63, 0.03) for y in np.arange(-0.28, 0.09, 0.03)]


def drawer_place(simulator: TableTopSimulator) -> np.ndarray:
    """Where a thing is put into the open drawer: the middle of what is open of its floor [3]."""
    drawer = simulator.data.body(DRAWER).xpos
    inside = (_FRONT + max(simulator.drawer_opening, 2 * _FRONT)) / 2
    return drawer + np.array([0.0, inside, _FLOOR])


def free_spot(simulator: TableTopSimulator, name: str) -> np.ndarray:
    """Where on the table there is most room for a thing, whatever place it has now [3]."""
    cabinet = simulator.data.body(CABINET).xpos
    taken = [(cabinet[0], cabinet[1] + scene.HANDLE_OFFSET[1] - 0.24, 0.06)]
    for landmark, radius in (("bowl", scene.BOWL_RADIUS), ("plate", scene.PLATE_RADIUS)):
        taken.append((*simulator.data.body(landmark).xpos[:2], radius))
    others = [other for other in simulator.objects() if other != name]
    taken += [(*simulator.object_position(other)[:2], 0.03) for other in others]
    rooms = [min(np.hypot(x - a, y - b) - r for a, b, r in taken) for x, y in _SPOTS]
    return np.array([*_SPOTS[int(np.argmax(rooms))], 0.0])


def place_of(simulator: TableTopSimulator, name: str) -> str:
    """Where a block or can rests: "bowl", "plate", "cabinet", "drawer" or "table".

    "hand" while a finger touches it, "" elsewhere, such as in the air or beside the table.
    """
    if simulator.touching_fingers(simulator.scene_objects[name].body):
        return HELD
    return next(
        (p for p in (*DESTINATIONS, CABINET, DRAWER, TABLE) if rests(simulator, name, p)), ""
    )


def rests(simulator: TableTopSimulator, name: str, place: str) -> bool:
    """Whether a thing is in or on a place, touched by a finger or not."""
    item = simulator.scene_objects[name]
    position = simulator.object_position(name)
    if place == TABLE:
        clear = all(
            np.hypot(*(position - simulator.data.body(landmark).xpos)[:2]) > radius
            for landmark, radius in (("bowl", scene.BOWL_RADIUS), ("plate", scene.PLATE_RADIUS))
        )
        return bool(clear and 0.0 < position[2] < item.half_height + 0.006)
    offset = position - simulator.data.body(place).xpos
    if place == DRAWER:
        return bool(
            abs(offset[0]) < _HALF_WIDTH
            and _FRONT < offset[1] < _DEPTH
            and 0.0 < offset[2] - _FLOOR < item.half_height + 0.02
        )
    if place == CABINET:
        height = offset[2] - scene.CABINET_TOP
        return bool(
            abs(offset[0]) < scene.CABINET_WIDTH
            and abs(offset[1]) < scene.CABINET_DEPTH
            and 0.0 < height < item.half_height + 0.01
        )
    radius = scene.BOWL_RADIUS if place == "bowl" else scene.PLATE_RADIUS
    return bool(np.hypot(*offset[:2]) < radius and offset[2] < item.half_height + 0.03)
