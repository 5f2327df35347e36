"""Passes of an InstructVLA that other runtimes than torch can compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from vla.contract.embodiment import EmbodimentContract
from vla.policies.instructvla.action_expert import ActionExpert
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.static_chunk import StaticChunk
from vla.policies.runtimes import Exportable, RuntimeUnavailable

FREE, GUIDED = "chunk", "guided chunk"
_aten = torch.ops.aten
# What gradients are made of that exports lack, as sums and products.
BACKWARD = (
    _aten._fused_rms_norm, _aten._fused_rms_norm_backward, _aten._softmax_backward_data,
    _aten.native_layer_norm_backward, _aten.select_backward, _aten.silu_backward,
    _aten.slice_backward, _aten.threshold_backward,
)  # fmt: skip


class _Pass(nn.Module):
    """A pass over tensors as a module that has the weights."""

    def __init__(self, weights: nn.Module, run: Callable[..., torch.Tensor]):
        super().__init__()
        self.weights, self.run = weights, run

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """The result of the pass."""
        return self.run(*tensors)


def chunks(
    expert: ActionExpert, config: InstructVLAConfig, contract: EmbodimentContract
) -> tuple[Exportable, Exportable]:
    """Both kinds of chunks of one row. Raises RuntimeUnavailable without images."""
    cameras, steps = config.seen_by_expert, config.flow.steps
    if not cameras:
        raise RuntimeUnavailable("an action expert without images runs eagerly")
    first, shape = contract.camera(cameras[0]), (1, expert.horizon, expert.action_size)
    example = (
        torch.zeros(1, len(cameras), 3, first.height, first.width, dtype=torch.uint8),
        torch.zeros(1, config.num_queries, config.backbone.width),
        torch.zeros(1, len(contract.state_names)),
        torch.zeros(shape),
    )
    guidance = torch.zeros(shape), torch.zeros(shape[:2]), torch.tensor(1.0)
    return free_chunk(expert, steps, example), guided_chunk(expert, steps, example + guidance)


def free_chunk(expert: ActionExpert, steps: int, example: tuple[torch.Tensor, ...]) -> Exportable:
    """Context and all integration steps; example: images, latent action, state, noise."""
    chunk = StaticChunk(expert, steps, "none")
    return Exportable(FREE, lambda: _Pass(expert, chunk.free).eval(), example)


def guided_chunk(expert: ActionExpert, steps: int, example: tuple[torch.Tensor, ...]) -> Exportable:
    """The same with guidance; example: those, and what StaticChunk.guided takes beside them."""
    chunk = StaticChunk(expert, steps, "none")

    def with_gradients() -> nn.Module:
        """The pass with gradients written out as operations."""
        module = _Pass(expert, chunk.guided).eval()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            # With real tensors: constants that are made meanwhile are kept.
            operations: Any = get_decompositions(BACKWARD)
            return make_fx(lambda *tensors: module(*tensors), operations)(*example)

    return Exportable(GUIDED, with_gradients, example)
