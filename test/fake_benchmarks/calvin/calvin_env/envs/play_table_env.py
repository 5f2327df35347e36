"""A table on which nothing but the tool moves, with the calls of CALVIN's PlayTableSimEnv."""

from pathlib import Path

import faults
import numpy as np


class PlayTableSimEnv:
    """The tool follows relative actions exactly; the static image shows where it is."""

    def __init__(self, cameras):
        self.cameras = cameras

    def reset(self, robot_obs=None, scene_obs=None):
        faults.here("reset")
        assert robot_obs.shape == (15,) and scene_obs.shape == (24,)
        self.robot, self.scene = robot_obs.copy(), scene_obs
        return self.get_obs()

    def get_obs(self):
        pixels = {"static": 200, "gripper": 84}
        images = {}
        for camera in self.cameras:
            image = np.zeros((pixels[camera], pixels[camera], 3), np.uint8)
            image[:] = np.clip(128 + 100 * self.robot[:3], 0, 255)
            images["rgb_" + camera] = image
        return {
            "rgb_obs": images,
            "depth_obs": {},
            "robot_obs": self.robot,
            "scene_obs": self.scene,
        }

    def get_info(self):
        return {"robot_info": {"tcp_pos": tuple(self.robot[:3])}, "scene_info": {}}

    def step(self, action):
        faults.here("step")
        assert len(action) == 7 and action[-1] in (-1, 1), action
        assert np.abs(action).max() <= 1.0 and np.isfinite(action).all(), action
        self.robot = self.robot.copy()
        self.robot[:3] += 0.02 * action[:3]
        self.robot[3:6] += 0.05 * action[3:6]
        self.robot[14] = action[6]
        return self.get_obs(), 0, False, self.get_info()


def get_env(dataset_path, obs_space=None, show_gui=True, **kwargs):
    faults.here("open")
    assert (Path(dataset_path) / ".hydra" / "merged_config.yaml").exists() and not show_gui
    keys = obs_space["rgb_obs"] + obs_space["depth_obs"]
    return PlayTableSimEnv([key.split("_")[1] for key in keys])
