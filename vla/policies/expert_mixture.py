"""The gate of the LoRA experts: their shares, token by token.

A small MLP, the scale head, turns a hidden state into a share for each expert. The published code
uses the final hidden state of a pass without adapters, so that every forward costs two. The "layer"
gate uses the input of each layer, and needs no second pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.lora import Blend

GATES = ("sum", "two_pass", "layer")


class ScaleHead(nn.Module):
    """Shares [B, T, E], summing to one, of hidden states [B, T, D].

    normalize: bring the hidden states of all layers to the same size first.
    """

    def __init__(self, width: int, config: LoraConfig, normalize: bool):
        super().__init__()
        self.normalize = normalize
        widths = [width] + [config.head_width] * (config.head_depth - 1)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.head_dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], len(config.experts)))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Shares of the experts."""
        hidden = hidden.to(next(self.layers.parameters()).dtype)
        if self.normalize:
            hidden = F.rms_norm(hidden, hidden.shape[-1:])
        return self.layers(hidden).softmax(dim=-1)

    def resize(self, kept: list[int], added: int) -> None:
        """Keeps the shares of these experts, in that order, and appends new ones."""
        weight, bias = self.layers[-1].parameters()
        wider = nn.Linear(weight.shape[1], len(kept) + added).to(weight)
        with torch.no_grad():
            for new, old in ((wider.weight, weight), (wider.bias, bias)):
                new[: len(kept)] = old[kept]
                new[len(kept) :] = old[kept].mean(dim=0)
        self.layers[-1] = wider


def make_scale_head(width: int, config: LoraConfig) -> ScaleHead | None:
    """The scale head of a configuration; None where the experts are just summed.

    Raises CheckpointError for an unknown gate.
    """
    if config.gate not in GATES:
        raise CheckpointError(f"unknown lora.gate '{config.gate}'; known: {', '.join(GATES)}")
    if config.gate == "sum":
        return None
    if len(config.experts) < 2:
        raise CheckpointError(f"lora.gate '{config.gate}' needs two experts or more; use 'sum'")
    return ScaleHead(width, config, normalize=config.gate == "layer")


def gate_each_layer(layers: Iterable[nn.Module], head: ScaleHead, blend: Blend) -> None:
    """Has each layer's input set the blend for that layer, from now on."""
    # Not a closure: a copy of the model must use its own head and set its own blend.
    gate = partial(_set_blend, head, blend)
    for layer in layers:
        layer.register_forward_pre_hook(gate, with_kwargs=True)


def _set_blend(
    head: ScaleHead, blend: Blend, layer: nn.Module, arguments: tuple, keywords: dict
) -> None:
    blend.weights = head(arguments[0] if arguments else keywords["hidden_states"])
