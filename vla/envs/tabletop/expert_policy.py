"""The scripted expert in a policy's place."""

from __future__ import annotations

import numpy as np

from vla.envs.rollout import ActingPolicy
from vla.envs.tabletop.environment import TableTopEnv
from vla.envs.tabletop.expert import plan_chunk


class ExpertPolicy(ActingPolicy):
    """Drives its environment by the truth, whatever the observations and the instruction say."""

    said = None

    def __init__(self, environment: TableTopEnv):
        self.environment, self.contract = environment, environment.contract

    def reset(self, instruction: str, seed: int | None = None, think: bool = False) -> None:
        """Does nothing: the expert keeps nothing between its chunks."""

    def chunk(self, images: dict[str, np.ndarray], state: np.ndarray, time: float) -> np.ndarray:
        """The expert's actions [H, A] from the environment's state."""
        return plan_chunk(self.environment.simulator, self.environment.task, self.contract.horizon)
