"""A few-shot adapter: low-rank changes of a whole policy's linear layers, trained beside them.

y = W x + (alpha / rank) * B A x (LoRA, arXiv 2106.09685). Unlike the experts of the mixture it has
no gate: it is merged into W where it acts, costs nothing there, and can be taken out again. Vision
is left as it is: twenty demonstrations can't teach to see.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from vla.policies.config import AdapterConfig, CheckpointError
from vla.policies.instructvla.vision_language_action import InstructVLA
from vla.policies.lora import LoraLinear


class AdapterLinear(nn.Module):
    """A linear layer, kept as it is, with one low-rank change beside it.

    lora_a [rank, in] starts at random, lora_b [rank, out] at zero, so that it changes nothing yet.
    """

    def __init__(self, base: nn.Linear, config: AdapterConfig):
        super().__init__()
        self.base, self.scale = base, config.alpha / config.rank
        self.dropout = nn.Dropout(config.dropout)
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_a = nn.Parameter(torch.empty(config.rank, base.in_features, **like))
        self.lora_b = nn.Parameter(torch.zeros(config.rank, base.out_features, **like))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [..., out] of x [..., in]."""
        return self.base(x) + F.linear(self.dropout(x), self.lora_a) @ self.lora_b * self.scale


def insert_adapter(model: InstructVLA, config: AdapterConfig) -> None:
    """Puts the adapter beside the linear layers of the language model and of the action expert.

    The language model's are those that its LoRA experts sit at; the action expert's are all but
    those of its vision. Raises CheckpointError for a rank that is not positive.
    """
    if config.rank < 1:
        raise CheckpointError(f"adapter.rank is {config.rank}; give a positive number")
    if config.state_limit < 1.0:
        raise CheckpointError(f"adapter.state_limit is {config.state_limit}; give 1 or more")
    backbone = model.reasoning.backbone
    wanted = {backbone.linear_names[target] for target in model.config.lora.targets}
    for _, parent in [*backbone.language_model.named_modules()]:
        for child_name, child in [*parent.named_children()]:
            if isinstance(parent, LoraLinear):
                if child_name == "base":
                    parent.base = AdapterLinear(child, config)
            elif child_name in wanted and isinstance(child, nn.Linear):
                setattr(parent, child_name, AdapterLinear(child, config))
    for name, parent in [*model.expert.named_modules()]:
        if name.split(".")[0] == "vision":
            continue
        for child_name, child in [*parent.named_children()]:
            if isinstance(child, nn.Linear):
                parent.register_module(child_name, AdapterLinear(child, config))


def adapter_layers(model: nn.Module) -> dict[str, AdapterLinear]:
    """The layers that carry the adapter, by their path in the model."""
    return {n: child for n, child in model.named_modules() if isinstance(child, AdapterLinear)}


def is_adapter_weight(name: str, layers: dict[str, AdapterLinear]) -> bool:
    """Whether the parameter of that name is the adapter's own."""
    path, _, last = name.rpartition(".")
    return last in ("lora_a", "lora_b") and path in layers
