"""InstructVLA: a vision-language model whose action queries steer an action expert."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from vla.datasets.grounding import grounding_loss
from vla.policies.config import FlowMatchingConfig
from vla.policies.heads.flow_matching import (
    Draws,
    draw_noise,
    integrate,
    interpolate,
    sample_times,
)
from vla.policies.images import blank
from vla.policies.instructvla.action_expert import ActionExpert, repeat_context
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.naming import NamedCells
from vla.policies.instructvla.reasoning import ReasoningModel
from vla.policies.real_time_chunking import Inpainting, guided_integrate
from vla.policies.sequence import TextBatch, on_device


@dataclass
class ActingRows:
    """The targets of the A rows with action queries, in their order."""

    # uint8 [V, C, 3, H, W], of the V rows that see; or of none, see InstructVLABatch.with_blank.
    expert_images: torch.Tensor
    state: torch.Tensor  # [A, S], normalised
    actions: torch.Tensor  # [A, H, D], normalised
    # [V, C, E, 2]: pixels where the expert's images show the gripper's next actions, NaN where they
    # do not; None where that is not to be learned.
    places: torch.Tensor | None = None
    seen: torch.Tensor | None = None  # bool [A], False for masked rows; None where all see

    def to(self, device: str | torch.device) -> ActingRows:
        """The same on another device."""
        return on_device(self, device)

    def with_blank(self) -> ActingRows:
        """With black images of no row, which show no places."""
        return replace(self, expert_images=blank(self.expert_images))


@dataclass
class InstructVLABatch:
    """B rows of text with N images among them; some of the rows act."""

    vlm_images: torch.Tensor  # uint8 [N, 3, H, W], in the rows' order
    text: TextBatch
    acting: ActingRows | None = None  # None where no row acts
    named: NamedCells | None = None  # where it is to be learned what image tokens show

    def to(self, device: str | torch.device) -> InstructVLABatch:
        """The batch on another device."""
        return on_device(self, device)

    @property
    def sees(self) -> bool:
        """Whether it has images."""
        return len(self.vlm_images) > 0

    def with_blank(self) -> InstructVLABatch:
        """See vla.policies.collation.SeeingBatch; a blank image for each of the two halves."""
        acting = None if self.acting is None else self.acting.with_blank()
        return replace(self, vlm_images=blank(self.vlm_images), acting=acting)


class InstructVLA(nn.Module):
    """Both parts. state_size, horizon, action_size: of the embodiment contract."""

    def __init__(self, config: InstructVLAConfig, state_size: int, horizon: int, action_size: int):
        super().__init__()
        self.config = config
        self.reasoning = ReasoningModel(config)
        self.expert = ActionExpert(
            config.expert,
            config.backbone.width,
            config.num_queries,
            len(config.expert_cameras),
            state_size,
            horizon,
            action_size,
        )

    def forward(
        self,
        batch: InstructVLABatch,
        flow_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> dict[str, torch.Tensor]:
        """Losses, means over the batch (InstructVLA, section 3.2: the sum of flow and text).

        text: cross-entropy of the answers; text_accuracy: share of their tokens that score highest.
        Where rows act, flow: of flow matching. Where the batch has labels for them, naming: of what
        image tokens show; grounding: of where the gripper acts next. Where rows are masked,
        masked_share: of the rows that act. flow_samples: noise and time draws per chunk. generator:
        of these draws, on the CPU.
        """
        latent, text_loss, accuracy, image_tokens = self.reasoning(batch.vlm_images, batch.text)
        losses = {"text": text_loss, "text_accuracy": accuracy}
        if batch.named is not None:
            losses["naming"] = self.reasoning.naming_loss(
                image_tokens, batch.named.words, batch.named.labels
            )
        rows = batch.acting
        if rows is None:
            return losses
        context, scores = self.expert.encode_context_and_places(
            rows.expert_images, latent.to(rows.state.dtype), rows.state, rows.seen
        )
        if rows.seen is not None:
            losses["masked_share"] = 1.0 - rows.seen.float().mean()
        context = repeat_context(context, flow_samples)
        actions = rows.actions.repeat_interleave(flow_samples, 0)
        noise = draw_noise(actions.shape, self.config.flow, generator)
        times = sample_times(len(actions), self.config.flow, generator)
        noise, times = noise.to(actions.device), times.to(actions.device)
        points, velocity = interpolate(noise, actions, times, self.config.flow)
        losses["flow"] = F.mse_loss(self.expert.velocity(context, points, times).float(), velocity)
        if rows.places is not None and scores is not None:
            with torch.autocast(scores.device.type, enabled=False):
                size = rows.expert_images.shape[-1]
                losses["grounding"] = grounding_loss(scores, rows.places, size)
        return losses


@torch.no_grad()
def sample_actions(
    expert: ActionExpert,
    images: torch.Tensor,
    latent: torch.Tensor,
    state: torch.Tensor,
    flow: FlowMatchingConfig,
    generator: Draws = None,
    inpainting: Inpainting | None = None,
) -> torch.Tensor:
    """Normalised action chunks [B, H, A]: Euler integration on one context per chunk.

    images: uint8 [B, C, 3, H, W], or [0, C, 3, H, W] to act without vision.
    inpainting: guides the chunks, for real-time chunking.
    """
    shape = (len(latent), expert.horizon, expert.action_size)
    noise = draw_noise(shape, flow, generator).to(images.device)
    return actions_from_noise(expert, images, latent, state, noise, flow.steps, inpainting)


@torch.no_grad()
def actions_from_noise(
    expert: ActionExpert,
    images: torch.Tensor,
    latent: torch.Tensor,
    state: torch.Tensor,
    noise: torch.Tensor,
    steps: int,
    inpainting: Inpainting | None = None,
) -> torch.Tensor:
    """As sample_actions, of noise [B, H, A] in so many steps; nothing is drawn."""
    context = expert.encode_context(images, latent, state)
    context.gates = expert.joined_gates()

    def velocity(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return expert.velocity(context, x, times)

    if inpainting is None:
        return integrate(velocity, noise, steps)
    return guided_integrate(velocity, noise, steps, inpainting)
