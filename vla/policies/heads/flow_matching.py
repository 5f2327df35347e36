"""Flow matching on action chunks: time 0 is noise, time 1 is the chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from vla.policies.config import FlowMatchingConfig

# What a batch's random numbers come from: one generator, or one for each row; None for torch's own.
Draws = torch.Generator | Sequence[torch.Generator] | None


def sample_times(
    count: int, config: FlowMatchingConfig, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Training times [count]: time_scale * (1 - z), z ~ Beta(alpha, beta), cut to the bounds."""
    if config.beta == 1.0:
        drawn = torch.rand(count, generator=generator) ** (1.0 / config.alpha)
    else:
        # NumPy's draws, since torch's take no generator.
        seed = int(torch.randint(2**63 - 1, (1,), generator=generator))
        values = np.random.default_rng(seed).beta(config.alpha, config.beta, count)
        drawn = torch.from_numpy(values).float()
    return (config.time_scale * (1.0 - drawn)).clamp(config.earliest, config.latest)


def draw_noise(
    shape: tuple[int, ...], config: FlowMatchingConfig, generator: Draws = None
) -> torch.Tensor:
    """Noise of a shape, on the generator's device; on the CPU without one."""
    if config.noise == "uniform":
        return 2.0 * draw_rows(torch.rand, shape, generator) - 1.0
    return draw_rows(torch.randn, shape, generator)


def draw_rows(
    draw: Callable[..., torch.Tensor], shape: tuple[int, ...], generator: Draws
) -> torch.Tensor:
    """draw(shape, generator=...); a row gets from its own generator what it would get alone."""
    if isinstance(generator, Sequence):
        return torch.cat([draw_rows(draw, (1, *shape[1:]), own) for own in generator])
    device = None if generator is None else generator.device
    return draw(shape, generator=generator, device=device)


def interpolate(
    noise: torch.Tensor, actions: torch.Tensor, times: torch.Tensor, config: FlowMatchingConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Point on the path and its velocity, both [B, H, A], for times [B]."""
    t = times[:, None, None]
    keep = 1.0 - config.sigma_min
    return (1.0 - keep * t) * noise + t * actions, actions - keep * noise


def integrate(
    velocity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    noise: torch.Tensor,
    steps: int,
) -> torch.Tensor:
    """Euler integration of velocity(x, times) from noise [B, H, A], time 0, to actions, time 1."""
    x = noise
    for step in range(steps):
        times = torch.full((len(x),), step / steps, device=x.device, dtype=x.dtype)
        x = x + velocity(x, times) / steps
    return x
