"""A chunk of the action expert as one module, to be computed by another runtime than torch."""

from __future__ import annotations

import torch
from torch import nn

from vla.policies.heads.flow_matching import integrate
from vla.policies.instructvla.action_expert import ActionExpert


class ExpertChunk(nn.Module):
    """Context and all integration steps: from what is seen and noise to normalised actions."""

    def __init__(self, expert: ActionExpert, steps: int):
        super().__init__()
        self.expert, self.steps = expert, steps

    def forward(
        self, images: torch.Tensor, latent: torch.Tensor, state: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Actions [1, H, A] of images uint8 [1, C, 3, H, W], latent [1, Q, L] and state [1, S]."""
        context = self.expert.encode_context(images, latent, state)
        return integrate(
            lambda x, times: self.expert.velocity(context, x, times), noise, self.steps
        )
