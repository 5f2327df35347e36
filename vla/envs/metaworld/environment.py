"""MetaWorld as an environment, and its axes as ours."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.contract.image_fit import prepare_image
from vla.envs.worker.environment import WorkerEnv
from vla.envs.worker.process import WorkerProcess

# What an action of MetaWorld is in units of; it is at most one of them along each axis.
LONGEST_MOVE = 0.01  # [m]
# Numbers of MetaWorld's observation that policies may see.
OBSERVED = 8
# Pixels drawn for each of an image, in each direction.
OVERSAMPLING = 2


def turned(vector: np.ndarray) -> np.ndarray:
    """A vector [3] of MetaWorld's axes, x right and y forward, as x forward, y left, z up."""
    return np.array([vector[1], -vector[0], vector[2]])


def to_metaworld(action: np.ndarray) -> np.ndarray:
    """MetaWorld's action [4], within -1 to 1, from a shift [m] and an effort of the contract."""
    forward, left, up = action[:3] / LONGEST_MOVE
    return np.clip([-left, forward, up, action[3]], -1.0, 1.0)


def from_metaworld(action: np.ndarray) -> np.ndarray:
    """The inverse of to_metaworld, of an action [4] within -1 to 1."""
    return np.append(turned(action[:3]) * LONGEST_MOVE, action[3])


class MetaWorldEnv(WorkerEnv):
    """One of MetaWorld's tasks; `reset` takes the option "seed", that of the scene.

    An observation has the state alone: images take longer than the physics, so `seen` adds them
    where somebody looks.
    """

    def __init__(
        self,
        worker: WorkerProcess,
        contract: EmbodimentContract,
        task: str,
        instruction: str,
        steps: int,
        render_mode: str | None = None,
    ):
        """steps: of an episode. render_mode: see WorkerEnv."""
        super().__init__(worker, contract, render_mode)
        state = self.observation_space["state"]
        self.observation_space = gymnasium.spaces.Dict({"state": state})
        self.task, self._instruction, self._limit = task, instruction, steps
        self._steps, self._success = 0, False

    def _begin(self, options: dict[str, Any]) -> dict[str, Any]:
        # MetaWorld's names end with the version of its tasks.
        request = {"task": f"{self.task}-v3", "seed": options["seed"]}
        told, arrays = self.worker.call("reset", request)
        self._steps = 0
        return self._observed(told, arrays)

    def _advance(self, action: np.ndarray) -> tuple[dict[str, Any], bool, bool]:
        told, arrays = self.worker.call("step", {}, {"action": to_metaworld(action)})
        self._steps += 1
        return self._observed(told, arrays), False, self._steps >= self._limit

    def _observed(self, told: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        self._success = bool(told["success"])
        raw = arrays["observation"]
        if raw.shape != (OBSERVED,):
            raise ValueError(f"an observation of shape {raw.shape}")
        state = np.concatenate([turned(raw[:3]), raw[3:4], turned(raw[4:7]), raw[7:]])
        return {"state": state[: len(self.contract.state_names)]}

    def _info(self) -> dict[str, Any]:
        return {"instruction": self._instruction, "success": self._success}

    def seen(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The observation with the contract's images, of the present scene."""
        images = {}
        for camera in self.contract.cameras:
            size = {"size": OVERSAMPLING * max(camera.width, camera.height)}
            with self._answers("image"):
                drawn = self.worker.call("image", size)[1]["image"]
                images[camera.name] = prepare_image(drawn, camera)
        return {"images": images, **observation}

    def _first_image(self) -> np.ndarray:
        return next(iter(self.seen(self._observation)["images"].values()))

    def expert_action(self) -> np.ndarray:
        """What MetaWorld's scripted policy of the task would do now [4], as the contract has it."""
        with self._answers("expert"):
            return from_metaworld(self.worker.call("expert")[1]["action"])
