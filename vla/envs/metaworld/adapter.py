"""MetaWorld in its own Python environment: run by vla/envs/worker/served.py.

Scenes, success and scripted policies are MetaWorld's own. Single tasks are built: its `MT50()`
builds all fifty, for minutes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# The one that MetaWorld 3.1.1 was made for; its models fail, or have other physics, on others.
MUJOCO = "3.3.0"
CAMERA = "corner2"
SEEN = 2 / 3  # of the camera's image in each direction: the middle


class MetaWorld:
    """One task at a time, which is rebuilt only where an episode is of another one."""

    CALLS = ("reset", "step", "image", "expert")

    def __init__(self, shadows: bool):
        """shadows: whether images have shadows and reflections. Raises ImportError."""
        import mujoco

        if mujoco.__version__ != MUJOCO:
            raise ImportError(
                f"it has MuJoCo {mujoco.__version__}, and MetaWorld runs on {MUJOCO} alone"
            )
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP

        self._mujoco = mujoco
        self._tasks, self._policies = ALL_V3_ENVIRONMENTS, ENV_POLICY_MAP
        self._shadows = shadows
        self._task, self._size = "", 0
        self._environment: Any = None
        self._renderer: Any = None

    def reset(self, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """Lays out the scene of a "task" and a "seed", and takes a step without a motion."""
        if fields["task"] != self._task:
            self._build(fields["task"])
        self._policy = self._policies[self._task]()
        self._environment.seed(fields["seed"])
        self._environment.reset()
        return self.step({}, {"action": np.zeros(4)})

    def step(self, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """Takes an "action" [4] of MetaWorld, cut at -1 and 1. Gives the state, and success."""
        action = np.clip(arrays["action"], -1.0, 1.0)
        self._observation, _, _, _, info = self._environment.step(action)
        return {"success": bool(info["success"])}, {"observation": self._observation[:8]}

    def image(self, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """The square middle of the camera's image, turned by 180 degrees, of a "size" [px]."""
        if self._renderer is None or fields["size"] != self._size:
            self._draw(fields["size"])
        camera = self._environment.model.camera(CAMERA).id
        self._renderer.update_scene(self._environment.data, camera=camera)
        return {}, {"image": self._renderer.render()[::-1, ::-1]}

    def expert(self, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """The "action" [4] of the task's scripted policy, which knows where everything is."""
        action = np.clip(self._policy.get_action(self._observation), -1.0, 1.0)
        return {}, {"action": action.astype(np.float64)}

    def _build(self, task: str) -> None:
        self._drop_renderer()
        self._task = ""
        environment = self._tasks[task]()
        # As a set task does, but for the scene, which is drawn from the seed at each reset. Without
        # this the goal is hidden from the scripted policies, and clipped to zero by the bounds that
        # were computed before.
        environment._partially_observable = False
        environment.__dict__.pop("sawyer_observation_space", None)
        environment._set_task_called = True
        environment._freeze_rand_vec = False
        environment.seeded_rand_vec = True
        model = environment.model
        # A narrower view is the middle of the image, and costs no pixels around it.
        tangent = math.tan(math.radians(model.camera(CAMERA).fovy[0]) / 2)
        model.camera(CAMERA).fovy = math.degrees(2 * math.atan(SEEN * tangent))
        # Without a GPU, four samples a pixel take longer than four times the pixels.
        model.vis.quality.offsamples = 0
        if not self._shadows:
            model.vis.quality.shadowsize = 0
        self._environment, self._task = environment, task

    def _draw(self, size: int) -> None:
        self._drop_renderer()
        model, flags = self._environment.model, self._mujoco.mjtRndFlag
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._renderer = self._mujoco.Renderer(model, size, size)
        for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = self._shadows
        self._size = size

    def _drop_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def open_benchmark(shadows: bool) -> MetaWorld:
    """The benchmark. shadows: see MetaWorld."""
    return MetaWorld(shadows)
