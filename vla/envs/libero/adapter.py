"""LIBERO in its own Python environment: run by vla/envs/worker/served.py.

Scenes, their initial states, instructions and success are LIBERO's own.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

# Steps without a motion until what was put down rests.
WAITING = 10


class Libero:
    """One task at a time, which is rebuilt only where an episode is of another one."""

    CALLS = ("reset", "step")

    def __init__(self) -> None:
        """Raises ImportError."""
        from libero.libero import benchmark, get_libero_path
        from libero.libero.envs import OffScreenRenderEnv

        self._suites, self._make = benchmark.get_benchmark_dict(), OffScreenRenderEnv
        self._files = get_libero_path("bddl_files")
        self._environment: Any = None
        self._built: Any = None

    def reset(self, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """Lays out initial "state" number n of a "task" number of a "suite"; images of a "size".

        "seed": of the simulator. "waiting_gripper": what the gripper is told while things come to
        rest. Gives the instruction, and the task's name.
        """
        built = [fields[name] for name in ("suite", "task", "size", "seed")]
        if built != self._built:
            self._build(*built)
        self._environment.reset()
        observation = self._environment.set_init_state(self._states[fields["state"]])
        still = np.array([0.0] * 6 + [fields["waiting_gripper"]])
        for _ in range(WAITING):
            observation, _, _, _ = self._environment.step(still)
        told = {"instruction": str(self._task.language), "task": str(self._task.name)}
        return told, _arrays(observation)

    def step(self, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """Takes an "action" [7] of LIBERO. Gives whether the task is done."""
        observation, _, done, _ = self._environment.step(arrays["action"])
        return {"done": bool(done)}, _arrays(observation)

    def _build(self, suite: str, task: int, size: int, seed: int) -> None:
        if self._environment is not None:
            self._environment.close()
        self._environment = self._built = None
        tasks = self._suites[suite]()
        self._task, self._states = tasks.get_task(task), tasks.get_task_init_states(task)
        file = os.path.join(self._files, self._task.problem_folder, self._task.bddl_file)
        self._environment = self._make(bddl_file_name=file, camera_heights=size, camera_widths=size)
        self._environment.seed(seed)
        self._built = [suite, task, size, seed]


def _arrays(observation: dict[str, Any]) -> dict[str, np.ndarray]:
    """Both images, turned by 180 degrees; the tool's position and quaternion x y z w; fingers."""
    images = {
        "agentview": observation["agentview_image"],
        "wrist": observation["robot0_eye_in_hand_image"],
    }
    state = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
    values = np.concatenate([np.asarray(observation[name], np.float64) for name in state])
    return {**{name: image[::-1, ::-1] for name, image in images.items()}, "state": values}


def open_benchmark() -> Libero:
    """The benchmark."""
    return Libero()
