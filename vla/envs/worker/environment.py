"""Environments of one action per step whose simulator is in another process."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.core import RenderFrame

from vla.contract.embodiment import EmbodimentContract
from vla.core.text import one_line
from vla.envs.base import EnvironmentFailure, SuiteError, observation_space
from vla.envs.worker.process import WorkerProcess


class WorkerEnv(gymnasium.Env):
    """Takes one action per step; `vla.envs.chunked.ChunkedActions` makes chunks of them.

    `info` holds what vla.envs.base names but for "seconds". An action that is not finite ends the
    episode, with the failure "not_finite", and never reaches the simulator. `reset` and `step`
    raise EnvironmentFailure when the process fails, SuiteError when it can't be started at all.
    """

    def __init__(
        self, worker: WorkerProcess, contract: EmbodimentContract, render_mode: str | None = None
    ):
        """render_mode: see Suite.make; the frames are the first camera's."""
        self.metadata = {"render_modes": ["rgb_array_list"], "render_fps": contract.rate}
        self.render_mode = render_mode
        self._frames: list[RenderFrame] = []
        size = len(contract.action_names)
        self.observation_space: gymnasium.spaces.Dict = observation_space(contract)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.worker, self.contract = worker, contract
        self._observation: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins the episode of the options; the seed changes nothing."""
        super().reset(seed=seed)
        with self._answers("reset"):
            self._observation = self._begin(options or {})
            info = self._info()
        self._frames.clear()
        return self._observation, info

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Executes one action [A] of the contract. The reward is 1 for success."""
        if not np.isfinite(action).all():
            info = {**self._info(), "success": False, "failure": "not_finite"}
            return self._observation, 0.0, False, True, info
        with self._answers("step"):
            self._observation, terminated, truncated = self._advance(action)
            info = self._info()
        if self.render_mode is not None:
            self._frames.append(self._first_image())
        return self._observation, float(info["success"]), terminated, truncated, info

    @abstractmethod
    def _begin(self, options: dict[str, Any]) -> dict[str, Any]:
        """Begins an episode. Gives the first observation."""

    @abstractmethod
    def _advance(self, action: np.ndarray) -> tuple[dict[str, Any], bool, bool]:
        """Takes a step with a finite action [A]. Gives observation, terminated and truncated."""

    @abstractmethod
    def _info(self) -> dict[str, Any]:
        """What is so now: at least "instruction" and "success"."""

    def _first_image(self) -> np.ndarray:
        """The first camera's image, uint8 [H, W, 3], of the last step."""
        return next(iter(self._observation["images"].values()))

    @contextlib.contextmanager
    def _answers(self, call: str) -> Iterator[None]:
        """What the process answers within may lack something, or have another shape or type."""
        try:
            yield
        except SuiteError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            self.worker.close()
            raise EnvironmentFailure(
                f"benchmark '{self.worker.command.benchmark}' answered '{call}' with what was not "
                f"expected: {type(error).__name__}: {one_line(error)}"
            ) from error

    def render(self) -> list[RenderFrame]:
        """The frames since the last call, one for each step."""
        frames, self._frames = self._frames, []
        return frames

    def close(self) -> None:
        """Ends the process."""
        self.worker.close()


def spoken_contract(own: EmbodimentContract, theirs: EmbodimentContract) -> EmbodimentContract:
    """A policy's contract, whose images may be fewer or of other sizes, and chunks of other length.

    own: of the benchmark. Raises ContractError where rate, state or actions differ, or a camera is
    not one of the benchmark's.
    """
    for camera in theirs.cameras:
        own.camera(camera.name)
    compared = ("rate", "state_names", "action_names", "representation")
    dimensions = ("state_dimensions", "action_dimensions")
    same = replace(own, **{name: getattr(theirs, name) for name in (*compared, *dimensions)})
    own.require_same(same, "the benchmark's", "the policy's")
    return theirs
