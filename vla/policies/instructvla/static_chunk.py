"""An action chunk as one pass: the context, and all steps of the integration."""

from __future__ import annotations

import torch

from vla.policies.compiled import compiled
from vla.policies.instructvla.action_expert import ActionExpert
from vla.policies.instructvla.vision_language_action import actions_from_noise
from vla.policies.real_time_chunking import Inpainting


class StaticChunk:
    """The two kinds of chunks of an action expert, free and guided, in a mode of compilation."""

    def __init__(self, expert: ActionExpert, steps: int, mode: str):
        """steps: of the integration. mode: see vla.policies.compiled."""
        self._expert, self._steps = expert, steps
        self._free, self._guided = compiled(self.free, mode), compiled(self.guided, mode)

    def __call__(
        self,
        images: torch.Tensor,
        latent: torch.Tensor,
        state: torch.Tensor,
        noise: torch.Tensor,
        inpainting: Inpainting | None = None,
    ) -> torch.Tensor:
        """Actions [B, H, A]; see vla.policies.instructvla.vision_language_action.

        Without images, which nodes never ask for, nothing is compiled.
        """
        blind = self._expert.vision is not None and not len(images)
        given = (images, latent, state, noise)
        if inpainting is None:
            return (self.free if blind else self._free)(*given)
        most = torch.full((), float(inpainting.max_guidance), device=noise.device)
        run = self.guided if blind else self._guided
        return run(*given, inpainting.actions, inpainting.weights, most)

    def free(
        self, images: torch.Tensor, latent: torch.Tensor, state: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Actions [B, H, A] of noise [B, H, A]."""
        return actions_from_noise(self._expert, images, latent, state, noise, self._steps)

    def guided(
        self,
        images: torch.Tensor,
        latent: torch.Tensor,
        state: torch.Tensor,
        noise: torch.Tensor,
        wanted: torch.Tensor,
        weights: torch.Tensor,
        most: torch.Tensor,
    ) -> torch.Tensor:
        """Actions [B, H, A] of noise, guided to wanted ones as an Inpainting says."""
        inpainting = Inpainting(wanted, weights, most)
        return actions_from_noise(
            self._expert, images, latent, state, noise, self._steps, inpainting
        )
