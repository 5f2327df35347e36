"""SimplerEnv in its own Python environment: run by vla/envs/worker/served.py.

Scenes, instructions and success are SimplerEnv's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Simpler:
    """One scene at a time, which is rebuilt only where an episode needs another one."""

    CALLS = ("reset", "step")

    def __init__(self) -> None:
        """Raises ImportError."""
        from mani_skill2_real2sim import ASSET_DIR
        from simpler_env.utils.env.env_builder import build_maniskill2_env
        from simpler_env.utils.env.observation_utils import get_image_from_maniskill2_obs_dict

        self._pictures = ASSET_DIR / "real_inpainting"
        self._build, self._image = build_maniskill2_env, get_image_from_maniskill2_obs_dict
        self._environment: Any = None
        self._built: Any = None

    def reset(self, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """Begins an "episode", see vla/envs/simpler/episodes.py; a "seed" decides the rest."""
        episode = fields["episode"]
        built = [episode[name] for name in ("environment", "build", "picture", "steps")]
        if built != self._built:
            if self._environment is not None:
                self._environment.close()
            self._built, picture = None, episode["picture"]
            self._environment = self._build(
                episode["environment"],
                obs_mode="rgbd",
                max_episode_steps=episode["steps"],
                rgb_overlay_path=str(self._pictures / picture) if picture else None,
                camera_cfgs={"add_segmentation": True},
                **episode["build"],
            )
            self._built = built
        options = {
            "robot_init_options": _with_arrays(episode["robot"]),
            "obj_init_options": _with_arrays(episode["object"]),
        }
        observation, _ = self._environment.reset(seed=fields["seed"], options=options)
        return {"instruction": self._instruction()}, self._arrays(observation)

    def step(self, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """Takes an "action": move [m], rotation vector [rad], gripper. "done" is success by now."""
        observation, _, done, truncated, info = self._environment.step(arrays["action"])
        told = {
            "instruction": self._instruction(),
            "done": bool(done),
            "truncated": bool(truncated),
            "stats": {name: float(v) for name, v in info.get("episode_stats", {}).items()},
        }
        return told, self._arrays(observation)

    def _instruction(self) -> str:
        return str(self._environment.unwrapped.get_language_instruction())

    def _arrays(self, observation: dict[str, Any]) -> dict[str, np.ndarray]:
        """The image, the fingers, and the tool in the base: position, quaternion w x y z."""
        environment = self._environment.unwrapped
        pose = environment.agent.robot.pose.inv() * environment.tcp.pose
        return {
            "image": np.asarray(self._image(environment, observation), np.uint8),
            "pose": np.concatenate([pose.p, pose.q]).astype(np.float64),
            "closedness": np.array([environment.agent.get_gripper_closedness()], np.float64),
        }


def _with_arrays(options: dict[str, Any]) -> dict[str, Any]:
    return {name: np.array(v) if isinstance(v, list) else v for name, v in options.items()}


def open_benchmark() -> Simpler:
    """The benchmark."""
    return Simpler()
