"""Environments that take one action per step, in the shape that evaluation runs: see vla.envs.base.

Robot benchmarks that are written for gymnasium, such as MetaWorld or gymnasium-robotics, become
environments of a suite by this wrapper alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import ArrayLike

from vla.contract.embodiment import EmbodimentContract
from vla.envs.base import action_space, observation_space
from vla.envs.execution import ChunkEnsemble, Execution


def reported_success(observation: Any, reward: float, info: dict[str, Any]) -> bool:
    """Success as MetaWorld and gymnasium-robotics tell it: by an entry of `info`."""
    return bool(info.get("success", info.get("is_success", False)))


class ChunkedActions(gymnasium.Wrapper):
    """Executes the first steps of each chunk, until the episode is over or the task is done."""

    # See vla.envs.base.
    on_observation: Callable[[dict[str, Any], float], None] | None = None
    is_due: Callable[[float], bool] | None = None
    _execution: Execution | None = None
    _ensemble: ChunkEnsemble | None = None

    def __init__(
        self,
        env: gymnasium.Env,
        contract: EmbodimentContract,
        instruction: str,
        observe: Callable[[Any], dict[str, Any]],
        succeeded: Callable[[Any, float, dict[str, Any]], bool] = reported_success,
        to_action: Callable[[np.ndarray], Any] | None = None,
        steps_per_chunk: int = 1,
        units: ArrayLike | None = None,
    ):
        """Wraps an environment, whose `step` takes one time step of the contract.

        instruction: the task in words, unless `info["instruction"]` of the environment tells it.
        observe(observation): the contract's images and state, see vla.envs.base. succeeded(
        observation, reward, info): whether the task is done. Both take what the environment gave.
        to_action(action [A]): what the environment takes; by default the same in its own dtype.
        steps_per_chunk: actions executed of each chunk. units [A]: see vla.envs.execution.
        """
        super().__init__(env)
        self.observation_space, self.action_space = (
            observation_space(contract),
            action_space(contract),
        )
        self._contract, self._instruction, self._units = contract, instruction, units
        self._observe, self._succeeded = observe, succeeded
        self._to_action = to_action or (lambda action: action.astype(env.action_space.dtype))
        self._usual_steps = self._steps_per_chunk = steps_per_chunk
        self._steps, self._present = 0, instruction

    @property
    def execution(self) -> Execution | None:
        """How chunks are followed; None: their first steps_per_chunk.

        Raises SuiteError when set to what their length does not allow.
        """
        return self._execution

    @execution.setter
    def execution(self, execution: Execution | None) -> None:
        self._execution, self._ensemble = execution, None
        self._steps_per_chunk = self._usual_steps
        if execution is not None:
            self._steps_per_chunk = execution.steps_of(self._contract.horizon)
            if execution.weights:
                self._ensemble = ChunkEnsemble(execution, self._contract, self._units)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode. seed and options are the wrapped environment's."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._steps = 0
        self._present = info.get("instruction", self._instruction)
        if self._ensemble is not None:
            self._ensemble.reset()
        return self._observe(observation), self._info(info, False)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Executes the first steps of a chunk [H, A]; the rewards add up."""
        if self._ensemble is not None:
            action = self._ensemble.action(action)[None]
        total, last = 0.0, min(self._steps_per_chunk, len(action)) - 1
        for number, single in enumerate(action):
            observation, reward, terminated, truncated, info = self.env.step(
                self._to_action(single)
            )
            self._steps += 1
            total += float(reward)
            success = self._succeeded(observation, float(reward), info)
            terminated = terminated or success
            # What is left of the chunk was for the instruction before.
            if self._is_new(info) or terminated or truncated or number == last:
                break
            if self.on_observation is not None and (
                self.is_due is None or self.is_due(self._seconds)
            ):
                self.on_observation(self._observe(observation), self._seconds)
        return self._observe(observation), total, terminated, truncated, self._info(info, success)

    def _is_new(self, info: dict[str, Any]) -> bool:
        """Whether the instruction is another one now; chunks for the one before are forgotten."""
        before, self._present = self._present, info.get("instruction", self._instruction)
        if self._present == before:
            return False
        if self._ensemble is not None:
            self._ensemble.reset()
        return True

    def _info(self, info: dict[str, Any], success: bool) -> dict[str, Any]:
        told = {"seconds": self._seconds, "success": success}
        return {"instruction": self._instruction, **info, **told}

    @property
    def _seconds(self) -> float:
        return self._steps * self._contract.time_step
