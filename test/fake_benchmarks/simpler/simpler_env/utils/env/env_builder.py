"""Tasks in which only the tool moves, with the calls of SimplerEnv's environments."""

import os
from types import SimpleNamespace

import faults
import numpy as np


class Pose:
    """A place and a turn (w x y z), as sapien's; the base of the robot stands at 1, 0, 0."""

    def __init__(self, p, q):
        self.p, self.q = np.asarray(p, np.float32), np.asarray(q, np.float32)

    def inv(self):
        return Pose(-self.p, self.q)

    def __mul__(self, other):
        return Pose(self.p + other.p, other.q)


class FakeEnv:
    """Done as long as the tool is more than 10 cm above its start with the gripper closed.

    "PlaceInto" has two halves, and the second begins after 100 steps.
    """

    def __init__(self, name, options):
        self.name, self.options, self.robot_uid = name, options, options["robot"]
        self.unwrapped = self
        self.agent = SimpleNamespace(
            robot=SimpleNamespace(pose=Pose([1, 0, 0], [1, 0, 0, 0])),
            get_gripper_closedness=lambda: self.closedness,
        )

    def reset(self, seed=None, options=None):
        faults.here("reset")
        robot = options["robot_init_options"]
        assert isinstance(robot["init_xy"], np.ndarray) and len(robot["init_rot_quat"]) == 4
        thing = options["obj_init_options"]
        assert set(thing) in ({"init_xy"}, {"episode_id"}), thing
        self.elapsed, self.place, self.closedness, self.grasped = 0, np.zeros(3), 0.0, False
        self.actions = []
        return self._observation(), {}

    @property
    def tcp(self):
        return SimpleNamespace(pose=Pose(np.array([1, 0, 0]) + self.place, [1, 0, 0, 0]))

    def _observation(self):
        google = self.robot_uid.startswith("google")
        height, width, camera = (
            (128, 160, "overhead_camera") if google else (120, 160, "3rd_view_camera")
        )
        rgb = np.zeros((height, width, 3), np.uint8)
        rgb[:, : width // 2] = 200
        return {"image": {camera: {"rgb": rgb}}}

    def is_final_subtask(self):
        return not self.name.startswith("PlaceInto") or self.elapsed > 100

    def get_language_instruction(self, **kwargs):
        if self.name.startswith("PlaceInto"):
            return "place apple into top drawer" if self.is_final_subtask() else "open top drawer"
        return f"do {self.name}"

    def step(self, action):
        faults.here("step")
        assert action.shape == (7,) and np.isfinite(action).all()
        self.elapsed += 1
        self.place = self.place + action[:3]
        if self.robot_uid.startswith("google"):
            self.closedness = float(np.clip(self.closedness + 0.5 * action[6], 0, 1))
        else:
            self.closedness = (1.0 - action[6]) / 2
        done = self.place[2] > 0.0999 and self.closedness > 0.9
        self.grasped = self.grasped or bool(self.closedness > 0.9)
        stats = {"qpos": "0.123", "grasped": self.grasped}
        truncated = self.elapsed >= self.options["max_episode_steps"]
        return self._observation(), 0.0, np.bool_(done), truncated, {"episode_stats": stats}

    def close(self):
        pass


def build_maniskill2_env(env_name, **kwargs):
    faults.here("open")
    print("building", env_name, sorted(kwargs))
    picture = kwargs["rgb_overlay_path"]
    assert picture is None or os.path.basename(picture).endswith(".png")
    assert kwargs["obs_mode"] == "rgbd" and kwargs["camera_cfgs"] == {"add_segmentation": True}
    return FakeEnv(env_name, kwargs)
