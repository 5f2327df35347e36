"""CALVIN as an environment: five tasks in a row, the scene going on from one to the next."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.contract.image_fit import prepare_image
from vla.envs.calvin.actions import relative_action
from vla.envs.worker.environment import WorkerEnv
from vla.envs.worker.process import WorkerProcess


class CalvinEnv(WorkerEnv):
    """One chain an episode; `reset` takes the option "chain", its number.

    The instruction changes when a task is done. The episode ends with the first task that is not
    done within `steps_per_task` steps, or when all are. `info` also holds "subtasks", those that
    were begun.
    """

    def __init__(
        self,
        worker: WorkerProcess,
        contract: EmbodimentContract,
        steps_per_task: int,
        frame: str = "world",
        render_mode: str | None = None,
    ):
        """frame: of the actions, see vla.envs.calvin.actions. render_mode: see WorkerEnv."""
        super().__init__(worker, contract, render_mode)
        self._steps_per_task, self._frame = steps_per_task, frame
        self._tasks: list[str] = []
        self._instructions: list[str] = []
        self._done, self._steps = 0, 0

    def _begin(self, options: dict[str, Any]) -> dict[str, Any]:
        told, arrays = self.worker.call("reset", {"chain": options["chain"]})
        self._tasks, self._instructions = list(told["tasks"]), list(told["instructions"])
        self._done, self._steps = 0, 0
        return self._observed(arrays)

    def _advance(self, action: np.ndarray) -> tuple[dict[str, Any], bool, bool]:
        taken = relative_action(action, self._observation["state"], self._frame)
        told, arrays = self.worker.call("step", {}, {"action": taken})
        self._steps += 1
        if told["done"]:
            self._done, self._steps = self._done + 1, 0
            if not self._is_over:
                self.worker.call("begin", {"task": self._tasks[self._done]})
        return self._observed(arrays), self._is_over, self._steps >= self._steps_per_task

    @property
    def _is_over(self) -> bool:
        return self._done == len(self._tasks)

    def _observed(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        cameras = self.contract.cameras
        images = {camera.name: prepare_image(arrays[camera.name], camera) for camera in cameras}
        state = arrays["state"]
        if state.shape != (len(self.contract.state_names),):
            raise ValueError(f"a state of shape {state.shape}")
        return {"images": images, "state": state}

    def _info(self) -> dict[str, Any]:
        return {
            "instruction": self._instructions[min(self._done, len(self._instructions) - 1)],
            "success": self._is_over,
            "subtasks": {t: n < self._done for n, t in enumerate(self._tasks[: self._done + 1])},
        }
