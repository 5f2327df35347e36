"""A chain of tasks as one episode at the table top."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from vla.envs.base import SuiteError
from vla.envs.chains.chains import Chain
from vla.envs.tabletop.environment import TableTopEnv
from vla.envs.tabletop.tasks import Task, phrase

# Time steps in which the arm comes to rest between two tasks.
REST_STEPS = 5


class ChainEnv(TableTopEnv):
    """The next task begins where the one before was done; the first failure ends the episode.

    Before that the arm rests for half a second, which counts for no task. `reset` takes the options
    "chain" and "split". `info` also holds "length", the tasks done so
    far, and "subtasks": whether each was done, by family, without those whose turn never came.
    `time_limit` is that of one task.
    """

    _chain: Chain | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Lays out the scene of a chain. Raises SuiteError where it holds other things."""
        options = options or {}
        chain: Chain = options["chain"]
        self._chain, self._done = chain, 0
        scene = {"family": chain.layout, "split": options.get("split", "seen")}
        observation, _ = super().reset(seed=chain.seed, options=scene)
        if tuple(self.simulator.objects()) != chain.things:
            raise SuiteError(
                f"the scene of chain {chain.seed} holds {', '.join(self.simulator.objects())}, not "
                f"{', '.join(chain.things)}: draw the chains again for this version"
            )
        self.begin(self._worded(chain.tasks[0]))
        return observation, self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """As at the table top; the reward is 1 for each task that was done."""
        observation, reward, done, truncated, info = super().step(action)
        if done and self._chain is not None:
            done = not self.begin_next()
            if not done:
                observation = self._observation()
            info = self._info()
        return observation, reward, done, truncated, info

    def begin_next(self) -> bool:
        """After a task: the arm comes to rest, and the next one begins; False after the last."""
        assert self._chain is not None
        self._done += 1
        if self._done == len(self._chain.tasks):
            return False
        self.controller.hold()
        for _ in range(REST_STEPS):
            self.advance()
        self.begin(self._worded(self._chain.tasks[self._done]))
        return True

    def _worded(self, task: Task) -> Task:
        """In the words of the chain's seed, as scenes of single tasks have them."""
        assert self._chain is not None
        generator = np.random.default_rng([self._chain.seed, self._done])
        return replace(task, instruction=phrase(task, generator))

    def _info(self) -> dict[str, Any]:
        info = super()._info()
        if self._chain is not None:
            tasks, done = self._chain.tasks, self._done
            outcomes = {task.family: True for task in tasks[:done]}
            outcomes |= {task.family: False for task in tasks[done : done + 1]}
            info |= {"success": done == len(tasks), "length": done, "subtasks": outcomes}
        return info
