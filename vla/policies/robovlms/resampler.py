"""Perceiver resampler (Flamingo, arXiv 2204.14198): any number of image tokens to a fixed one.

Modules are named as in the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from vla.policies.robovlms.config import ResamplerConfig


class ResamplerAttention(nn.Module):
    """Latents attend to image tokens and to themselves."""

    def __init__(self, width: int, heads: int, head_width: int):
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, tokens: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Image tokens [N, I, D] and latents [N, L, D] to [N, L, D]."""
        tokens, latents = self.norm_media(tokens), self.norm_latents(latents)
        keys, values = self.to_kv(torch.cat([tokens, latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [N, heads, T, d]
            for part in (self.to_q(latents), keys, values)
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class PerceiverResampler(nn.Module):
    """Blocks of attention and MLP over learned latents."""

    def __init__(self, width: int, config: ResamplerConfig):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(config.tokens, width))
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    ResamplerAttention(width, config.heads, config.head_width),
                    nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 4 * width, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * width, width, bias=False),
                    ),
                ]
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Image tokens [N, I, D] to [N, L, D]."""
        latents = self.latents.expand(len(tokens), -1, -1)
        blocks = cast("Iterable[tuple[ResamplerAttention, nn.Sequential]]", self.layers)
        for attention, mlp in blocks:
            latents = latents + attention(tokens, latents)
            latents = latents + mlp(latents)
        return self.norm(latents)
