"""What a scene with several goals is: its bodies, its starts, its goals, and how each is reached.

Such a scene has a MuJoCo model of its own, so that its bodies change nothing in other scenes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import mujoco
import numpy as np

from vla.control.robots import panda
from vla.core.rotations import quaternion_to_matrix
from vla.envs.tabletop.layout import SceneObject
from vla.envs.tabletop.tasks import Task, TaskStatus

if TYPE_CHECKING:
    from vla.envs.tabletop.simulator import TableTopSimulator

# The fingers are put so far apart beyond what they hold, and are on their way to closed [m].
_FREE = 0.0005


@dataclass(frozen=True)
class View:
    """What the expert decides by; base frame, metres."""

    tool: np.ndarray  # [3]
    quaternion: np.ndarray  # [4], x y z w, of the tool
    width: float  # between the fingers
    thing: np.ndarray  # [3]: middle of what is held, or to be grasped
    thing_yaw: float  # how it is turned about the vertical, within ±45 degrees [rad]
    held: bool  # both fingers touch it


@dataclass(frozen=True)
class Target:
    """Where the tool should go next."""

    position: np.ndarray  # [3] m
    quaternion: np.ndarray  # [4], x y z w
    gripper: float  # 1 open, 0 closed


class GoalScene(ABC):
    """The bodies of a scene, and what is measured of them since a task began."""

    name: ClassVar[str]  # of the model, which scenes of all its families share
    families: ClassVar[tuple[str, ...]]
    thing: ClassVar[str]  # body that the fingers hold, or are to; "" where there is none
    thickness: float = 0.0  # of that between the fingers [m]

    def __init__(self, model: mujoco.MjModel):
        self.model = model

    @staticmethod
    @abstractmethod
    def bodies_xml() -> str:
        """MJCF of the bodies."""

    @abstractmethod
    def lay_out(
        self, data: mujoco.MjData, generator: np.random.Generator
    ) -> dict[str, SceneObject]:
        """Draws a scene; returns its loose things by name."""

    @abstractmethod
    def place_arm(
        self, simulator: TableTopSimulator, task: Task, generator: np.random.Generator
    ) -> None:
        """Where the arm begins, and what it holds then."""

    def begin(self, simulator: TableTopSimulator) -> None:
        """A task begins in the present scene."""
        return

    def update(self, simulator: TableTopSimulator) -> None:
        """Notes what has happened by now."""
        return

    @abstractmethod
    def check(self, simulator: TableTopSimulator, task: Task) -> TaskStatus:
        """Whether the task is done now; `wrong_object` where another goal is."""

    @abstractmethod
    def failure(self, simulator: TableTopSimulator, task: Task) -> str:
        """What is wrong so far, one of vla.envs.tabletop.failures.FAILURES."""

    @abstractmethod
    def target(self, view: View, task: Task) -> Target:
        """What the scripted expert does next."""

    def view(self, simulator: TableTopSimulator) -> View:
        """What the expert sees now."""
        tool, quaternion = simulator.end_effector_pose()
        thing, yaw = np.zeros(3), 0.0
        if self.thing:
            body = simulator.data.body(self.thing)
            thing, matrix = body.xpos.copy(), body.xmat.reshape(3, 3)
            yaw = float(np.arctan2(matrix[1, 0], matrix[0, 0]))
            yaw = (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
        return View(tool, quaternion, simulator.gripper_width, thing, yaw, self.is_held(simulator))

    def is_held(self, simulator: TableTopSimulator) -> bool:
        """Whether both fingers touch the thing."""
        return bool(self.thing) and simulator.touching_fingers(self.thing) == 2


def upright(yaw: float) -> np.ndarray:
    """Orientation [4], x y z w, of a tool that points down, turned about the vertical [rad]."""
    return np.array([np.cos(yaw / 2), np.sin(yaw / 2), 0.0, 0.0])


def random_color(generator: np.random.Generator) -> np.ndarray:
    """Red, green and blue [3] of a thing whose colour means nothing."""
    return generator.uniform(0.1, 0.9, 3)


def hold(
    simulator: TableTopSimulator,
    joints: np.ndarray,
    body: str,
    thickness: float,
    ahead: float = 0.0,
) -> None:
    """Puts a loose body between the fingers of an arm [7] whose fingers point down.

    thickness: of the body between the fingers [m]. ahead: from the tool to its middle, along the
    tool's x axis [m].
    """
    simulator.place_arm(joints, thickness + _FREE, 0.0)
    # Pressed from the first step on, so that it does not fall before the fingers have closed.
    simulator.data.ctrl[7:9] = thickness / 2 - 0.004
    mujoco.mj_forward(simulator.model, simulator.data)
    tool, quaternion = simulator.end_effector_pose()
    matrix = quaternion_to_matrix(quaternion)
    address = simulator.model.joint(body).qposadr[0]
    simulator.data.qpos[address : address + 3] = tool + ahead * matrix[:, 0]
    standing = np.empty(4)
    mujoco.mju_mat2Quat(standing, (matrix * np.array([1.0, -1.0, -1.0])).reshape(9))
    simulator.data.qpos[address + 3 : address + 7] = standing


def jittered(
    position: np.ndarray, yaw: float, generator: np.random.Generator, spread: float = 0.02
) -> np.ndarray:
    """Joints [7] that bring the tool near a place, upright but for a little [rad]."""
    joints = panda.upright_joints(position, yaw) + generator.uniform(-spread, spread, 7)
    return np.clip(joints, panda.JOINT_LOWER, panda.JOINT_UPPER)
