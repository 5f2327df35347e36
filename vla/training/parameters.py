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
