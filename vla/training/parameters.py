"""A model's parameters in training: how they are grouped for the optimiser and for sharding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vla.policies.config import CheckpointError


def layer_classes(model: nn.Module) -> list[str]:
    """Class names of the model's transformer layers, which sharded training gathers one at a time.

    They are what lists of modules hold: norms, attention and MLP, not a single operation.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers = [layer for entries in lists for layer in entries if len(list(layer.children())) > 2]
    return sorted({type(layer).__name__ for layer in layers})


def compile_layers(accelerator: Accelerator, model: nn.Module) -> None:
    """Has Inductor compile each transformer layer, in place: weights keep their names.

    Sequences of all lengths share what was compiled. Raises CheckpointError for a sharded model.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        raise CheckpointError(
            "compile_layers: layers that are gathered from shards run as they are; leave it out"
        )
    names = layer_classes(model)
    for module in model.modules():
        if type(module).__name__ in names:
            module.compile(dynamic=True)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Trained parameters for the optimiser, weight decay on matrices only."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def share_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Fills the shards of all processes from the first one's weights, a tensor at a time.

    weights: whole, by name; what other processes have there is not read. Models that are not
    sharded get theirs where they are wrapped for several processes.
    """
    for name, shard in model.named_parameters():
        if isinstance(shard, DTensor):
            mesh = shard.device_mesh
            whole = weights[name].to(mesh.device_type)
            shard.copy_(distribute_tensor(whole, mesh, shard.placements))


def start_moments(optimizer: AcceleratedOptimizer) -> None:
    """Gives AdamW its state of all parameters, as it begins at the first gradient of each.

    Sharded training restores the state of a parameter only where one was saved; a vision encoder
    that has not seen yet would have none.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # The fused optimiser counts steps where it computes.
            place = parameter.device if group["fused"] else None
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0, device=place),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
