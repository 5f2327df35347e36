"""States and actions of unlike robots in one model: padded to common sizes, and masked.

A state is followed by zeros. Of an action, values of motion come first, each in its order, and what
is open or closed behind all places of motion. What is padding enters no loss, is zero wherever the
model reads it, and is left out of its answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.contract.embodiment import EmbodimentContract, dimension_kinds
from vla.contract.normalization import BINARY
from vla.policies.config import CheckpointError
from vla.policies.robovlms.config import RoboVLMConfig


@dataclass(frozen=True)
class ActionLayout:
    """Where the dimensions of a robot's action lie in those of the model."""

    places: np.ndarray  # [A], of the model's dimensions
    binary: tuple[bool, ...]  # of the model's dimensions, which are open or closed

    @property
    def used(self) -> np.ndarray:
        """Bool [M]: which of the model's dimensions the robot has."""
        used = np.zeros(len(self.binary), dtype=bool)
        used[self.places] = True
        return used

    def spread(self, actions: np.ndarray) -> np.ndarray:
        """Actions [..., A] as the model has them [..., M], zero where the robot has none."""
        padded = np.zeros((*actions.shape[:-1], len(self.binary)), dtype=actions.dtype)
        padded[..., self.places] = actions
        return padded

    def gather(self, actions: np.ndarray) -> np.ndarray:
        """The robot's own [..., A] of the model's actions [..., M]."""
        return actions[..., self.places]


def action_layout(config: RoboVLMConfig, kinds: Sequence[str]) -> ActionLayout:
    """Of a robot whose actions are of these kinds; its own order where nothing is padded."""
    own = np.array([kind == BINARY for kind in kinds])
    sizes = config.sizes
    if not sizes.padded:
        return ActionLayout(np.arange(len(own)), tuple(own.tolist()))
    places = np.where(own, sizes.motion + np.cumsum(own) - 1, np.cumsum(~own) - 1)
    return ActionLayout(places, (*[False] * sizes.motion, *[True] * sizes.binary))


def state_size(config: RoboVLMConfig, contract: EmbodimentContract) -> int:
    """Values of a state as the model reads it."""
    return config.sizes.state if config.sizes.padded else len(contract.state_names)


def padded_state(config: RoboVLMConfig, state: np.ndarray) -> np.ndarray:
    """States [..., S], followed by zeros up to the model's size."""
    if not config.sizes.padded:
        return state
    room = [(0, 0)] * (state.ndim - 1) + [(0, config.sizes.state - state.shape[-1])]
    return np.pad(state, room)


def require_room(config: RoboVLMConfig, contract: EmbodimentContract) -> None:
    """Raises CheckpointError where a robot has more values than the common sizes."""
    sizes = config.sizes
    if not sizes.padded:
        return
    binary = sum(kind == BINARY for kind in dimension_kinds(contract)["action"])
    for name, most, own in (
        ("state", sizes.state, len(contract.state_names)),
        ("motion", sizes.motion, len(contract.action_names) - binary),
        ("binary", sizes.binary, binary),
    ):
        if own > most:
            raise CheckpointError(
                f"robot '{contract.name}' has {own} values of {name}, the model's sizes have room "
                f"for {most}; set model.sizes.{name} to {own} or more"
            )
