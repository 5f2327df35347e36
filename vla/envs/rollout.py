"""One episode: a policy in an environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.envs.base import Episode


class ActingPolicy(Protocol):
    """What drives an episode, such as a checkpoint: vla.policies.policy.Policy."""

    contract: EmbodimentContract  # what it reads and gives
    said: str | None  # what it said before it acted; None as long as it has said nothing

    @property
    def window(self) -> int:
        """Observations that it reads at once; 1 for those that chunk() is given."""
        return 1

    def reset(self, instruction: str, seed: int | None = None, think: bool = False) -> None:
        """An episode begins. seed: of its noise. think: say first what to do, and act on that."""

    def chunk(self, images: dict[str, np.ndarray], state: np.ndarray, time: float) -> np.ndarray:
        """Actions [H, A], not normalised.

        images: uint8 [H, W, 3] by camera. state [S]. time: of the observation [s].
        """

    def observe(self, images: dict[str, np.ndarray], state: np.ndarray, time: float) -> None:
        """Takes an observation between two chunks, for a window of more than one."""


@dataclass(frozen=True)
class Rollout:
    """How an episode ended."""

    instruction: str
    said: str | None  # by the policy, when it was to think
    success: bool
    seconds: float  # simulated time until success or the end of the episode
    info: dict[str, Any]  # of the last step


def run_episode(
    environment: gymnasium.Env,
    policy: ActingPolicy,
    episode: Episode,
    think: bool = False,
    on_step: Callable[[gymnasium.Env], None] | None = None,
) -> Rollout:
    """Runs a policy until the episode is over. on_step(environment) is called after each chunk."""

    def observe(observation: dict[str, Any], seconds: float) -> None:
        policy.observe(observation["images"], observation["state"], seconds)

    environment.set_wrapper_attr("on_observation", observe if policy.window > 1 else None)
    observation, info = environment.reset(seed=episode.seed, options=episode.options)
    policy.reset(info["instruction"], episode.seed, think)
    over = False
    while not over:
        chunk = policy.chunk(observation["images"], observation["state"], info["seconds"])
        observation, _, terminated, truncated, info = environment.step(chunk)
        over = terminated or truncated
        if on_step is not None:
            on_step(environment)
    return Rollout(
        info["instruction"], policy.said, bool(info["success"]), float(info["seconds"]), info
    )
