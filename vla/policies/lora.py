"""Low-rank adapters, several experts to one linear layer, blended by weights per token.

y = W x + (alpha / rank) * sum over experts i of w_i(token) * B_i A_i x (LoRA, arXiv 2106.09685;
the mixture: InstructVLA, section 3.2, after X-LoRA, arXiv 2402.07148). All experts of a layer run
as one pair of products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from vla.policies.config import AdapterConfig, CheckpointError, LoraConfig


@dataclass
class Blend:
    """What all adapted layers of a model share in one pass."""

    # [B, T, E], or [E] for all tokens alike; None counts every expert once.
    weights: torch.Tensor | None = None
    enabled: bool = True  # False leaves the experts out

    @contextmanager
    def use(self, weights: torch.Tensor | None = None, enabled: bool = True) -> Iterator[None]:
        """Sets both, and restores the former ones at the end."""
        former = self.weights, self.enabled
        self.weights, self.enabled = weights, enabled
        try:
            yield
        finally:
            self.weights, self.enabled = former


class LoraLinear(nn.Module):
    """A frozen linear layer with low-rank changes.

    lora_a [E, rank, in] starts at random, lora_b [E, rank, out] at zero, so that a new one changes
    nothing. With a blend they are the experts of a mixture. Without one there is a single change
    with weight one: a few-shot adapter, which is merged into the layer for inference.
    """

    def __init__(
        self,
        base: nn.Linear,
        config: LoraConfig | AdapterConfig,
        experts: int = 1,
        blend: Blend | None = None,
    ):
        super().__init__()
        self.base, self.blend, self.is_adapter = base, blend or Blend(), blend is None
        self.scale, self.rank = config.alpha / config.rank, config.rank
        # Whether the layer's matrix holds its experts, see merge_for_inference().
        self.is_merged = False
        self.dropout = nn.Dropout(config.dropout)
        like = base.weight
        # A layer that waits for its weights (vla.policies.empty_weights) is on the meta device.
        device = None if like.is_meta else like.device
        first = torch.empty(experts, config.rank, base.in_features, dtype=like.dtype, device=device)
        self.lora_a = nn.Parameter(_start(first))
        second = torch.zeros(
            experts, config.rank, base.out_features, dtype=like.dtype, device=device
        )
        self.lora_b = nn.Parameter(second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [..., out] of x [..., in]."""
        y = self.base(x)
        if self.is_merged or not self.blend.enabled or not len(self.lora_a):
            return y
        reduced = F.linear(self.dropout(x), self.lora_a.flatten(0, 1))  # [..., E * rank]
        if self.blend.weights is not None:
            weights = self.blend.weights.to(reduced.dtype)
            weights = weights if self.scale == 1.0 else weights * self.scale
            reduced = (reduced.unflatten(-1, (-1, self.rank)) * weights[..., None]).flatten(-2)
        elif self.scale != 1.0:
            reduced = reduced * self.scale
        return y + reduced @ self.lora_b.flatten(0, 1)

    def delta(self, expert: int) -> torch.Tensor:
        """The change of the layer's matrix [out, in] by an expert of weight one."""
        return self.scale * (self.lora_b[expert].T @ self.lora_a[expert])

    def sum_of_experts(self) -> torch.Tensor:
        """The change of the matrix [out, in] by all experts, each of weight one, in float32."""
        first, second = (part.detach().float().flatten(0, 1) for part in (self.lora_a, self.lora_b))
        return self.scale * (second.T @ first)

    def resize(self, kept: list[int], added: int) -> None:
        """Keeps the experts of those indices, in that order, and appends new ones."""
        fresh_a = _start(self.lora_a.new_empty(added, *self.lora_a.shape[1:]))
        fresh_b = self.lora_b.new_zeros(added, *self.lora_b.shape[1:])
        self.lora_a = nn.Parameter(torch.cat([self.lora_a.detach()[kept], fresh_a]))
        self.lora_b = nn.Parameter(torch.cat([self.lora_b.detach()[kept], fresh_b]))


def _start(lora_a: torch.Tensor) -> torch.Tensor:
    """Initialises a linear layer as PyTorch and PEFT do, expert by expert, in place."""
    for matrix in lora_a.detach():
        nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
    return lora_a


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers by path, those of a module before those deeper in it."""
    return {
        f"{path}.{name}".lstrip("."): child
        for path, parent in module.named_modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    }


def add_lora(
    language_model: nn.Module, names: dict[str, str], config: LoraConfig, blend: Blend
) -> None:
    """Replaces the linear layers that the configuration targets, in place.

    names: this language model's names for q, k, v, o, gate, up and down; the target "all" stands
    for all of them. Raises CheckpointError for a target that it lacks.
    """
    targets = tuple(names) if config.targets == ("all",) else config.targets
    if unknown := [target for target in targets if target not in names]:
        raise CheckpointError(
            f"lora.targets: this backbone has no {', '.join(unknown)}; it has: {', '.join(names)}"
        )
    wanted = {names[target] for target in targets}
    found = {
        path: layer
        for path, layer in linear_layers(language_model).items()
        if path.rpartition(".")[2] in wanted
    }
    if missing := wanted - {path.rpartition(".")[2] for path in found}:
        raise CheckpointError(
            f"the language model has no layers named {', '.join(sorted(missing))}"
        )
    for path, child in found.items():
        layer = LoraLinear(child, config, len(config.experts), blend)
        language_model.set_submodule(path, layer)


def lora_layers(module: nn.Module) -> dict[str, LoraLinear]:
    """All layers with experts by their path."""
    return {name: layer for name, layer in _layers(module).items() if not layer.is_adapter}


def adapter_layers(module: nn.Module) -> dict[str, LoraLinear]:
    """All layers with an adapter by their path."""
    return {name: layer for name, layer in _layers(module).items() if layer.is_adapter}


def _layers(module: nn.Module) -> dict[str, LoraLinear]:
    return {name: child for name, child in module.named_modules() if isinstance(child, LoraLinear)}


def adapter_weights(module: nn.Module) -> set[str]:
    """Names of an adapter's own parameters."""
    return {f"{path}.{name}" for path in adapter_layers(module) for name in ("lora_a", "lora_b")}


def is_lora_weight(name: str) -> bool:
    """Whether a parameter of that name is a low-rank matrix of an adapted layer."""
    return name.endswith((".lora_a", ".lora_b"))


@torch.no_grad()
def merge_experts(module: nn.Module, weights: list[float]) -> None:
    """Adds the experts, each times its weight, to the layers' matrices; removes the adapters.

    The result equals the unmerged model's with these weights for every token.
    """
    for path, layer in lora_layers(module).items():
        if len(weights) != len(layer.lora_a):
            raise CheckpointError(f"{len(weights)} weights for {len(layer.lora_a)} experts")
        for expert, weight in enumerate(weights):
            layer.base.weight += weight * layer.delta(expert).to(layer.base.weight.dtype)
        module.set_submodule(path, layer.base)


@torch.no_grad()
def merge_for_inference(module: nn.Module, gated: bool) -> None:
    """Spares what need not be computed for each token, in place; the result is the same.

    Experts that always count once are added to their layers' matrices, and kept beside them for
    vla.policies.adapters, which renews these. Where a gate blends them, their scale becomes part of
    their second matrix.
    """
    for layer in lora_layers(module).values():
        if gated:
            layer.lora_b.mul_(layer.scale)
            layer.scale = 1.0
        elif len(layer.lora_a):
            layer.base.weight.copy_(layer.base.weight.float() + layer.sum_of_experts())
            layer.is_merged = True


def expert_weights(module: nn.Module, index: int) -> dict[str, torch.Tensor]:
    """One expert's tensors by path, to be saved separately."""
    tensors = {}
    for path, layer in lora_layers(module).items():
        tensors[f"{path}.lora_a"] = layer.lora_a[index].detach().clone()
        tensors[f"{path}.lora_b"] = layer.lora_b[index].detach().clone()
    return tensors


@torch.no_grad()
def load_expert(module: nn.Module, index: int, tensors: dict[str, torch.Tensor]) -> None:
    """Fills one expert with the result of expert_weights.

    Raises CheckpointError where names or shapes differ.
    """
    own = expert_weights(module, index)
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())
        raise CheckpointError(f"the adapter is of another model: {odd[0]} is in one of them only")
    for path, layer in lora_layers(module).items():
        for name in ("lora_a", "lora_b"):
            given = tensors[f"{path}.{name}"]
            target = getattr(layer, name)[index]
            if given.shape != target.shape:
                raise CheckpointError(
                    f"the adapter's {path}.{name} is {list(given.shape)}, "
                    f"the model needs {list(target.shape)}"
                )
            target.copy_(given)
