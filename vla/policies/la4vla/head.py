"""The action head: steps of a noisy chunk attend to what the backbone has read (flow matching).

No step sees another one, so keys and values of the context are computed once for a chunk, however
many steps the flow takes, and once for all draws of noise in training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from vla.policies.heads.flow_matching import draw_noise, integrate
from vla.policies.heads.outputs import flow_losses, only_used
from vla.policies.la4vla.config import CrossAttentionConfig, LA4VLAConfig

TIMES = 1000  # rows of the table of times


def sine_table(rows: int, width: int) -> torch.Tensor:
    """[rows, width]: sines and cosines of each row's number in turn (arXiv 1706.03762)."""
    steps = torch.arange(0, width, 2, dtype=torch.float32)
    frequencies = torch.exp(steps * (-math.log(10_000.0) / width))
    angles = torch.arange(rows)[:, None] * frequencies  # [rows, ceil(width / 2)]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def split_heads(values: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, heads, T, D / heads] of values [B, T, D]."""
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)


def linear(width: int, into: int) -> nn.Linear:
    """A layer that starts as those of torch's attention."""
    layer = nn.Linear(width, into)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class KeysValues(nn.Module):
    """What one layer attends to of a context.

    It is no part of the layer, which sharded training has at hand in the layer's own pass alone.
    """

    def __init__(self, context: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.key, self.value = linear(context, width), linear(context, width)

    def forward(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [B, heads, T, d] of a context [B, T, C]."""
        keys, values = (split_heads(part(context), self.heads) for part in (self.key, self.value))
        return keys, values


class CrossAttention(nn.Module):
    """Multi-head attention to keys and values that are given."""

    def __init__(self, config: CrossAttentionConfig):
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.query = linear(config.width, config.width)
        self.output = linear(config.width, config.width)

    def forward(
        self, tokens: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """[B * S, H, D] of tokens [B * S, H, D], S draws of each row.

        keys, values [B, heads, T, d]. mask: bool [B, 1, 1, T].
        """
        # The draws of a row are more queries to the same context.
        queries = self.query(tokens).reshape(len(mask), -1, tokens.shape[-1])  # [B, S * H, D]
        found = F.scaled_dot_product_attention(
            split_heads(queries, self.heads),
            keys,
            values,
            mask,
            self.dropout if self.training else 0.0,
        )  # [B, heads, S * H, d]
        return self.output(found.transpose(1, 2).reshape(tokens.shape))


class HeadLayer(nn.Module):
    """Attention to the context, then an MLP that is told the time."""

    def __init__(self, config: CrossAttentionConfig):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = CrossAttention(config)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp), nn.GELU(), nn.Linear(config.mlp, config.width)
        )

    def forward(
        self,
        tokens: torch.Tensor,
        time: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """[N, H, D] of tokens [N, H, D] at times [N, 1, D]; the rest as of CrossAttention."""
        tokens = tokens + self.attention(self.norm1(tokens), keys, values, mask)
        return tokens + self.mlp(self.norm2(tokens) + time)


@dataclass
class HeadContext:
    """What the head attends to, for B rows."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]  # keys and values of each layer
    mask: torch.Tensor  # bool [B, 1, 1, T], False on padding


class CrossAttentionHead(nn.Module):
    """Chunks by flow matching, of hidden states of the backbone and a state token."""

    table: torch.Tensor

    def __init__(self, config: LA4VLAConfig, horizon: int):
        super().__init__()
        head, context = config.head, config.backbone.width
        width, hidden, actions = head.width, head.hidden, config.max_action
        self.flow, self.shape = config.flow, (horizon, actions)
        self.action_in = nn.Linear(actions, width)
        self.action_encoder = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.state_encoder = nn.Sequential(
            nn.Linear(config.max_state, hidden), nn.ReLU(), nn.Linear(hidden, context)
        )
        self.contexts = nn.ModuleList(
            KeysValues(context, width, head.heads) for _ in range(head.layers)
        )
        self.layers = nn.ModuleList(HeadLayer(head) for _ in range(head.layers))
        self.norm = nn.LayerNorm(width)
        flat = head.pool == "flatten"
        self.pool = nn.Linear(horizon * width, width) if flat else None
        self.output = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, actions * (horizon if flat else 1)),
        )
        # Of times and of a chunk's steps; made from the configuration.
        self.register_buffer("table", sine_table(max(TIMES, horizon), width), persistent=False)

    def read(self, hidden: torch.Tensor, mask: torch.Tensor, state: torch.Tensor) -> HeadContext:
        """What it attends to: hidden states [B, T, C] where mask [B, T] is 1, and states [B, S]."""
        token = self.state_encoder(state.to(self.norm.weight.dtype))[:, None]  # [B, 1, C]
        context = torch.cat([hidden.to(token.dtype), token], dim=1)
        seen = F.pad(mask.bool(), (0, 1), value=True)[:, None, None]
        return HeadContext([part(context) for part in self.contexts], seen)

    def velocity(
        self, context: HeadContext, chunk: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """[N, H, A] of noisy chunks [N, H, A] at times [N] in 0 to 1; N a multiple of B."""
        chunk = chunk.to(self.norm.weight.dtype)
        steps = self.table[: chunk.shape[1]].to(chunk.dtype)  # [H, D]
        rows = (times * (TIMES - 1)).long().clamp(0, TIMES - 1)
        time = self.table[rows].to(chunk.dtype)[:, None]  # [N, 1, D]
        tokens = self.action_encoder(F.relu(self.action_in(chunk)) + steps)  # [N, H, D]
        for layer, seen in zip(self.layers, context.layers, strict=True):
            tokens = layer(tokens, time, *seen, context.mask)
        tokens = self.norm(tokens)
        if self.pool is None:
            return self.output(tokens)
        return self.output(self.pool(tokens.flatten(1))).unflatten(-1, self.shape)

    def losses(
        self,
        context: HeadContext,
        actions: torch.Tensor,
        valid: torch.Tensor,
        used: torch.Tensor,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> dict[str, torch.Tensor]:
        """As "action" the squared error of the velocity, over steps and dimensions that count.

        actions [B, H, A], normalised. valid [B, H]: before the episode's end. used [B, A]: of the
        robot. samples: draws of noise and time per chunk. generator: of these, on the CPU.
        """
        actions, valid, used = (x.repeat_interleave(samples, 0) for x in (actions, valid, used))
        return flow_losses(
            lambda x, t: self.velocity(context, x, t), actions, valid, self.flow, generator, used
        )

    def sample(
        self, context: HeadContext, used: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Chunks [B, H, A], normalised, zero where used [B, A] is False."""
        return self.from_noise(context, self.draw(len(used), generator).to(used.device), used)

    def draw(self, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """The noise [B, H, A] that so many chunks start from, on the generator's device."""
        return draw_noise((count, *self.shape), self.flow, generator)

    def from_noise(
        self, context: HeadContext, noise: torch.Tensor, used: torch.Tensor
    ) -> torch.Tensor:
        """As sample(), by Euler integration; nothing is drawn."""
        return integrate(
            lambda x, t: only_used(self.velocity(context, x, t), used),
            only_used(noise, used),
            self.flow.steps,
        )
