"""Few-shot adaptation: an adapter beside a trained policy, which is frozen (`vla finetune`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vla.policies.base import PolicyType
from vla.policies.lora import adapter_layers, adapter_weights
from vla.policies.roles import ACTION_EXPERT, BACKBONE, EXPERTS, HEAD, QUERIES, RESAMPLER
from vla.training.objectives.action import Action


class Adapt(Action):
    """Trains a low-rank change of each linear layer, vision left out, on new data and replay."""

    name = "adapt"
    command = "vla finetune"
    exports_checkpoint = False
    needs = ()  # but what PolicyType.insert_adapter needs
    given = (BACKBONE, EXPERTS, QUERIES, ACTION_EXPERT, HEAD, RESAMPLER)

    def check(self) -> None:
        """Needs the checkpoint to adapt; the data comes from the command."""
        self.require(self.config.initialize_from, "needs initialize_from, the checkpoint to adapt")

    def model_config(self, base: Any) -> Any:
        """The start's own, with its LoRA experts."""
        return base

    def prepare(self, kind: PolicyType[Any, Any], model: nn.Module) -> None:
        """Inserts the adapter, which changes nothing yet."""
        kind.insert_adapter(model, self.config.adapter)

    def trained(self, kind: PolicyType[Any, Any], model: nn.Module) -> set[str]:
        """The adapter's matrices."""
        return adapter_weights(model)

    def set_mode(self, kind: PolicyType[Any, Any], model: nn.Module) -> None:
        """Dropout in the adapter alone."""
        model.eval()
        for layer in adapter_layers(model).values():
            layer.dropout.train()

    def state_limit(self) -> float:
        """As the loaded adapter lets states through, see AdapterConfig."""
        return self.config.adapter.state_limit

    def exported(
        self,
        kind: PolicyType[Any, Any],
        weights: dict[str, torch.Tensor],
        trained: list[str],
    ) -> dict[str, torch.Tensor]:
        """The adapter's matrices, not the base's."""
        return {name: weights[name] for name in trained}


OBJECTIVE = Adapt
