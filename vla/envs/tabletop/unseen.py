"""Another look of a scene than training ever has: table, light, colours and the front camera."""

from __future__ import annotations

import mujoco
import numpy as np

from vla.core.rotations import from_rotation_vector, multiply

SPLITS = ("seen", "unseen")
# Training's tables are of wood, 0.42 to 0.9 in each colour, the red a little above the blue.
_TABLES = ((0.30, 0.42, 0.36), (0.28, 0.34, 0.48), (0.20, 0.20, 0.22), (0.95, 0.95, 0.97))
# How far the front camera is shifted [m] and turned [rad] along each axis, at the most.
CAMERA_SHIFT, CAMERA_TURN = 0.04, 0.03


def dress_unseen(model: mujoco.MjModel, objects: list[str], generator: np.random.Generator) -> None:
    """Changes how a scene that was laid out looks; where things are stays.

    objects: bodies of the blocks and cans. Training's lights have 0.6 to 1.05 of their brightness
    and things 0.85 to 1.1 of theirs; here they are outside of that.
    """
    table = np.array(_TABLES[int(generator.integers(len(_TABLES)))])
    model.geom("table").rgba[:3] = np.clip(table + generator.uniform(-0.03, 0.03, 3), 0, 1)
    model.geom("floor").rgba[:3] = generator.uniform(0.2, 0.4, 3)
    warm = np.array([1.0, 0.82, 0.6])
    model.light_diffuse[:] *= warm if generator.random() < 0.5 else warm[::-1]
    model.light_diffuse[:] *= generator.uniform(0.42, 0.56)
    model.light_pos[:] += generator.choice((-1.0, 1.0)) * generator.uniform(0.5, 0.8)
    for body in objects:
        first = int(model.body(body).geomadr[0])
        rgba = model.geom_rgba[first]
        rgba[:3] = np.clip(rgba[:3] * generator.uniform(0.65, 0.8), 0, 1)
    for name in ("cabinet", "drawer"):
        first = int(model.body(name).geomadr[0])
        # The drawer's handle, which comes last, stays dark.
        count = int(model.body(name).geomnum[0]) - (2 if name == "drawer" else 0)
        model.geom_rgba[first : first + count, :3] = np.clip(table[::-1] + 0.2, 0, 1)
    camera = model.camera("front").id
    model.cam_pos[camera] += generator.uniform(-CAMERA_SHIFT, CAMERA_SHIFT, 3)
    turn = from_rotation_vector(generator.uniform(-CAMERA_TURN, CAMERA_TURN, 3))
    x, y, z, w = multiply(turn, np.roll(model.cam_quat[camera], -1))
    model.cam_quat[camera] = w, x, y, z
