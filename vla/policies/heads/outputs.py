"""From a hidden state to an action chunk: regression, flow matching or diffusion.

Each has `losses(hidden, actions, valid, samples, generator, used)`, whose entry "action" is
minimised, and `sample(hidden, generator, used)`, which is `from_noise(hidden, noise, used)` of what
`draw(count, generator)` gives. hidden [N, G]; chunks [N, H, A], normalised; valid
[N, H]: True on steps before the episode's end; used [N, A]: True on dimensions that the robot has,
None for all. The others are zero wherever a head reads them, and enter no loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from vla.policies.config import ActionLossConfig, FlowMatchingConfig
from vla.policies.heads.flow_matching import (
    Draws,
    draw_noise,
    draw_rows,
    integrate,
    interpolate,
    sample_times,
)

CLIP = 1.0  # of normalised actions


def mean_of_valid(
    values: torch.Tensor, valid: torch.Tensor, used: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the steps and dimensions of [N, H, A] that count."""
    weights = valid[..., None].to(values.dtype).expand_as(values)
    if used is not None:
        weights = weights * used[:, None].to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1)


def only_used(values: torch.Tensor, used: torch.Tensor | None) -> torch.Tensor:
    """[N, H, A] with zeros in dimensions that the robot does not have."""
    return values if used is None else values * used[:, None].to(values.dtype)


class Mlp(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, sizes: list[int]):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[N, G] to [N, last size]."""
        return self.mlp(hidden)


class ChunkOutput(nn.Module):
    """What the three have in common."""

    def draw(self, count: int, generator: Draws = None) -> torch.Tensor | None:
        """The noise [N, H, A] that so many chunks start from, on the CPU; None without any."""
        return None

    def from_noise(
        self, hidden: torch.Tensor, noise: torch.Tensor | None, used: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Chunks [N, H, A] of what draw() gave; nothing is drawn."""
        raise NotImplementedError

    def sample(
        self,
        hidden: torch.Tensor,
        generator: Draws = None,
        used: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Chunks [N, H, A]."""
        noise = self.draw(len(hidden), generator)
        return self.from_noise(hidden, None if noise is None else noise.to(hidden.device), used)


class Regression(ChunkOutput):
    """MSE on the arm, BCE on the gripper (RoboVLMs, equation 7)."""

    def __init__(
        self,
        width: int,
        widths: tuple[int, ...],
        horizon: int,
        binary: tuple[bool, ...],
        loss: ActionLossConfig,
    ):
        """binary: which of the action's dimensions are open or closed, such as a gripper's."""
        super().__init__()
        self.horizon, self.binary, self.loss = horizon, binary, loss
        closed = sum(binary)
        self.actions = Mlp([width, *widths, horizon * (len(binary) - closed)])
        self.gripper = Mlp([width, *widths, horizon * closed]) if closed else None

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Chunk of the arm [N, H, a] in -1 to 1, logits of the gripper [N, H, g]."""
        arm = torch.tanh(self.actions(hidden)).unflatten(-1, (self.horizon, -1))
        if self.gripper is None:
            return arm, arm.new_zeros(len(arm), self.horizon, 0)
        return arm, self.gripper(hidden).unflatten(-1, (self.horizon, -1))

    def losses(
        self,
        hidden: torch.Tensor,
        actions: torch.Tensor,
        valid: torch.Tensor,
        samples: int = 1,
        generator: torch.Generator | None = None,
        used: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Those of regression_losses; it draws nothing."""
        arm, logits = self(hidden)
        return regression_losses(arm, logits, actions, valid, self.binary, self.loss, used)

    def from_noise(
        self, hidden: torch.Tensor, noise: torch.Tensor | None, used: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Chunks [N, H, A]; the gripper is -1 or 1."""
        arm, logits = self(hidden)
        return join_binary(arm, logits, self.binary)


def regression_losses(
    arm: torch.Tensor,
    logits: torch.Tensor,
    actions: torch.Tensor,
    valid: torch.Tensor,
    binary: tuple[bool, ...],
    config: ActionLossConfig,
    used: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Losses of the arm [N, H, a] and the gripper's logits [N, H, g]: "action" is their sum."""
    is_binary = torch.tensor(binary, device=actions.device)
    kind = F.mse_loss if config.arm == "mse" else F.huber_loss
    errors = kind(arm.float(), actions[..., ~is_binary], reduction="none")
    arm_used, binary_used = (
        None if used is None else used[:, which] for which in (~is_binary, is_binary)
    )
    losses = {"arm": mean_of_valid(errors, valid, arm_used)}
    losses["action"] = losses["arm"]
    if any(binary):
        target = (actions[..., is_binary] > 0).float()
        errors = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
        losses["gripper"] = mean_of_valid(errors, valid, binary_used)
        losses["action"] = losses["arm"] + config.gripper_weight * losses["gripper"]
        right = ((logits > 0) == (target > 0.5)).float()
        losses["gripper_accuracy"] = mean_of_valid(right, valid, binary_used)
    return losses


def join_binary(arm: torch.Tensor, logits: torch.Tensor, binary: tuple[bool, ...]) -> torch.Tensor:
    """Chunks [N, H, A] of the arm and the gripper, which is -1 or 1."""
    closed = torch.where(logits > 0, 1.0, -1.0).to(arm.dtype)
    columns = iter(arm.unbind(-1)), iter(closed.unbind(-1))
    return torch.stack([next(columns[is_binary]) for is_binary in binary], dim=-1)


def time_waves(times: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines [N, width] of times [N] in 0 to 1."""
    half = width // 2
    frequencies = torch.exp(
        torch.arange(half, device=times.device) * (-math.log(10_000.0) / max(half - 1, 1))
    )
    angles = 1000.0 * times[:, None] * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], -1), (0, width - 2 * half))


class Denoiser(nn.Module):
    """A transformer over the steps of a noisy chunk, told the time and what was seen."""

    def __init__(
        self, condition: int, horizon: int, actions: int, width: int, layers: int, heads: int
    ):
        super().__init__()
        self.width = width
        self.condition = nn.Linear(condition, width)
        self.action_in = nn.Linear(actions, width)
        self.place = nn.Parameter(torch.randn(horizon + 1, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.action_out = nn.Linear(width, actions)

    def forward(
        self, condition: torch.Tensor, chunk: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """[N, H, A] of condition [N, G], noisy chunk [N, H, A] and times [N] in 0 to 1."""
        chunk = chunk.to(self.place.dtype)
        waves = time_waves(times, self.width)
        time = self.time(waves.to(chunk.dtype))
        seen = self.condition(condition) + time  # [N, D]
        steps = self.action_in(chunk) + time[:, None]  # [N, H, D]
        tokens = torch.cat([seen[:, None], steps], 1) + self.place
        return self.action_out(self.norm(self.layers(tokens)[:, 1:]))


def flow_losses(
    velocity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    actions: torch.Tensor,
    valid: torch.Tensor,
    config: FlowMatchingConfig,
    generator: torch.Generator | None,
    used: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Squared error of velocity(points, times) on the way from noise to actions [N, H, A]."""
    noise = draw_noise(actions.shape, config, generator).to(actions)
    times = sample_times(len(actions), config, generator).to(actions)
    points, target = interpolate(noise, actions, times, config)
    errors = (velocity(only_used(points, used), times).float() - target) ** 2
    return {"action": mean_of_valid(errors, valid, used)}


class Flow(ChunkOutput):
    """Flow matching (RoboVLMs, section III.C; see vla.policies.heads.flow_matching)."""

    def __init__(self, denoiser: Denoiser, shape: tuple[int, int], config: FlowMatchingConfig):
        """shape: [H, A] of a chunk."""
        super().__init__()
        self.denoiser, self.shape, self.config = denoiser, shape, config

    def losses(
        self,
        hidden: torch.Tensor,
        actions: torch.Tensor,
        valid: torch.Tensor,
        samples: int = 1,
        generator: torch.Generator | None = None,
        used: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Squared error of the velocity. samples: draws per chunk. generator: of them, on CPU."""
        hidden, actions, valid = (x.repeat_interleave(samples, 0) for x in (hidden, actions, valid))
        used = None if used is None else used.repeat_interleave(samples, 0)
        return flow_losses(
            lambda x, t: self.denoiser(hidden, x, t), actions, valid, self.config, generator, used
        )

    def draw(self, count: int, generator: Draws = None) -> torch.Tensor:
        """As the configuration says."""
        return draw_noise((count, *self.shape), self.config, generator)

    def from_noise(
        self, hidden: torch.Tensor, noise: torch.Tensor | None, used: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Chunks [N, H, A], by Euler integration."""
        assert noise is not None
        return integrate(
            lambda x, t: only_used(self.denoiser(hidden, x, t), used),
            only_used(noise, used),
            self.config.steps,
        )


class Diffusion(ChunkOutput):
    """Denoising diffusion (DDPM, arXiv 2006.11239) with a cosine schedule (arXiv 2102.09672)."""

    alphas: torch.Tensor

    def __init__(
        self, denoiser: Denoiser, shape: tuple[int, int], schedule_steps: int, sample_steps: int
    ):
        """shape: [H, A] of a chunk."""
        super().__init__()
        self.denoiser, self.shape = denoiser, shape
        self.sample_steps = min(sample_steps, schedule_steps)
        times = torch.arange(schedule_steps + 1, dtype=torch.float64) / schedule_steps
        kept = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
        decay = (kept[1:] / kept[:-1]).clamp(min=0.001)
        # [T]: how much of the chunk is left after each step; made from the configuration.
        self.register_buffer("alphas", decay.cumprod(0).float(), persistent=False)

    def losses(
        self,
        hidden: torch.Tensor,
        actions: torch.Tensor,
        valid: torch.Tensor,
        samples: int = 1,
        generator: torch.Generator | None = None,
        used: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Squared error of the noise. samples: draws per chunk. generator: theirs, on the CPU."""
        hidden, actions, valid = (x.repeat_interleave(samples, 0) for x in (hidden, actions, valid))
        noise = torch.randn(actions.shape, generator=generator).to(actions)
        steps = torch.randint(len(self.alphas), (len(actions),), generator=generator)
        kept = self.alphas[steps.to(self.alphas.device)].to(actions)[:, None, None]
        points = kept.sqrt() * actions + (1 - kept).sqrt() * noise
        times = (steps / len(self.alphas)).to(actions)
        used = None if used is None else used.repeat_interleave(samples, 0)
        errors = (self.denoiser(hidden, only_used(points, used), times).float() - noise) ** 2
        return {"action": mean_of_valid(errors, valid, used)}

    def draw(self, count: int, generator: Draws = None) -> torch.Tensor:
        """Of a normal distribution."""
        return draw_rows(torch.randn, (count, *self.shape), generator)

    def from_noise(
        self, hidden: torch.Tensor, noise: torch.Tensor | None, used: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Chunks [N, H, A], by DDIM (arXiv 2010.02502) without noise in between."""
        assert noise is not None
        x = only_used(noise, used)
        steps = torch.linspace(len(self.alphas) - 1, 0, self.sample_steps).round().long().tolist()
        for index, step in enumerate(steps):
            kept = self.alphas[step].to(x)
            time = x.new_full((len(x),), step / len(self.alphas))
            noise = only_used(self.denoiser(hidden, x, time), used)
            clean = ((x - (1 - kept).sqrt() * noise) / kept.sqrt()).clamp(-CLIP, CLIP)
            if index + 1 == len(steps):
                return clean
            noise = (x - kept.sqrt() * clean) / (1 - kept).sqrt()
            kept = self.alphas[steps[index + 1]].to(x)
            x = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        return x
