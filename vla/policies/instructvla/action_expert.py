"""The action expert: a block-masked transformer over vision, latent, state and action tokens.

Blocks see themselves and those before (InstructVLA, figure 2): vision | latent and state | actions.
Since no other block sees the actions, the context's keys and values are computed once per chunk and
each integration step runs the action tokens alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from vla.policies.config import CheckpointError
from vla.policies.instructvla.config import ActionExpertConfig
from vla.policies.instructvla.film_dinov2 import Dinov2Encoder
from vla.policies.instructvla.film_vision import ConvVisionEncoder

MASKS = ("causal", "separate", "bias", "full")


@dataclass
class ExpertContext:
    """What all integration steps of a chunk share."""

    tokens: torch.Tensor  # [B, N, D]: vision, latent and state; without vision where no row sees
    # Their keys and values, one pair [B, heads, N, D / heads] per layer; None where the mask lets
    # them see the actions, so that each step runs them again.
    layers: list[tuple[torch.Tensor, torch.Tensor]] | None
    # Bool [B]: rows with vision, where others have none; None where all rows are alike.
    seen: torch.Tensor | None = None
    # What ActionExpert.joined_gates() gave, where the steps are to use it.
    gates: list[torch.Tensor] | None = None


def rotary_turns(positions: torch.Tensor, width: int, theta: float) -> torch.Tensor:
    """Factors [2, T, width] of the two terms of rotate() for positions [T].

    They are cosines, and sines of which the first half is negative; both halves have the same
    angles.
    """
    steps = torch.arange(0, width, 2, device=positions.device, dtype=positions.dtype)
    frequencies = theta ** (-steps / width)
    angles = positions[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)])


def rotate(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of [..., heads, T, D], halves paired, turns [2, T, D]."""
    cos, sin = turns.to(x.dtype)
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


def time_frequencies(width: int) -> torch.Tensor:
    """Frequencies [width / 2] of a time embedding, from 1 down to 1/100."""
    half = width // 2
    return torch.exp(-math.log(100.0) * torch.arange(half, dtype=torch.float32) / (half - 1))


def time_embedding(times: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Sines and cosines [B, 2 F] of times [B] in 0..1 at frequencies [F]."""
    angles = times[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Layer(nn.Module):
    """Pre-norm attention and gated MLP on [B, T, D], which may also attend to a context."""

    def __init__(self, config: ActionExpertConfig):
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.norm1 = nn.RMSNorm(config.width, eps=1e-6)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.projection = nn.Linear(config.width, config.width, bias=False)
        self.norm2 = nn.RMSNorm(config.width, eps=1e-6)
        self.gate = nn.Linear(config.width, config.mlp, bias=False)
        self.up = nn.Linear(config.width, config.mlp, bias=False)
        self.down = nn.Linear(config.mlp, config.width, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        turns: torch.Tensor,
        context: tuple[torch.Tensor, torch.Tensor] | None = None,
        mask: torch.Tensor | None = None,
        gates: torch.Tensor | None = None,
        is_last: bool = False,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Tokens [B, T, D] after this layer, and their own keys and values.

        turns [2, T, D / heads]: of rotary positions. context: keys and values before the
        tokens' own. mask [T, N] or [B, 1, T, N]: True where a token attends, or a number to add to
        its score; None for everywhere. gates [2 M, D]: the matrices of gate and up, as one.
        is_last: nobody reads the tokens, which stay what they are.
        """
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)
        (query, key), value = rotate(qkv[:2], turns), qkv[2]
        own = (key, value)
        if is_last:
            return x, own
        if context is not None:
            key = torch.cat([context[0], key], dim=2)
            value = torch.cat([context[1], value], dim=2)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, tokens, width))
        normed = self.norm2(x)
        if gates is None:
            gate, up = self.gate(normed), self.up(normed)
        else:
            gate, up = F.linear(normed, gates).chunk(2, dim=-1)
        x = x + self.down(F.silu(gate) * up)
        return x, own


def _projector(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))


class ActionExpert(nn.Module):
    """Velocity field over action chunks, conditioned on images, latent action and state.

    latent_width: of the latent action's tokens. cameras: images per observation. state_size,
    horizon, action_size: of the embodiment.
    """

    turns: torch.Tensor
    frequencies: torch.Tensor
    allowed: torch.Tensor

    def __init__(
        self,
        config: ActionExpertConfig,
        latent_width: int,
        num_queries: int,
        cameras: int,
        state_size: int,
        horizon: int,
        action_size: int,
    ):
        super().__init__()
        self.config = config
        self.horizon, self.action_size = horizon, action_size
        width = config.width
        if config.mask not in MASKS:
            raise CheckpointError(f"unknown expert.mask '{config.mask}'; known: {', '.join(MASKS)}")
        self.vision = _make_vision(config, latent_width, cameras)
        if self.vision is not None:
            self.vision_projector = _projector(config.vision_width, width)
        self.latent_projector = _projector(latent_width, width)
        # Places of things enter beside the tool's: their difference is the path to go.
        self.keypoint_values = 2 * config.keypoints * cameras
        inputs = state_size * config.use_state + self.keypoint_values
        self.state_projector = _projector(inputs, width) if inputs else None
        self.action_embedding = nn.Linear(action_size, width)
        self.action_projector = _projector(2 * width, width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        sizes = [horizon * width, *config.head_widths, horizon * action_size]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.head = nn.Sequential(*layers[:-1])
        self.vision_tokens = 0 if self.vision is None else self.vision.tokens * cameras
        self.context_tokens = self.vision_tokens + num_queries + int(inputs > 0)
        # Computed once: in each step they would cost as much as a layer.
        positions = torch.arange(self.context_tokens + horizon, dtype=torch.float32)
        turns = rotary_turns(positions, width // config.heads, config.rope_theta)
        self.register_buffer("turns", turns, persistent=False)
        self.register_buffer("frequencies", time_frequencies(width), persistent=False)
        self.register_buffer("allowed", self.block_mask(turns.device), persistent=False)

    def block_mask(self, device: torch.device) -> torch.Tensor:
        """Which token attends to which, True or False [N + H, N + H]."""
        kind, vision, context = self.config.mask, self.vision_tokens, self.context_tokens
        total = context + self.horizon
        mask = torch.ones(total, total, dtype=torch.bool, device=device)
        if kind != "full":
            mask[:context, context:] = False
            mask[:vision, vision:] = False
        if kind == "separate":
            mask[vision:context, :vision] = False
        return mask

    def encode_context(
        self,
        images: torch.Tensor,
        latent: torch.Tensor,
        state: torch.Tensor,
        seen: torch.Tensor | None = None,
    ) -> ExpertContext:
        """Runs everything but the actions, once per chunk.

        images: uint8 [V, C, 3, H, W] of the V rows that see: all, none, or those of seen [B].
        latent [B, Q, L] and state [B, S], normalised, in any floating-point type.
        """
        return self.encode_context_and_places(images, latent, state, seen)[0]

    def encode_context_and_places(
        self,
        images: torch.Tensor,
        latent: torch.Tensor,
        state: torch.Tensor,
        seen: torch.Tensor | None = None,
    ) -> tuple[ExpertContext, torch.Tensor | None]:
        """The context, and the keypoints' scores [V, C, K, cells] for a loss of their own.

        Where no row of seen sees, images may be those of one blank observation: it runs through
        the vision encoder, and the context is the same as without.
        """
        dtype = self.norm.weight.dtype
        latent, state = latent.to(dtype), state.to(dtype)
        if self.vision is None:
            images = images[:0]
        is_blank = bool(len(images)) and seen is not None and not seen.any()
        if len(images) in (0, len(latent)) and not is_blank:
            seen = None  # All rows are alike, so that none has to be masked.
        parts, places, scores = [self.latent_projector(latent)], None, None
        if len(images):
            steering = latent if seen is None else latent[seen]
            visual, places, scores = self._look(images, latent[:1] if is_blank else steering)
            visual = _in_rows(visual, seen)
            # Not even zeros in the context, but in the graph: what sees gets zeros for gradients.
            parts.insert(0, visual[:, :0] if is_blank else visual)
        if self.state_projector is not None:
            inputs = [state] if self.config.use_state else []
            if self.config.keypoints:
                # Zeros add nothing to what the state gives.
                nothing = state.new_zeros(len(state), self.keypoint_values)
                inputs.append(nothing if places is None else _in_rows(places, seen))
            parts.append(self.state_projector(torch.cat(inputs, dim=-1))[:, None])
        seen = None if is_blank else seen
        context = ExpertContext(torch.cat(parts, dim=1), None, seen)  # tokens [B, N, D]
        if self.config.mask in ("causal", "separate"):
            context.layers = self._run_context(context)
        return context, scores

    def _look(
        self, images: torch.Tensor, latent: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Visual tokens [V, M, D], places of the keypoints [V, 2 K C] and their scores."""
        rows, cameras = images.shape[:2]
        condition = latent.mean(dim=1)  # [V, L]
        camera = torch.arange(cameras, device=images.device).repeat(rows)
        assert self.vision is not None
        condition = condition.repeat_interleave(cameras, 0)
        visual, keypoints = self.vision(images.flatten(0, 1), condition, camera)
        # Tokens of the cameras alternate, patch by patch, as in the paper's two-camera model.
        visual = visual.view(rows, cameras, self.vision.tokens, -1).transpose(1, 2).flatten(1, 2)
        visual = self.vision_projector(visual)
        if keypoints is None:
            return visual, None, None
        return visual, keypoints[0].view(rows, -1), keypoints[1].unflatten(0, (rows, cameras))

    def _run_context(self, context: ExpertContext) -> list[tuple[torch.Tensor, torch.Tensor]]:
        tokens = context.tokens
        left_out = self._left_out(tokens)
        present = slice(left_out, self.context_tokens)
        mask = self.allowed[present, present]
        if context.seen is not None:
            mask = mask & self._visible(context.seen, tokens.shape[1])
        turns = self.turns[:, present].to(tokens.dtype)
        layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        for layer in self.layers:
            is_last = len(layers) == len(self.layers) - 1
            tokens, keys_and_values = layer(tokens, turns, mask=mask, is_last=is_last)
            layers.append(keys_and_values)
        return layers

    def joined_gates(self) -> list[torch.Tensor] | None:
        """The matrices [2 M, D] of each layer's gate and up: one product, not two, in every step.

        They are made for each chunk, so that no adapter has to renew them. None with layers that
        are more than a matrix.
        """
        joined = []
        for layer in self.layers:
            gate, up = layer.gate, layer.up
            if not (isinstance(gate, nn.Linear) and isinstance(up, nn.Linear)):
                return None
            joined.append(torch.cat([gate.weight, up.weight]))
        return joined

    def velocity(
        self, context: ExpertContext, x: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """Velocity [B, H, A] at points x [B, H, A] and times [B] under a context of that batch."""
        dtype = context.tokens.dtype
        time = time_embedding(times, self.frequencies)[:, None].expand(-1, self.horizon, -1)
        tokens = torch.cat([time.to(dtype), self.action_embedding(x.to(dtype))], dim=-1)
        tokens = self.action_projector(tokens)
        if context.layers is None:
            tokens = self._run_all(torch.cat([context.tokens, tokens], dim=1), context.seen)
        else:
            turns, mask = self.turns[:, self.context_tokens :].to(dtype), None
            if context.seen is not None:
                mask = self._visible(context.seen, self.context_tokens + self.horizon)
                mask = mask[:, :, -self.horizon :]
            for index, (layer, past) in enumerate(zip(self.layers, context.layers, strict=True)):
                gates = None if context.gates is None else context.gates[index]
                tokens, _ = layer(tokens, turns, context=past, mask=mask, gates=gates)
        return self.head(self.norm(tokens).flatten(1)).view(-1, self.horizon, self.action_size)

    def _run_all(self, tokens: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """Action tokens [B, H, D] after all layers, context [B, N, D] and actions run together."""
        left_out = self._left_out(tokens[:, : -self.horizon])
        mask = self.allowed[left_out:, left_out:]
        if self.config.mask == "bias":
            mask = mask.to(tokens.dtype)
        if seen is not None:
            visible = self._visible(seen, tokens.shape[1])
            absent = float("-inf") if self.config.mask == "bias" else False
            mask = torch.where(visible, mask, absent)
        turns = self.turns[:, left_out:].to(tokens.dtype)
        for layer in self.layers:
            tokens, _ = layer(tokens, turns, mask=mask)
        return tokens[:, -self.horizon :]

    def _left_out(self, context: torch.Tensor) -> int:
        """How many visual tokens a context [B, N, D] lacks; the others keep their positions."""
        return self.context_tokens - context.shape[1]

    def _visible(self, seen: torch.Tensor, count: int) -> torch.Tensor:
        """Bool [B, 1, T, T], False where tokens would attend to visual ones that a row lacks.

        What stands in their place attends to itself, since an attention to nothing is not a number.
        """
        visual = torch.arange(count, device=seen.device) < self.vision_tokens
        return (seen[:, None, None] | ~visual | visual[:, None])[:, None]


def _make_vision(
    config: ActionExpertConfig, latent_width: int, cameras: int
) -> ConvVisionEncoder | Dinov2Encoder | None:
    """The vision encoder; None without. Raises CheckpointError for one that is not known."""
    if config.vision == "conv":
        return ConvVisionEncoder(config, latent_width, cameras)
    if config.vision == "dinov2":
        return Dinov2Encoder(config, latent_width)
    if config.vision != "none":
        raise CheckpointError(f"unknown expert.vision '{config.vision}'; known: conv, dinov2, none")
    if config.keypoints:
        raise CheckpointError("keypoints need vision 'conv'; set keypoints to 0 for 'none'")
    return None


def _in_rows(values: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """Values [V, ...] at the rows of seen [B], and zeros elsewhere; as they are for None."""
    if seen is None:
        return values
    rows = values.new_zeros(len(seen), *values.shape[1:])
    rows[seen] = values
    return rows


def repeat_context(context: ExpertContext, times: int) -> ExpertContext:
    """The same context for several samples each: [B, ...] becomes [B * times, ...]."""
    layers = context.layers
    if layers is not None:
        layers = [
            (key.repeat_interleave(times, 0), value.repeat_interleave(times, 0))
            for key, value in layers
        ]
    seen = context.seen
    seen = None if seen is None else seen.repeat_interleave(times, 0)
    tokens = context.tokens.repeat_interleave(times, 0)
    return ExpertContext(tokens, layers, seen, context.gates)
