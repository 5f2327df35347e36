"""A policy of somebody else's: one linear layer from proprioception to a chunk, in one part.

The environment variable VLA_PLUGINS names this module; nothing else of the package knows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vla.contract.embodiment import EmbodimentContract
from vla.policies.base import Observation, PolicyFeatures, PolicyType
from vla.policies.checkpoint import Checkpoint, build_part, load_weights
from vla.policies.parts import ReasoningPart
from vla.policies.registry import register


@dataclass
class LinearConfig:
    TYPE: ClassVar[str] = "linear"

    use_bias: bool = True


@dataclass
class LinearBatch:
    state: torch.Tensor  # [B, S], normalised
    actions: torch.Tensor  # [B, H, A], normalised

    def to(self, device) -> LinearBatch:
        return LinearBatch(self.state.to(device), self.actions.to(device))


class LinearCollator:
    def robot_batch(self, samples, stats, generator) -> LinearBatch:
        pairs = list(zip(stats, samples, strict=True))
        state = np.stack([own["state"].normalize(sample.state) for own, sample in pairs])
        actions = np.stack([own["action"].normalize(sample.actions) for own, sample in pairs])
        return LinearBatch(torch.from_numpy(state).float(), torch.from_numpy(actions).float())


class LinearModel(nn.Module):
    def __init__(self, config: LinearConfig, contract: EmbodimentContract):
        super().__init__()
        self.shape = (contract.horizon, len(contract.action_names))
        size = self.shape[0] * self.shape[1]
        self.layer = nn.Linear(len(contract.state_names), size, config.use_bias)

    def actions(self, state: torch.Tensor) -> torch.Tensor:
        return self.layer(state).unflatten(-1, self.shape)  # [B, S] to [B, H, A]

    def forward(self, batch: LinearBatch, flow_samples: int = 1) -> dict[str, torch.Tensor]:
        return {"imitation": functional.mse_loss(self.actions(batch.state), batch.actions)}


class LinearPart(ReasoningPart):
    def __init__(self, checkpoint: Checkpoint, device: str):
        model = build_part(checkpoint, lambda: LinearModel(checkpoint.config, checkpoint.contract))
        load_weights(checkpoint, model, device=device)
        super().__init__(checkpoint, model.eval())
        self._stats = checkpoint.stats

    @torch.no_grad()
    def act(self, observation: Observation, instruction: str, response=None, seed=None):
        state = self._stats["state"].normalize(observation.state[None]).astype(np.float32)
        actions = self.module.actions(torch.from_numpy(state))[0].numpy()
        return self._stats["action"].denormalize(actions).astype(np.float32)


class LinearType(PolicyType):
    config = LinearConfig

    def features(self, config: LinearConfig, contract: EmbodimentContract) -> PolicyFeatures:
        rate = 1.0 / contract.time_step
        # No images, no words, no text, and chunks instead of latent actions.
        return PolicyFeatures((), True, False, False, None, contract.horizon, rate)

    def build(self, config: LinearConfig, contract: EmbodimentContract) -> LinearModel:
        return LinearModel(config, contract)

    def presets(self) -> dict[str, LinearConfig]:
        return {"linear": LinearConfig()}

    def collator(self, config, tokenizer, options) -> LinearCollator:
        return LinearCollator()

    def open_reasoning(self, checkpoint: Checkpoint, device: str, dtype) -> LinearPart:
        return LinearPart(checkpoint, device)


register(LinearType())
