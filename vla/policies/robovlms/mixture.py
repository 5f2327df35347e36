"""Mixture of experts: action tokens with queries, keys, values and an MLP of their own (figure 2a).

Nothing in the prompt looks at actions, so the action expert is a decoder of its own on the
backbone's keys and values, which are computed once for each chunk. With flow matching this is pi0
(arXiv 2410.24164).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache

from vla.policies.config import ActionLossConfig, CheckpointError, FlowMatchingConfig
from vla.policies.heads.flow_matching import Draws, draw_noise, integrate
from vla.policies.heads.outputs import (
    flow_losses,
    join_binary,
    only_used,
    regression_losses,
    time_waves,
)

if TYPE_CHECKING:
    from vla.policies.backbones import Backbone
    from vla.policies.robovlms.config import MixtureConfig


@dataclass
class Prefix:
    """What the backbone has read, for B rows."""

    cache: DynamicCache  # keys and values of P tokens
    mask: torch.Tensor  # [B, P], 1 on tokens
    position: torch.Tensor  # [B]: of the next token


class ExpertDecoder(nn.Module):
    """As many layers as the backbone's decoder, with its heads, at a width of its own."""

    def __init__(self, backbone: Backbone, config: MixtureConfig):
        super().__init__()
        decoder: Any = backbone.language_model
        if not hasattr(decoder, "rotary_emb"):
            raise CheckpointError(
                f"a mixture of experts needs rotary positions, which backbone "
                f"'{backbone.config.kind}' does not have; set mixture.width to 0"
            )
        sizes: Any = deepcopy(decoder.config)
        heads = sizes.num_attention_heads
        sizes.head_dim = getattr(sizes, "head_dim", None) or sizes.hidden_size // heads
        sizes.hidden_size, sizes.intermediate_size = config.width, config.mlp
        sizes.vocab_size, sizes.pad_token_id = 1, None
        sizes.num_hidden_layers = len(backbone.layers)
        self.slides = "sliding_attention" in (getattr(sizes, "layer_types", None) or ())
        self.decoder = type(decoder)(sizes)
        found = getattr(self.decoder.layers[0].self_attn, "head_dim", sizes.head_dim)
        if found != sizes.head_dim:
            raise CheckpointError(
                f"backbone '{backbone.config.kind}' makes its heads as wide as the decoder allows: "
                f"mixture.width must be {heads * sizes.head_dim}, as the backbone's, or 0"
            )
        self.decoder.embed_tokens = nn.Identity()  # It reads actions, no tokens.
        self.place = backbone.text_positions

    def forward(
        self, prefix: Prefix, tokens: torch.Tensor, allowed: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Final hidden states [B, T, D] of tokens [B, T, D], which all see the prefix.

        allowed [T, T]: which of them sees which; all see all if not given. The prefix stays as it
        was.
        """
        rows, count = tokens.shape[:2]
        length = prefix.mask.shape[1]
        seen = tokens.new_zeros(rows, count, length + count, dtype=torch.bool)
        seen[:, :, :length] = prefix.mask.bool()[:, None]
        seen[:, :, length:] = True if allowed is None else allowed
        mask = torch.zeros_like(seen, dtype=tokens.dtype)
        mask = mask.masked_fill(~seen, torch.finfo(tokens.dtype).min)[:, None]
        positions = prefix.position[:, None] + torch.arange(count, device=tokens.device)
        hidden = self.decoder(
            inputs_embeds=tokens,
            attention_mask={"full_attention": mask, "sliding_attention": mask}
            if self.slides
            else mask,
            position_ids=self.place(positions),
            past_key_values=prefix.cache,
            use_cache=True,
        ).last_hidden_state
        prefix.cache.crop(-count)
        return hidden


class MixtureHead(nn.Module):
    """A token for each step of the chunk: learned ones for regression, noisy actions for flow."""

    def __init__(
        self,
        backbone: Backbone,
        mixture: MixtureConfig,
        horizon: int,
        binary: tuple[bool, ...],
        flow: FlowMatchingConfig | None,
        loss: ActionLossConfig,
    ):
        """binary: which dimensions are open or closed. flow: None for regression."""
        super().__init__()
        self.expert = ExpertDecoder(backbone, mixture)
        self.horizon, self.binary, self.flow, self.loss = horizon, binary, flow, loss
        width, actions = mixture.width, len(binary)
        if flow is None:
            self.queries = nn.Parameter(torch.randn(horizon, width) * 0.02)
        else:
            self.action_in = nn.Linear(actions, width)
            self.time = nn.Sequential(
                nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)
            )
        self.action_out = nn.Linear(width, actions)

    def velocity(self, prefix: Prefix, chunk: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """[B, H, A] of noisy chunks [B, H, A] at times [B]."""
        actions = self.action_in(chunk.to(self.action_in.weight.dtype))
        time = time_waves(times, actions.shape[-1]).to(actions.dtype)[:, None].expand_as(actions)
        return self.action_out(self.expert(prefix, self.time(torch.cat([actions, time], -1))))

    def regress(self, prefix: Prefix) -> tuple[torch.Tensor, torch.Tensor]:
        """Chunk of the arm [B, H, a] in -1 to 1, logits of the gripper [B, H, g]."""
        tokens = self.queries.expand(len(prefix.mask), -1, -1)
        values = self.action_out(self.expert(prefix, tokens))
        binary = torch.tensor(self.binary, device=values.device)
        return torch.tanh(values[..., ~binary]), values[..., binary]

    def losses(
        self,
        prefix: Prefix,
        actions: torch.Tensor,
        valid: torch.Tensor,
        samples: int = 1,
        generator: torch.Generator | None = None,
        used: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """As of the other heads, see vla.policies.heads.outputs; the prefix is used up."""
        if self.flow is None:
            return regression_losses(
                *self.regress(prefix), actions, valid, self.binary, self.loss, used
            )
        prefix.cache.batch_repeat_interleave(samples)
        prefix = Prefix(
            prefix.cache,
            prefix.mask.repeat_interleave(samples, 0),
            prefix.position.repeat_interleave(samples, 0),
        )
        actions, valid = (x.repeat_interleave(samples, 0) for x in (actions, valid))
        used = None if used is None else used.repeat_interleave(samples, 0)
        return flow_losses(
            lambda x, t: self.velocity(prefix, x, t), actions, valid, self.flow, generator, used
        )

    def sample(
        self,
        prefix: Prefix,
        generator: Draws = None,
        used: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Chunks [B, H, A], normalised."""
        if self.flow is None:
            arm, logits = self.regress(prefix)
            return join_binary(arm, logits, self.binary)
        shape = (len(prefix.mask), self.horizon, len(self.binary))
        noise = draw_noise(shape, self.flow, generator).to(prefix.mask.device)
        return integrate(
            lambda x, t: only_used(self.velocity(prefix, x, t), used),
            only_used(noise, used),
            self.flow.steps,
        )
