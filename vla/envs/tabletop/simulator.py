"""The table-top simulator: physics, cameras and success checks, stepped in process."""

from __future__ import annotations

import weakref

import mujoco
import numpy as np

from vla.control.robots import panda
from vla.core.rotations import matrix_to_quaternion
from vla.envs.tabletop import recall, scene
from vla.envs.tabletop.goal_sentences import GOALS, goal_of, scene_seed
from vla.envs.tabletop.goals.base import GoalScene
from vla.envs.tabletop.goals.registry import goal_scene_of
from vla.envs.tabletop.layout import HULL_SHARE, SceneLayout, SceneObject
from vla.envs.tabletop.places import drawer_place, free_spot, rests
from vla.envs.tabletop.tasks import (
    CABINET,
    DRAWER,
    RECALL,
    TABLE,
    Task,
    TaskStatus,
    parse_task,
    phrase,
    sample_task,
)
from vla.envs.tabletop.unseen import dress_unseen

CAMERAS = ("front", "wrist")
GRIPPER_SPEED = 0.2
LIFT_HEIGHT = 0.06
DRAWER_OPEN = 0.08
DRAWER_CLOSED = 0.015
MOST_UNTURNED = 0.1  # of a can [rad]


class TableTopSimulator:
    """A Panda at a table. Positions in metres in the base frame (x forward, y left, z up).

    camera_size: side of the square images that render() gives [px].
    """

    camera_names = CAMERAS

    def __init__(self, camera_size: int = 96):
        self.camera_size = camera_size
        self._scenes: dict[str, tuple[SceneLayout, mujoco.MjData]] = {}
        self._renderers: dict[tuple[str, int], mujoco.Renderer] = {}
        self._enter_scene("pick")
        self._tool = self.model.site(panda.TOOL_SITE).id
        self._drawer = self.model.joint("drawer").qposadr[0]
        self._finger_bodies = {self.model.body(f"panda_finger{i}").id for i in (1, 2)}
        self._rest_heights: dict[str, float] = {}
        self.scene_objects: dict[str, SceneObject] = {}
        self.task = Task("pick", "")
        self.lifted: set[str] = set()  # since the present task began
        self.began_at = 0.0  # when the present task began [s]; 0 for that of the reset
        self._width_command = panda.OPEN_WIDTH
        # Rendering contexts must be freed before the interpreter goes, and no later than this
        # object; a reference to close() would keep it for good.
        weakref.finalize(self, _free, self._renderers)
        self.reset(0, "pick")

    def close(self) -> None:
        """Frees the rendering contexts."""
        _free(self._renderers)

    # Scene

    def _enter_scene(self, family: str) -> None:
        # Lamp, buttons and shelves have models of their own: bodies that touch nothing still change
        # the order of a step's contacts, and with it how other scenes go on.
        kind = goal_scene_of(family)
        name = kind.name if kind else RECALL if family == RECALL else ""
        if name not in self._scenes:
            bodies = recall.bodies_xml() if name == RECALL else kind.bodies_xml() if kind else ""
            model = mujoco.MjModel.from_xml_string(scene.scene_xml(bodies))
            layout = SceneLayout(model, kind(model) if kind else None)
            self._scenes[name] = layout, mujoco.MjData(model)
        self._scene_name = name
        self._layout, self.data = self._scenes[name]
        self.model = self._layout.model

    def reset(self, seed: int, family: str, settle: float = 0.2, split: str = "seen") -> Task:
        """Lays out the scene of that seed and family and returns its task; the clock restarts at 0.

        settle: how long things come to rest before that [s]. split: "unseen" for another look, see
        vla.envs.tabletop.unseen. Raises ValueError when the family is unknown.
        """
        self._enter_scene(family)
        name = self._scene_name if self.goals else family
        generator = np.random.default_rng([scene_seed(family, seed), sum(name.encode())])
        mujoco.mj_resetData(self.model, self.data)
        self.scene_objects = self._layout.lay_out(self.data, generator, family)
        self.lifted.clear()
        self._rest_heights = {}
        if self.goals is not None:
            self.task = self._goal_task(family, seed)
            self.goals.place_arm(self, self.task, generator)
        else:
            self.task = self._draw_task(family, generator)
            joints = panda.HOME + generator.uniform(-0.08, 0.08, 7)
            self.place_arm(joints, panda.OPEN_WIDTH, panda.OPEN_WIDTH)
        if family == "lay":
            self._put_on_plate(self.task.target)
        if split == "unseen":
            bodies = [item.body for item in self.scene_objects.values()]
            dress_unseen(self.model, bodies, np.random.default_rng([seed, len(bodies), 7]))
        mujoco.mj_forward(self.model, self.data)
        self.step(settle)
        self.data.time = 0.0
        self.begin()
        return self.task

    def _draw_task(self, family: str, generator: np.random.Generator) -> Task:
        return sample_task(family, [*self.objects(), *self.recall.buttons], generator)

    def begin(self) -> None:
        """A task begins in the present scene: from now on it counts what is lifted, and how far."""
        self.lifted.clear()
        self.began_at = self.time
        self.recall.cue(self.task.target, self.time)
        self.recall.update(self.time, self.touching_fingers)
        self._rest_heights = {name: self.object_position(name)[2] for name in self.objects()}
        if self.goals is not None:
            self.goals.begin(self)

    def _put_on_plate(self, name: str) -> None:
        item = self.scene_objects[name]
        address = self.model.joint(item.body).qposadr[0]
        plate = self.model.body("plate").pos
        self.data.qpos[address : address + 3] = *plate[:2], item.half_height + 0.01

    def _goal_task(self, family: str, seed: int) -> Task:
        """The task of a seed, worded so that the words don't change how the scene is drawn."""
        task = Task(family, goal_of(family, seed))
        instruction = phrase(task, np.random.default_rng([seed, sum(family.encode())]))
        return Task(family, task.target, instruction=instruction)

    def place_arm(self, joints: np.ndarray, width: float, commanded: float) -> None:
        """Puts the arm into a configuration [7] at rest.

        width: between the fingers [m]. commanded: what they are on their way to.
        """
        self.data.qpos[:7] = self.data.ctrl[:7] = joints
        self.data.qpos[7:9] = self.data.ctrl[7:9] = width / 2
        self._width_command = commanded

    # Robot

    def command(self, joint_positions: np.ndarray, gripper_width: float) -> None:
        """Sets the servo targets: joint positions [7] in radians, finger opening in metres.

        Raises ValueError on another shape or a value that is not finite; the arm then holds.
        """
        joint_positions = np.asarray(joint_positions, dtype=np.float64)
        if (
            joint_positions.shape != (7,)
            or not np.isfinite([*joint_positions, gripper_width]).all()
        ):
            raise ValueError(
                f"expected 7 finite joint positions and a width, got {joint_positions}"
            )
        self.data.ctrl[:7] = np.clip(joint_positions, panda.JOINT_LOWER, panda.JOINT_UPPER)
        self._width_command = float(np.clip(gripper_width, 0.0, panda.OPEN_WIDTH))

    def step(self, duration: float) -> None:
        """Advances physics by `duration` seconds, rounded to whole steps."""
        timestep = self.model.opt.timestep
        limit = GRIPPER_SPEED * timestep / 2
        for _ in range(max(1, round(duration / timestep))):
            width = self.data.ctrl[7]
            width += np.clip(self._width_command / 2 - width, -limit, limit)
            self.data.ctrl[7:9] = width
            mujoco.mj_step(self.model, self.data)
        self._note_lifted()
        self.recall.update(self.time, self.touching_fingers)
        if self.goals is not None:
            self.goals.update(self)

    def _note_lifted(self) -> None:
        for name in self._rest_heights:
            if self.lift(name) > LIFT_HEIGHT * 0.7:
                self.lifted.add(name)

    @property
    def time(self) -> float:
        """Simulated time since the reset [s]."""
        return float(self.data.time)

    @property
    def joint_positions(self) -> np.ndarray:
        """Arm joints [7] in radians."""
        return self.data.qpos[:7].copy()

    @property
    def joint_velocities(self) -> np.ndarray:
        """Arm joints [7] in radians per second."""
        return self.data.qvel[:7].copy()

    @property
    def finger_positions(self) -> np.ndarray:
        """Travel of each finger [2] in metres."""
        return self.data.qpos[7:9].copy()

    @property
    def gripper_width(self) -> float:
        """Opening between the fingers [m]."""
        return float(self.data.qpos[7] + self.data.qpos[8])

    def end_effector_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] in metres and quaternion [4] x y z w of the tool centre point."""
        site = self.data.site(panda.TOOL_SITE)
        return site.xpos.copy(), matrix_to_quaternion(site.xmat)

    # Truth

    @property
    def recall(self) -> recall.LampAndButtons:
        """Lamp and buttons, which only scenes of the family `recall` have."""
        return self._layout.recall

    @property
    def goals(self) -> GoalScene | None:
        """What scenes of a family of goals have; None in scenes of other families."""
        return self._layout.goals

    @property
    def commanded_width(self) -> float:
        """The opening that the fingers are on their way to [m]."""
        return self._width_command

    @property
    def qpos(self) -> np.ndarray:
        """MuJoCo's whole configuration, from which a frame can be drawn again."""
        return self.data.qpos.copy()

    def set_qpos(self, qpos: np.ndarray) -> None:
        """Puts the scene into a recorded configuration. Raises ValueError on another length."""
        if len(qpos) != self.model.nq:
            raise ValueError(f"expected {self.model.nq} values, got {len(qpos)}")
        self.data.qpos[:] = qpos
        mujoco.mj_forward(self.model, self.data)

    def objects(self) -> list[str]:
        """Names of the blocks and cans on the table, such as "red block"."""
        return list(self.scene_objects)

    def object_position(self, name: str) -> np.ndarray:
        """Centre of a block or can [3] in metres."""
        return self.data.body(self.scene_objects[name].body).xpos.copy()

    def object_grasp(self, name: str) -> tuple[float, float]:
        """How fingers take a block or can: turn about the vertical, within ±45 degrees, and width.

        In radians and metres. What collides of a can is a box, with which fingers have to be in
        line once the can is turned.
        """
        item = self.scene_objects[name]
        matrix = self.data.body(item.body).xmat.reshape(3, 3)
        yaw = float(np.arctan2(matrix[1, 0], matrix[0, 0]))
        if name.endswith("can") and abs(yaw) < MOST_UNTURNED:
            return 0.0, 2 * item.half_width
        folded = (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
        across = round((yaw - folded) / (np.pi / 2)) % 2 == 1 and name.endswith("can")
        return float(folded), 2 * item.half_width * (HULL_SHARE if across else 1.0)

    def place_position(self, destination: str, name: str = "") -> np.ndarray:
        """Where things go: the middle of a destination, at the height that they rest on [3] [m].

        name: of what goes to the table, which is put where there is room for it.
        """
        if destination == DRAWER:
            return drawer_place(self)
        if destination == TABLE:
            return free_spot(self, name)
        foot = self.data.body(destination).xpos.copy()
        return foot + scene.CABINET_PLACE if destination == CABINET else foot

    @property
    def drawer_opening(self) -> float:
        """How far the drawer is out [m]."""
        return float(self.data.qpos[self._drawer])

    def handle_position(self) -> np.ndarray:
        """Centre of the drawer's handle [3] in metres."""
        return self.data.geom("handle").xpos.copy()

    def lift(self, name: str) -> float:
        """Height of an object above where it stood after the reset [m]."""
        return float(self.object_position(name)[2] - self._rest_heights[name])

    def touching_fingers(self, body: str) -> int:
        """How many of the two fingers touch the body."""
        pairs = self.model.geom_bodyid[self.data.contact.geom]  # [contacts, 2]
        wanted = self.model.body(body).id
        others = np.concatenate([pairs[pairs[:, 0] == wanted, 1], pairs[pairs[:, 1] == wanted, 0]])
        return len(set(others.tolist()) & self._finger_bodies)

    def is_placed(self, name: str, destination: str) -> bool:
        """True when the object rests in or on the destination and no finger touches it."""
        untouched = self.touching_fingers(self.scene_objects[name].body) == 0
        return untouched and rests(self, name, destination)

    def parse_task(self, text: str) -> Task:
        """Reads a task and checks that its target is there.

        Raises ValueError that says what cannot be read or is not there.
        """
        task = parse_task(text)
        if task.family in GOALS:
            if self.goals is None or task.family not in self.goals.families:
                raise ValueError(f"a scene of '{self.task.family}' has no goal of '{task.family}'")
            return task
        there = [*self.objects(), *self.recall.buttons]
        if task.target != DRAWER and task.target not in there:
            raise ValueError(f"there is no {task.target}; there are: {', '.join(there)}")
        return task

    def check(self, task: Task) -> TaskStatus:
        """Whether the task is done now, judged from the truth."""
        if self.goals is not None:
            return self.goals.check(self, task)
        wrong = bool(self.lifted - {task.target})
        if task.family == RECALL:
            pressed = self.recall.pressed
            wrong = pressed not in ("", task.target)
            return TaskStatus(pressed == task.target, wrong, is_lost=wrong)
        if task.family == "pick":
            item = self.scene_objects[task.target]
            held = self.touching_fingers(item.body) > 0
            return TaskStatus(bool(held and self.lift(task.target) > LIFT_HEIGHT), wrong)
        if task.destination:
            return TaskStatus(self.is_placed(task.target, task.destination), wrong)
        if task.family == "open_drawer":
            return TaskStatus(self.drawer_opening > DRAWER_OPEN, wrong)
        return TaskStatus(self.drawer_opening < DRAWER_CLOSED, wrong)

    # Cameras

    def render(
        self,
        camera: str,
        size: int | None = None,
        detailed: bool = False,
        data: mujoco.MjData | None = None,
    ) -> np.ndarray:
        """An image uint8 [size, size, 3] of "front", "wrist" or "overview".

        detailed: the fine meshes and shadows, for videos; else what policies see. data: another
        state of the scene than the present one.
        """
        size = size or self.camera_size
        key = self._scene_name, size
        if key not in self._renderers:
            self._renderers[key] = self.make_renderer(size, detailed)
        option = mujoco.MjvOption()
        option.geomgroup[:] = [1, 0, detailed, not detailed, 0, 0]
        renderer = self._renderers[key]
        renderer.update_scene(data or self.data, camera, option)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = detailed
        return renderer.render().copy()

    def make_renderer(self, size: int, detailed: bool = False) -> mujoco.Renderer:
        """A renderer of images [size, size, 3]; the caller closes it in the thread that uses it.

        detailed: with smooth edges.
        """
        # A buffer of just this size: clearing and reading a larger one costs more than drawing.
        self.model.vis.quality.offsamples = 4 if detailed else 0
        self.model.vis.global_.offwidth = self.model.vis.global_.offheight = size
        return mujoco.Renderer(self.model, size, size)

    def camera_pose(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] in metres and rotation [3, 3] of a camera that looks along its -z, y up."""
        place = self.data.camera(camera)
        return place.xpos.copy(), place.xmat.reshape(3, 3).copy()

    def camera_matrix(self, camera: str) -> np.ndarray:
        """Pinhole intrinsics K [3, 3] in pixels at camera_size."""
        focal = self.camera_size / 2 / np.tan(np.radians(self.model.camera(camera).fovy[0]) / 2)
        centre = (self.camera_size - 1) / 2
        return np.array([[focal, 0, centre], [0, focal, centre], [0, 0, 1.0]])


def _free(renderers: dict[tuple[str, int], mujoco.Renderer]) -> None:
    for renderer in renderers.values():
        renderer.close()
    renderers.clear()
