"""Gaussian noise on a policy's images, or none to be seen: how much does success depend on them?

The noise of an image depends on the episode's seed, the time within the episode and the camera's
name alone. So all policies see the same noise, and a stronger one is the weaker one scaled up.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np

from vla.envs.rollout import ActingPolicy
from vla.policies.base import Images

STRONGEST = 255.0  # standard deviation in grey levels


class DisturbedPolicy(ActingPolicy):
    """A policy that sees its images with noise, or black; everything else is the policy's own."""

    def __init__(self, policy: ActingPolicy, sigma: float = 0.0, blackout: bool = False):
        """sigma: standard deviation in grey levels, of 0 to 255, of every pixel and colour.

        blackout: all images are black, and without noise.
        """
        self._policy, self._sigma, self._blackout, self._episode = policy, sigma, blackout, 0
        self.contract = policy.contract
        self.said: str | None = None  # what the policy said

    @property
    def window(self) -> int:
        """That of the policy."""
        return self._policy.window

    @property
    def refused(self) -> bool:
        """As the policy says."""
        return self._policy.refused

    def reset(self, instruction: str, seed: int | None = None, think: bool = False) -> None:
        """An episode begins; its noise is that of the seed."""
        self._episode = seed or 0
        self._policy.reset(instruction, seed, think)
        self.said = None

    def chunk(self, images: Images, state: np.ndarray, time: float) -> np.ndarray:
        """The policy's chunk, from disturbed images."""
        chunk = self._policy.chunk(self._disturbed(images, time), state, time)
        self.said = self._policy.said
        return chunk

    def observe(self, images: Images, state: np.ndarray, time: float) -> None:
        """Shows the policy disturbed images."""
        self._policy.observe(self._disturbed(images, time), state, time)

    def is_due(self, time: float) -> bool:
        """As the policy says."""
        return self._policy.is_due(time)

    def _disturbed(self, images: Images, time: float) -> Images:
        if self._blackout:
            return {name: np.zeros_like(image) for name, image in images.items()}
        moment = round(1000 * time)
        return {
            name: with_noise(image, self._sigma, (self._episode, moment, crc32(name.encode())))
            for name, image in images.items()
        }


def with_noise(image: np.ndarray, sigma: float, seed: tuple[int, ...]) -> np.ndarray:
    """A uint8 image of any shape with Gaussian noise, rounded, and cut off at 0 and 255."""
    noise = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image + sigma * noise), 0, 255).astype(np.uint8)
