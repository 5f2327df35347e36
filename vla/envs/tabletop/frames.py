"""The frames of the simulated scene: the arm's links, tool and cameras, and what is on the table.

Names and axes follow REP-103: lengths in metres, x forward, y left, z up in the base frame, and
cameras with a frame camera_NAME_link (x forward, z up) and camera_NAME_optical_frame (z forward,
x right, y down), which images name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import mujoco
import numpy as np

from vla.control.robots import panda
from vla.core.rotations import matrix_to_quaternion
from vla.envs.tabletop.simulator import CAMERAS, TableTopSimulator
from vla.observations.transforms import Transform

BASE_FRAME = "panda_link0"
TOOL_FRAME = panda.TOOL_SITE
HAND = "panda_hand"
# Links that a joint moves, each in the frame of its parent.
MOVING_LINKS = (*(f"panda_link{index}" for index in range(1, 8)), "panda_finger1", "panda_finger2")
# What a scene does not use stands on the floor behind the robot, lower than this [m].
PARKED_BELOW = -0.55
# MuJoCo's cameras look along -z with y up; columns are the axes of our frames in theirs.
_LINK_AXES = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
_OPTICAL_AXES = np.diag([1.0, -1.0, -1.0])


def optical_frame(camera: str) -> str:
    """The frame that a camera's images are in."""
    return f"camera_{camera}_optical_frame"


def frame_of(name: str) -> str:
    """The frame of an object, such as red_block of "red block"."""
    return re.sub(r"\W+", "_", name)


class ArmFrames:
    """Where the arm's links are in each other, read again and again from one model."""

    def __init__(self, model: mujoco.MjModel):
        self.names = MOVING_LINKS
        self._bodies = np.array([model.body(name).id for name in self.names])
        self._parents = model.body_parentid[self._bodies]
        self.parents = tuple(model.body(parent).name for parent in self._parents)

    def places(self, data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray]:
        """Positions [9, 3] in metres and quaternions [9, 4] x y z w of the links in their parents.

        They are of the configuration that the data's places were last computed for.
        """
        turns = data.xmat[self._parents].reshape(-1, 3, 3)
        offsets = data.xpos[self._bodies] - data.xpos[self._parents]
        positions = np.einsum("nji,nj->ni", turns, offsets)
        w, x, y, z = data.xquat[self._parents].T * [[1.0], [-1.0], [-1.0], [-1.0]]
        ow, ox, oy, oz = data.xquat[self._bodies].T
        quaternions = np.stack(
            [
                w * ox + x * ow + y * oz - z * oy,
                w * oy - x * oz + y * ow + z * ox,
                w * oz + x * oy - y * ox + z * ow,
                w * ow - x * ox - y * oy - z * oz,
            ],
            axis=1,
        )
        return positions, quaternions


def fixed_frames(simulator: TableTopSimulator) -> list[Transform]:
    """The frames that nothing moves in their parents: hand, tool and cameras."""
    model, data = simulator.model, simulator.data
    hand, tool = model.body(HAND), model.site(TOOL_FRAME)
    frames = [
        _from_mujoco(model.body(hand.parentid[0]).name, HAND, hand.pos, hand.quat),
        _from_mujoco(HAND, TOOL_FRAME, tool.pos, tool.quat),
    ]
    for camera in CAMERAS:
        body = model.body(model.camera(camera).bodyid[0])
        parent = body.name if body.id else BASE_FRAME
        position, turn = simulator.camera_pose(camera)
        back = data.body(body.id).xmat.reshape(3, 3).T
        link, place = f"camera_{camera}_link", back @ (position - data.body(body.id).xpos)
        here = matrix_to_quaternion(back @ turn @ _LINK_AXES)
        optical = matrix_to_quaternion(_LINK_AXES.T @ _OPTICAL_AXES)
        frames += [
            Transform(parent, link, place, here),
            Transform(link, optical_frame(camera), np.zeros(3), optical),
        ]
    return frames


def scene_bodies(simulator: TableTopSimulator) -> dict[str, str]:
    """The model's body for each frame of the scene: objects, furniture, and what a family adds."""
    bodies = {frame_of(name): item.body for name, item in simulator.scene_objects.items()}
    model, data = simulator.model, simulator.data
    others = [model.body(index).name for index in range(1, model.nbody)]
    for name in others:
        if name.startswith("panda_") or name in bodies.values():
            continue
        if data.body(name).xpos[2] > PARKED_BELOW:
            bodies[frame_of(name)] = name
    return bodies


def scene_places(
    simulator: TableTopSimulator, bodies: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions [n, 3] in metres and quaternions [n, 4] x y z w of bodies in the base frame."""
    ids = [simulator.model.body(name).id for name in bodies]
    return simulator.data.xpos[ids].copy(), simulator.data.xquat[ids][:, [1, 2, 3, 0]]


def _from_mujoco(parent: str, child: str, position: np.ndarray, wxyz: np.ndarray) -> Transform:
    return Transform(parent, child, position.copy(), wxyz[[1, 2, 3, 0]])
