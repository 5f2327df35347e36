"""One episode: a policy in an environment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.envs.base import EnvironmentFailure, Episode


class ActingPolicy(Protocol):
    """What drives an episode, such as a checkpoint: vla.policies.policy.Policy."""

    contract: EmbodimentContract  # what it reads and gives
    said: str | None  # what it said before it acted; None as long as it has said nothing

    @property
    def window(self) -> int:
        """Observations that it reads at once; 1 for those that chunk() is given."""
        return 1

    @property
    def refused(self) -> bool:
        """Whether it said that it can't do what was asked; its chunks are then not followed."""
        return False

    def reset(self, instruction: str, seed: int | None = None, think: bool = False) -> None:
        """An episode begins. seed: of its noise. think: say first what to do, and act on that."""

    def chunk(self, images: dict[str, np.ndarray], state: np.ndarray, time: float) -> np.ndarray:
        """Actions [H, A], not normalised.

        images: uint8 [H, W, 3] by camera. state [S]. time: of the observation [s].
        """

    def observe(self, images: dict[str, np.ndarray], state: np.ndarray, time: float) -> None:
        """Takes an observation between two chunks, for a window of more than one."""

    def is_due(self, time: float) -> bool:
        """Whether observe() would read an observation of that time [s]."""
        return True


@dataclass(frozen=True)
class Rollout:
    """How an episode ended."""

    instruction: str
    said: str | None  # by the policy, when it was to think
    success: bool
    seconds: float  # simulated time until success or the end of the episode
    info: dict[str, Any]  # of the last step
    failure: str  # what went wrong, see vla.envs.base; "" with success
    digest: str  # of the first observation, see observation_digest


def observation_digest(observation: dict[str, Any]) -> str:
    """16 hexadecimal digits of a SHA-256 over what was seen: equal only for equal beginnings."""
    digest = hashlib.sha256()
    for name, image in sorted(observation["images"].items()):
        digest.update(f"{name} {image.shape} {image.dtype}".encode())
        digest.update(image.tobytes())
    digest.update(observation["state"].tobytes())
    return digest.hexdigest()[:16]


def run_episode(
    environment: gymnasium.Env,
    policy: ActingPolicy,
    episode: Episode,
    think: bool = False,
    on_step: Callable[[gymnasium.Env], None] | None = None,
) -> Rollout:
    """Runs a policy until the episode is over. on_step(environment) is called after each chunk.

    Where the environment goes on to another instruction, the policy is reset and starts over. An
    instruction that the policy refuses ends the episode where it is, with the failure "refused".
    """

    def observe(observation: dict[str, Any], seconds: float) -> None:
        policy.observe(observation["images"], observation["state"], seconds)

    has_window = policy.window > 1
    environment.set_wrapper_attr("on_observation", observe if has_window else None)
    environment.set_wrapper_attr("is_due", policy.is_due if has_window else None)
    observation, info = environment.reset(seed=episode.seed, options=episode.options)
    digest = observation_digest(observation)
    instruction, over, truncated = "", False, False
    while not over:
        if info["instruction"] != instruction:
            instruction = info["instruction"]
            policy.reset(instruction, episode.seed, think)
        chunk = policy.chunk(observation["images"], observation["state"], info["seconds"])
        if policy.refused:
            break
        observation, _, terminated, truncated, info = environment.step(chunk)
        over = terminated or truncated
        if on_step is not None:
            on_step(environment)
    success = bool(info["success"])
    ended = "refused" if policy.refused else "time_limit" if truncated else "ended"
    failure = info.get("failure") or ended
    return Rollout(
        instruction,
        policy.said,
        success,
        float(info["seconds"]),
        info,
        "" if success else str(failure),
        digest,
    )


def run_robustly(
    environment: gymnasium.Env,
    policy: ActingPolicy,
    episode: Episode,
    think: bool = False,
    on_step: Callable[[gymnasium.Env], None] | None = None,
) -> Rollout:
    """As run_episode, and from the beginning once more when the environment itself fails.

    Raises EnvironmentFailure when it fails again.
    """
    try:
        return run_episode(environment, policy, episode, think, on_step)
    except EnvironmentFailure:
        return run_episode(environment, policy, episode, think, on_step)
