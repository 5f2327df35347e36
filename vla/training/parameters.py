"""A model's parameters in training: how they are grouped for the optimiser and for sharding."""

from __future__ import annotations

from torch import nn


def layer_classes(model: nn.Module) -> list[str]:
    """Class names of the model's transformer layers, which sharded training gathers one at a time.

    They are what lists of modules hold: norms, attention and MLP, not a single operation.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers = [layer for entries in lists for layer in entries if len(list(layer.children())) > 2]
    return sorted({type(layer).__name__ for layer in layers})


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Trained parameters for the optimiser, weight decay on matrices only."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def draw_anew(module: nn.Module) -> None:
    """Xavier's start for all matrices and convolutions of a module, zero for their biases.

    As RoboVLMs' code compares with a backbone that has no vision-language pretraining
    (supplementary table 2).
    """
    for part in module.modules():
        weight, bias = getattr(part, "weight", None), getattr(part, "bias", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1:
            nn.init.xavier_uniform_(weight)
            if isinstance(bias, nn.Parameter):
                nn.init.zeros_(bias)
