"""SimplerEnv as an environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vla.contract.embodiment import EmbodimentContract, state_vector
from vla.contract.image_fit import prepare_image
from vla.core.rotations import matrix_to_quaternion, quaternion_to_matrix
from vla.envs.simpler.gripper import SimplerGripper
from vla.envs.worker.environment import WorkerEnv
from vla.envs.worker.process import WorkerProcess

# BridgeData measures the WidowX's tool from where it points down.
WIDOWX_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
GRASPED = ("is_src_obj_grasped", "grasped")  # SimplerEnv's names for it


class SimplerEnv(WorkerEnv):
    """One of SimplerEnv's tasks; `reset` takes the option "episode", see vla.envs.simpler.episodes.

    An episode has all of its steps, and its success is that after the last one, as in SimplerEnv's
    own evaluation. Where SimplerEnv goes on to the second half of a task, the instruction changes.
    `info` also holds "grasped", whether the thing was ever held: None where that is not asked. Its
    "subtasks" are the names under which the episode is counted.
    """

    def __init__(
        self,
        worker: WorkerProcess,
        contract: EmbodimentContract,
        gripper: SimplerGripper,
        render_mode: str | None = None,
    ):
        """render_mode: see WorkerEnv."""
        super().__init__(worker, contract, render_mode)
        self._gripper = gripper
        self._told: dict[str, Any] = {}
        self._labels: list[str] = []
        self._steps, self._limit = 0, 0

    def _begin(self, options: dict[str, Any]) -> dict[str, Any]:
        episode = options["episode"]
        request = {"episode": episode, "seed": options["seed"]}
        self._told, arrays = self.worker.call("reset", request)
        self._gripper.reset()
        self._labels = episode["labels"]
        self._steps, self._limit = 0, episode["steps"]
        return self._observed(arrays)

    def _advance(self, action: np.ndarray) -> tuple[dict[str, Any], bool, bool]:
        turn = action[3:6]
        if self.contract.representation == "delta_euler":
            turn = Rotation.from_euler("xyz", turn).as_rotvec()
        taken = np.concatenate([action[:3], turn, [self._gripper.command(float(action[6]))]])
        self._told, arrays = self.worker.call("step", {}, {"action": taken})
        self._steps += 1
        if self._told["truncated"]:
            self._steps = self._limit
        return self._observed(arrays), False, self._steps >= self._limit

    def _info(self) -> dict[str, Any]:
        told, over = self._told, self._steps >= self._limit
        stats = told.get("stats", {})
        grasped = next((bool(stats[name]) for name in GRASPED if name in stats), None)
        success = over and bool(told["done"])
        info = {
            "instruction": str(told["instruction"]),
            "success": success,
            "grasped": grasped,
            "subtasks": dict.fromkeys(self._labels, success),
        }
        if grasped is not None and not success:
            info["failure"] = "not_placed" if grasped else "missed_grasp"
        return info

    def _observed(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        contract, frame = self.contract, arrays["image"]
        images = {camera.name: prepare_image(frame, camera) for camera in contract.cameras}
        position, quaternion = arrays["pose"][:3], np.roll(arrays["pose"][3:], -1)
        if "roll" in contract.state_names:
            matrix = quaternion_to_matrix(quaternion) @ WIDOWX_DOWN.T
            quaternion = matrix_to_quaternion(matrix)
        open_width = contract.gripper_open_width
        width = (1.0 - float(arrays["closedness"][0])) * open_width
        state = state_vector(position, quaternion, width, contract.state_names, open_width)
        return {"images": images, "state": state}
