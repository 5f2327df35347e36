"""A policy of somebody else's: one linear layer from proprioception to a chunk, in one part.

The environment variable VLA_PLUGINS names this module; nothing else of the package knows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from vla.contract.embodiment import EmbodimentContract, dimension_kinds
from vla.contract.normalization import measure
from vla.policies.base import Observation, PolicyFeatures, PolicyType
from vla.policies.checkpoint import Checkpoint, build_part, load_weights, save_checkpoint
from vla.policies.parts import ReasoningPart
from vla.policies.registry import register
from vla.policies.robots import Robot


@dataclass
class LinearConfig:
    TYPE: ClassVar[str] = "linear"

    use_bias: bool = True


class LinearModel(nn.Module):
    def __init__(self, config: LinearConfig, contract: EmbodimentContract):
        super().__init__()
        self.shape = (contract.horizon, len(contract.action_names))
        size = self.shape[0] * self.shape[1]
        self.layer = nn.Linear(len(contract.state_names), size, config.use_bias)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.layer(state).unflatten(-1, self.shape)  # [B, S] to [B, H, A]


class LinearPart(ReasoningPart):
    def __init__(self, checkpoint: Checkpoint, device: str):
        model = build_part(checkpoint, lambda: LinearModel(checkpoint.config, checkpoint.contract))
        load_weights(checkpoint, model, device=device)
        super().__init__(checkpoint, model.eval())
        self._stats = checkpoint.stats

    @torch.no_grad()
    def act(self, observation: Observation, instruction: str, response=None, seed=None):
        state = self._stats["state"].normalize(observation.state[None]).astype(np.float32)
        actions = self.module(torch.from_numpy(state))[0].numpy()
        return self._stats["action"].denormalize(actions).astype(np.float32)


class LinearType(PolicyType):
    config = LinearConfig

    def features(self, config: LinearConfig, contract: EmbodimentContract) -> PolicyFeatures:
        return PolicyFeatures(
            cameras=(),
            uses_state=True,
            reads_words=False,
            answers=False,
            latent_shape=None,
            horizon=contract.horizon,
            rate=1.0 / contract.time_step,
        )

    def build(self, config: LinearConfig, contract: EmbodimentContract) -> LinearModel:
        return LinearModel(config, contract)

    def open_reasoning(self, checkpoint: Checkpoint, device: str) -> LinearPart:
        return LinearPart(checkpoint, device)


def save_rising_checkpoint(folder: Path, contract: EmbodimentContract, rise: float) -> Path:
    """A policy that moves the tool up by `rise` [m] in each step, whatever it sees."""
    kinds, half = dimension_kinds(contract), np.linspace(-0.02, 0.02, 101)[:, None]
    stats = {
        "state": measure(np.repeat(100 * half, 10, 1), contract.state_names, kinds["state"]),
        "action": measure(np.repeat(half, 7, 1), contract.action_names, kinds["action"]),
    }
    model = LinearModel(LinearConfig(), contract)
    step = np.zeros((contract.horizon, len(contract.action_names)))
    step[:, 2], step[:, 6] = rise, 1.0
    with torch.no_grad():
        model.layer.weight.zero_()
        model.layer.bias.copy_(torch.from_numpy(stats["action"].normalize(step).ravel()))
    robots = [Robot(contract, stats)]
    save_checkpoint(folder, LinearConfig(), model.state_dict(), robots, None, torch.float32)
    return folder


register(LinearType())
