"""LIBERO as an environment."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.envs.libero.protocols import LiberoProtocol
from vla.envs.worker.environment import WorkerEnv
from vla.envs.worker.process import WorkerProcess

# What LIBERO's actions are in units of; they are at most one of them.
LONGEST_MOVE, LARGEST_TURN = 0.05, 0.5  # [m], [rad]
UNITS = (*[LONGEST_MOVE] * 3, *[LARGEST_TURN] * 3, 1.0)
SENT = 9  # numbers of position, quaternion and fingers


def to_libero(action: np.ndarray) -> np.ndarray:
    """LIBERO's action [7], within -1 to 1, the gripper -1 open or 1 closed.

    action [7]: a move [m], a rotation vector [rad], gripper 1 open 0 closed.
    """
    scaled = np.clip(action[:6] / UNITS[:6], -1.0, 1.0)
    return np.append(scaled, -1.0 if action[6] > 0.5 else 1.0)


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """The rotation vector [3] of a unit quaternion x y z w, as LIBERO's data sets have it.

    Its angle is 0 to two pi: with the tool downwards it is about pi, where the shorter turn would
    change its sign from frame to frame.
    """
    cosine = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = math.sqrt(1.0 - cosine * cosine)
    if math.isclose(sine, 0.0):
        return np.zeros(3)
    return quaternion[:3] * (2.0 * math.acos(cosine) / sine)


class LiberoEnv(WorkerEnv):
    """One of LIBERO's tasks; `reset` takes the options "suite", "task" and "state".

    `info` also holds "subtasks", with the task's name.
    """

    def __init__(
        self,
        worker: WorkerProcess,
        contract: EmbodimentContract,
        protocol: LiberoProtocol,
        steps: int,
        render_mode: str | None = None,
    ):
        """steps: of an episode. render_mode: see WorkerEnv."""
        super().__init__(worker, contract, render_mode)
        own = max(max(camera.width, camera.height) for camera in contract.cameras)
        self._asked = {
            "size": protocol.size or own,
            "seed": protocol.seed,
            "waiting_gripper": protocol.waiting_gripper,
        }
        self._prepare, self._limit = protocol.prepare, steps
        self._told: dict[str, Any] = {}
        self._steps, self._done = 0, False

    def _begin(self, options: dict[str, Any]) -> dict[str, Any]:
        request = {name: options[name] for name in ("suite", "task", "state")}
        self._told, arrays = self.worker.call("reset", request | self._asked)
        self._steps, self._done = 0, False
        return self._observed(arrays)

    def _advance(self, action: np.ndarray) -> tuple[dict[str, Any], bool, bool]:
        told, arrays = self.worker.call("step", {}, {"action": to_libero(action)})
        self._steps, self._done = self._steps + 1, bool(told["done"])
        return self._observed(arrays), self._done, self._steps >= self._limit

    def _observed(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        cameras, raw = self.contract.cameras, arrays["state"]
        if raw.shape != (SENT,):
            raise ValueError(f"a state of shape {raw.shape}")
        images = {camera.name: self._prepare(arrays[camera.name], camera) for camera in cameras}
        return {"images": images, "state": np.concatenate([raw[:3], axis_angle(raw[3:7]), raw[7:]])}

    def _info(self) -> dict[str, Any]:
        return {
            "instruction": str(self._told["instruction"]),
            "success": self._done,
            "subtasks": {str(self._told["task"]): self._done},
        }
