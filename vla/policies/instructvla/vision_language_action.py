"""InstructVLA: a vision-language model whose action queries steer an action expert."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import nn
from torch.nn import functional as F

from vla.policies.heads.flow_matching import integrate, interpolate, sample_times
from vla.policies.instructvla.action_expert import ActionExpert, repeat_context
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.reasoning import ReasoningModel
from vla.policies.instructvla.sequence import TextBatch
from vla.policies.real_time_chunking import Inpainting, guided_integrate


@dataclass
class Batch:
    """B rows of text with N images among them; A of the rows act.

    vlm_images uint8 [N, 3, S, S], in the rows' order. For the rows with action queries, in order:
    expert_images uint8 [A, C, 3, S, S], state [A, S] and actions [A, H, D], both normalised; places
    [A, C, E, 2]: pixels where the expert's images show the gripper's next actions, NaN where they
    do not. None of these where no row acts. word_ids [W, L], -1 behind each word, and word_labels
    [N, I, W]: what each image token shows, where that is to be learned.
    """

    vlm_images: torch.Tensor
    text: TextBatch
    expert_images: torch.Tensor | None = None
    state: torch.Tensor | None = None
    actions: torch.Tensor | None = None
    places: torch.Tensor | None = None
    word_ids: torch.Tensor | None = None
    word_labels: torch.Tensor | None = None

    def to(self, device: str | torch.device) -> Batch:
        """The batch on another device."""
        moved = {
            field.name: value.to(device)
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return replace(self, **moved)


@dataclass
class Losses:
    """Means over a batch.

    text: cross-entropy; text_accuracy: share of labels that score highest. flow: None where no row
    acts. place_scores [A, C, K, cells]: the keypoints', where the expert has some.
    naming: of what image tokens show.
    """

    text: torch.Tensor
    text_accuracy: torch.Tensor
    flow: torch.Tensor | None = None
    place_scores: torch.Tensor | None = None
    naming: torch.Tensor | None = None


class InstructVLA(nn.Module):
    """Both halves. state_size, horizon, action_size: of the embodiment contract."""

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
        self, batch: Batch, flow_samples: int = 1, generator: torch.Generator | None = None
    ) -> Losses:
        """Flow-matching loss and cross-entropy (InstructVLA, section 3.2: their sum is trained).

        flow_samples: noise and time draws per chunk. generator: of these draws, on the CPU.
        """
        latent, text_loss, accuracy, image_tokens = self.reasoning(batch.vlm_images, batch.text)
        naming = None
        if batch.word_labels is not None:
            naming = self.reasoning.naming_loss(image_tokens, batch.word_ids, batch.word_labels)
        if batch.actions is None:
            return Losses(text_loss, accuracy, naming=naming)
        context, scores = self.expert.encode_context_and_places(
            batch.expert_images, latent.to(batch.state.dtype), batch.state
        )
        context = repeat_context(context, flow_samples)
        actions = batch.actions.repeat_interleave(flow_samples, 0)
        noise = torch.randn(actions.shape, generator=generator)
        times = sample_times(len(actions), self.config.flow, generator)
        noise, times = noise.to(actions.device), times.to(actions.device)
        points, velocity = interpolate(noise, actions, times, self.config.flow)
        flow_loss = F.mse_loss(self.expert.velocity(context, points, times).float(), velocity)
        return Losses(text_loss, accuracy, flow_loss, scores, naming)


@torch.no_grad()
def sample_actions(
    expert: ActionExpert,
    images: torch.Tensor,
    latent: torch.Tensor,
    state: torch.Tensor,
    steps: int,
    generator: torch.Generator | None = None,
    inpainting: Inpainting | None = None,
) -> torch.Tensor:
    """Normalised action chunks [B, H, A]: Euler integration on one context per chunk.

    inpainting: what the chunks are drawn to, for real-time chunking.
    """
    context = expert.encode_context(images, latent, state)
    shape = (len(images), expert.horizon, expert.action_size)
    noise = torch.randn(shape, generator=generator).to(images.device)

    def velocity(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return expert.velocity(context, x, times)

    if inpainting is None:
        return integrate(velocity, noise, steps)
    return guided_integrate(velocity, noise, steps, inpainting)
