"""The families `atomic_*`: one atomic action each, from one scene (LA4VLA, section 3.1).

On the table are a loose block, a button and a post on a rail. The arm begins above the block or the
button, at the post, or with the block in the hand; each goal that a start allows begins exactly
alike. What was reached is measured from the poses of tool and things, and from contacts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mujoco
import numpy as np

from vla.control.robots import panda
from vla.core.rotations import (
    difference,
    from_rotation_vector,
    matrix_to_quaternion,
    multiply,
    quaternion_to_matrix,
)
from vla.envs.tabletop.goal_sentences import ATOMIC_FAMILIES, ATOMIC_PREFIX, GOALS
from vla.envs.tabletop.goals.base import (
    GoalScene,
    Target,
    View,
    hold,
    jittered,
    random_color,
    upright,
)
from vla.envs.tabletop.goals.buttons import button_xml, press
from vla.envs.tabletop.layout import SceneObject
from vla.envs.tabletop.tasks import Task, TaskStatus

if TYPE_CHECKING:
    from vla.envs.tabletop.simulator import TableTopSimulator

AXES = {
    "forward": np.array([1.0, 0.0, 0.0]),
    "backward": np.array([-1.0, 0.0, 0.0]),
    "left": np.array([0.0, 1.0, 0.0]),
    "right": np.array([0.0, -1.0, 0.0]),
    "up": np.array([0.0, 0.0, 1.0]),
    "down": np.array([0.0, 0.0, -1.0]),
}
OF_HELD = ("place", "lift", "lower", "transport", "wrist_rotate")
BLOCK_HALF, POST_THICKNESS = 0.021, 0.014
# What the expert does [m, rad], and how much of it counts as done.
_WAY, _LOWER_WAY, _TURN, _TILT = 0.10, 0.07, 0.7, 0.55
_LEAST_WAY, _LEAST_LOWER, _LEAST_TURN, _LEAST_TILT = 0.06, 0.04, 0.4, 0.3
_LEAST_PRESSED = 0.012
_ASIDE = 0.5  # of a way, how far it may lead aside
_SPOT, _STEADY_TURN = 0.04, 0.25  # how far what should only turn may move, and the reverse
WAIT_SECONDS, _WAIT_WAY, _WAIT_TURN = 2.0, 0.01, 0.06
_DROP = 0.03  # what is released higher above the table is dropped, not placed
_POST_GRIP = 0.055  # height at which the post is held [m]


def primitive_of(task: Task) -> str:
    """The primitive of a task of these families."""
    return task.family.removeprefix(ATOMIC_PREFIX)


def begins_holding(primitive: str, goal: str) -> bool:
    """Whether the block is in the hand when a goal's episode begins."""
    return primitive in OF_HELD or goal.startswith(("object ", "holding"))


class AtomicScene(GoalScene):
    """A block, a button that gives way, and a post that slides along x."""

    name = "atomic"
    families = ATOMIC_FAMILIES
    thing = "block0"
    thickness = 2 * BLOCK_HALF

    def __init__(self, model: mujoco.MjModel):
        super().__init__(model)
        self._button = int(model.joint("button").qposadr[0])
        self._post = int(model.joint("post").qposadr[0])
        self._start_post = self._farthest = self._turned = self._began = 0.0
        self._dropped = self._begins_held = self._let_go = False
        self._start_thing, self._start_tool = np.zeros(3), np.zeros(3)
        self._start_quaternion = self._start_thing_quaternion = np.array([0.0, 0.0, 0.0, 1.0])

    @staticmethod
    def bodies_xml() -> str:
        """Button and post; the block is one of the table's."""
        return f"""{button_xml("button")}
        <body name="rail"><geom type="box" size="0.16 0.012 0.005" pos="0 0 0.005"
          contype="0" conaffinity="0" rgba="0.3 0.3 0.32 1"/>
          <body name="post" pos="0 0 0.01">
            <joint name="post" type="slide" axis="1 0 0" range="-0.16 0.16" damping="8"
              frictionloss="1" armature="0.1"/>
            <geom type="box" size="0.02 0.02 0.01" pos="0 0 0.01" mass="0.1" contype="1"
              conaffinity="1" rgba="0.5 0.5 0.52 1"/>
            <geom name="post" type="box" size="0.012 {POST_THICKNESS / 2} 0.03" pos="0 0 0.045"
              mass="0.1" contype="1" conaffinity="1" friction="2 0.05 0.001" condim="4"/>
          </body></body>"""

    def lay_out(
        self, data: mujoco.MjData, generator: np.random.Generator
    ) -> dict[str, SceneObject]:
        """Block on the right, button in the middle, post on the left."""
        model = self.model
        for body, low, high in (
            ("button_base", (0.44, -0.10), (0.50, -0.04)),
            ("rail", (0.46, 0.06), (0.50, 0.10)),
        ):
            model.body(body).pos[:] = *generator.uniform(low, high), 0.0
        for geom in ("button", "post", "block0"):
            model.geom(geom).rgba[:3] = random_color(generator)
        model.geom("block0").size[:] = BLOCK_HALF
        address = model.joint("block0").qposadr[0]
        x, y = generator.uniform((0.44, -0.26), (0.50, -0.20))
        data.qpos[address : address + 3] = x, y, BLOCK_HALF + 0.001
        yaw = generator.uniform(-0.2, 0.2)
        data.qpos[address + 3 : address + 7] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
        return {"block": SceneObject("block", "block0", (BLOCK_HALF,) * 3)}

    def place_arm(
        self, simulator: TableTopSimulator, task: Task, generator: np.random.Generator
    ) -> None:
        """Above the block or the button, at the post, or with the block in the hand."""
        primitive, model = primitive_of(task), self.model
        height, yaw = generator.uniform(0.17, 0.20), generator.uniform(-0.2, 0.2)
        above_button = generator.random() < 0.5
        address = model.joint("block0").qposadr[0]
        block = simulator.data.qpos[address : address + 2].copy()
        if begins_holding(primitive, task.target):
            joints = jittered(np.array([*block, height - 0.02]), yaw, generator)
            hold(simulator, joints, "block0", self.thickness)
        elif primitive in ("push", "pull"):
            place = np.array([*model.body("rail").pos[:2], _POST_GRIP])
            joints = panda.upright_joints(place, 0.0)
            simulator.place_arm(joints, POST_THICKNESS + 0.001, 0.0)
        elif primitive == "press" or (above_button and primitive != "grasp"):
            place = np.array([*model.body("button_base").pos[:2], height])
            simulator.place_arm(jittered(place, yaw, generator), 0.0, 0.0)
        else:
            joints = jittered(np.array([*block, height]), yaw, generator)
            simulator.place_arm(joints, panda.OPEN_WIDTH, panda.OPEN_WIDTH)

    # What happens

    def post_position(self, simulator: TableTopSimulator) -> float:
        """How far the post is along its rail [m]."""
        return float(simulator.data.qpos[self._post])

    def button_travel(self, simulator: TableTopSimulator) -> float:
        """How far the button is down [m]."""
        return -float(simulator.data.qpos[self._button])

    def begin(self, simulator: TableTopSimulator) -> None:
        """Where tool and things are counts as the start."""
        self._start_tool, self._start_quaternion = simulator.end_effector_pose()
        self._start_thing, self._start_thing_quaternion = _pose(simulator, self.thing)
        self._start_post, self._began = self.post_position(simulator), simulator.time
        self._farthest = self._turned = 0.0
        self._dropped = self._let_go = False
        self._begins_held = self.is_held(simulator)

    def update(self, simulator: TableTopSimulator) -> None:
        """How far the tool was from its start, and where the block was let go."""
        tool, quaternion = simulator.end_effector_pose()
        self._farthest = max(self._farthest, float(np.linalg.norm(tool - self._start_tool)))
        turned = float(np.linalg.norm(difference(quaternion, self._start_quaternion)))
        self._turned = max(self._turned, turned)
        if self._begins_held and not self._let_go and not simulator.touching_fingers(self.thing):
            self._let_go = True
            height = float(simulator.data.body(self.thing).xpos[2]) - BLOCK_HALF
            self._dropped = height > _DROP

    def check(self, simulator: TableTopSimulator, task: Task) -> TaskStatus:
        """Whether the tool, the block, the button or the post did what was asked."""
        primitive = primitive_of(task)
        held = self.is_held(simulator)
        success = self._reached(simulator, primitive, task.target, held)
        others = [
            (family.removeprefix(ATOMIC_PREFIX), goal)
            for family in ATOMIC_FAMILIES
            for goal in GOALS[family]
            if (family, goal) != (task.family, task.target)
        ]
        misread = not success and any(
            self._reached(simulator, other, goal, held) for other, goal in others if other != "wait"
        )
        has_moved = primitive == "wait" and self._has_moved
        return TaskStatus(success, misread, self._is_dropped(primitive) or has_moved)

    def failure(self, simulator: TableTopSimulator, task: Task) -> str:
        """From the same measures."""
        primitive = primitive_of(task)
        if self._is_dropped(primitive):
            return "dropped"
        if self.check(simulator, task).wrong_object:
            return "misread"
        if primitive == "wait":
            return "moved" if self._has_moved else "not_steady"
        if self._farthest < 0.02 and self._turned < 0.1:
            return "not_moved"
        missing = {"grasp": "nothing_grasped", "press": "nothing_pressed", "place": "not_placed"}
        return missing.get(primitive, "not_far_enough")

    def _is_dropped(self, primitive: str) -> bool:
        return self._dropped or (self._let_go and primitive != "place")

    @property
    def _has_moved(self) -> bool:
        return self._farthest > _WAIT_WAY or self._turned > _WAIT_TURN

    def _reached(self, simulator: TableTopSimulator, primitive: str, goal: str, held: bool) -> bool:
        """held: whether both fingers touch the block."""
        of_held = begins_holding(primitive, goal)
        if of_held != self._begins_held or (of_held and not held and primitive != "place"):
            return False
        goal = goal.removeprefix("object ")
        if primitive == "wait":
            return simulator.time - self._began >= WAIT_SECONDS and not self._has_moved
        if primitive == "grasp":
            return held and simulator.lift("block") < _LEAST_WAY
        if primitive == "place":
            return self._let_go and not self._dropped and self._lies(simulator)
        if primitive == "press":
            low = self.button_travel(simulator) > _LEAST_PRESSED
            return low and self._touches(simulator, "button")
        if primitive in ("push", "pull"):
            slid = self.post_position(simulator) - self._start_post
            far = (slid if primitive == "push" else -slid) > _LEAST_WAY
            return far and self._touches(simulator, "post")
        if not of_held and any(self._touches(simulator, b) for b in ("block0", "button", "post")):
            return False
        # The block itself, or the empty tool.
        if of_held:
            position, quaternion = _pose(simulator, self.thing)
            start, before = self._start_thing, self._start_thing_quaternion
        else:
            position, quaternion = simulator.end_effector_pose()
            start, before = self._start_tool, self._start_quaternion
        moved, turned = position - start, difference(quaternion, before)
        axis = quaternion_to_matrix(self._start_quaternion)[:, 2]
        about = float(turned @ axis)
        other = turned - about * axis
        if primitive in ("rotate", "wrist_rotate"):
            sign = 1.0 if goal == "clockwise" else -1.0
            stays = np.linalg.norm(moved) < _SPOT and np.linalg.norm(other) < _STEADY_TURN
            return bool(sign * about > _LEAST_TURN and stays)
        if primitive == "reorient":
            sign = -1.0 if goal == "forward" else 1.0
            return bool(
                sign * other[1] > _LEAST_TILT
                and abs(about) < _STEADY_TURN
                and np.linalg.norm(moved) < _SPOT
            )
        way = float(moved @ AXES[goal])
        aside = float(np.linalg.norm(moved - way * AXES[goal]))
        least = _LEAST_LOWER if primitive == "lower" else _LEAST_WAY
        return bool(way > least and aside < _ASIDE * way and np.linalg.norm(turned) < _STEADY_TURN)

    def _touches(self, simulator: TableTopSimulator, body: str) -> bool:
        return simulator.touching_fingers(body) > 0

    def _lies(self, simulator: TableTopSimulator) -> bool:
        body = simulator.data.body(self.thing)
        is_upright = abs(float(body.xmat.reshape(3, 3)[2, 2])) > 0.95
        free = not self._touches(simulator, self.thing)
        return is_upright and free and float(body.xpos[2]) < BLOCK_HALF + 0.006

    # The expert

    def target(self, view: View, task: Task) -> Target:
        """A way or a turn from the start, or to the block or the button."""
        primitive, goal = primitive_of(task), task.target.removeprefix("object ")
        tool, quaternion = self._start_tool, self._start_quaternion
        gripper = 0.0 if self._begins_held or view.width < 0.04 else 1.0
        if primitive == "grasp":
            return self._grasp(view)
        if primitive == "place":
            return self._place(view)
        if primitive == "press":
            place = self.model.body("button_base").pos[:2]
            return press(view, place, self._start_quaternion)
        if primitive in ("rotate", "wrist_rotate"):
            axis = quaternion_to_matrix(quaternion)[:, 2]
            turn = axis * (_TURN if goal == "clockwise" else -_TURN)
            return Target(tool, multiply(from_rotation_vector(turn), quaternion), gripper)
        if primitive == "reorient":
            turn = np.array([0.0, -_TILT if goal == "forward" else _TILT, 0.0])
            return Target(tool, multiply(from_rotation_vector(turn), quaternion), gripper)
        if primitive == "wait":
            return Target(tool, quaternion, gripper)
        if primitive in ("push", "pull"):
            return Target(tool + _WAY * AXES[goal], quaternion, 0.0)
        way = _LOWER_WAY if primitive == "lower" else _WAY
        return Target(tool + way * AXES[goal], quaternion, gripper)

    def _grasp(self, view: View) -> Target:
        gx, gy, gz = view.thing
        away = float(np.hypot(view.tool[0] - gx, view.tool[1] - gy))
        height = float(view.tool[2] - gz)
        down = upright(view.thing_yaw)
        # Once the fingers are closing, a block that they nudge is no reason to open again.
        reach, depth = (0.008, 0.008) if view.width > 0.074 else (0.016, 0.014)
        near = away < reach and abs(height) < depth
        if view.held or (near and view.width > self.thickness - 0.007):
            return Target(view.thing, down, 0.0)
        if away < 0.01 + 0.25 * max(height, 0.0) and view.width > 0.07:
            return Target(view.thing, down, 1.0)
        return Target(np.array([gx, gy, max(gz + 0.09, view.tool[2])]), down, 1.0)

    def _place(self, view: View) -> Target:
        low = float(view.tool[2] - view.thing[2]) + BLOCK_HALF + 0.003
        matrix = quaternion_to_matrix(self._start_quaternion)
        down = upright(float(np.arctan2(matrix[1, 0], matrix[0, 0])))
        if view.held and view.tool[2] > low + 0.006:
            x, y, _ = self._start_tool
            return Target(np.array([x, y, low]), down, 0.0)
        return Target(view.tool, down, 1.0)


def _pose(simulator: TableTopSimulator, body: str) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] and quaternion [4], x y z w, of a body."""
    found = simulator.data.body(body)
    return found.xpos.copy(), matrix_to_quaternion(found.xmat)
