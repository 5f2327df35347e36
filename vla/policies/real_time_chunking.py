"""Real-time chunking: a new chunk that continues the current one (arXiv 2506.07339).

While the model computes, the arm follows the chunk before. The first `committed` steps of the new
chunk are over, or decided, when it arrives: they are frozen to what the arm does then. The
following steps are guided towards the old chunk, less and less (a soft mask), so that the new chunk
keeps its strategy, and the last steps are free. This is inpainting: in each integration step the
flow is corrected by the gradient of the masked difference (the paper's equations 2 to 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Inpainting:
    """What guides a new chunk."""

    actions: torch.Tensor  # [B, H, A], normalised; steps beyond the old chunk's end do not count
    weights: torch.Tensor  # [B, H], from soft_mask()
    # Bound of the guidance's weight, the paper's beta; a tensor where one pass serves any.
    max_guidance: float | torch.Tensor = 5.0


def soft_mask(horizon: int, committed: int, covered: int) -> torch.Tensor:
    """How strongly the old chunk guides each step of a new one, [H], the paper's equation 5.

    committed: steps that are decided, weight 1. covered: steps that the old chunk reaches, after
    which the weight is 0; in between it falls exponentially. committed beyond covered is cut.
    """
    committed = min(committed, covered)
    steps = torch.arange(horizon, dtype=torch.float32)
    left = (covered - steps) / (covered - committed + 1)
    decaying = left * (torch.exp(left) - 1) / (torch.e - 1)
    weights = torch.where(steps < committed, torch.ones(horizon), decaying)
    return torch.where(steps < covered, weights, torch.zeros(horizon))


def guided_integrate(
    velocity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    noise: torch.Tensor,
    steps: int,
    inpainting: Inpainting,
) -> torch.Tensor:
    """Euler integration from noise [B, H, A], time 0, to actions, time 1, guided to an old chunk.

    velocity: differentiable; see flow_matching.integrate() for the same without guidance.
    """
    x = noise
    weights = inpainting.weights[:, :, None].to(x)
    wanted = inpainting.actions.to(x)
    for step in range(steps):
        now = step / steps
        times = torch.full((len(x),), now, device=x.device, dtype=x.dtype)

        def ending(
            start: torch.Tensor, now: float = now, times: torch.Tensor = times
        ) -> tuple[torch.Tensor, torch.Tensor]:
            """Where the flow would end if it went on straight from here, and its velocity."""
            speed = velocity(start, times)
            return start + (1.0 - now) * speed, speed

        final, pull_back, speed = torch.func.vjp(ending, x, has_aux=True)  # type: ignore[misc]
        (gradient,) = pull_back((wanted - final) * weights)
        x = x + (speed + guidance_weight(now, inpainting.max_guidance) * gradient) / steps
    return x


def guidance_weight(now: float, largest: float | torch.Tensor) -> float | torch.Tensor:
    """The weight of the guidance at a time in 0..1 of the flow, cut to `largest`.

    (1 - t) / (t r^2) with r^2 = (1 - t)^2 / (t^2 + (1 - t)^2), the variance of the final actions.
    """
    if now <= 0.0:
        return largest
    weight = (now**2 + (1.0 - now) ** 2) / (now * (1.0 - now))
    return largest.clamp(max=weight) if isinstance(largest, torch.Tensor) else min(largest, weight)
