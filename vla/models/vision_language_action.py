"""InstructVLA: a vision-language model whose action queries steer an action expert."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache

from vla.models.action_expert import ActionExpert, repeat_context
from vla.models.backbone import Backbone
from vla.models.config import InstructVLAConfig
from vla.models.flow_matching import integrate, interpolate, sample_times
from vla.models.sequence import IGNORE, TextBatch


class ReasoningModel(nn.Module):
    """The vision-language half: text and latent actions from images and words.

    The action queries are rows of their own beside the backbone's vocabulary, at the input and at
    the output, so older rows stay as they are.
    """

    def __init__(self, config: InstructVLAConfig):
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone)
        width = config.backbone.text_width
        self.query_embedding = nn.Parameter(torch.randn(config.num_queries, width) * 0.02)
        self.query_output = nn.Parameter(torch.randn(config.num_queries, width) * 0.02)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, T, D] of text ids and, from the vocabulary's size on, action queries."""
        vocabulary = self.config.backbone.vocabulary
        is_query = ids >= vocabulary
        text = self.backbone.embed_text(ids.masked_fill(is_query, 0))
        queries = self.query_embedding[(ids - vocabulary).clamp(min=0)]
        return torch.where(is_query[..., None], queries, text)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [..., vocabulary + Q] of hidden states."""
        return torch.cat([self.backbone.logits(hidden), hidden @ self.query_output.T], dim=-1)

    def forward(self, images: torch.Tensor, text: TextBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Training pass. images: uint8 [B, C, 3, S, S].

        Returns the latent actions [A, Q, D] of the A rows with queries, and the mean cross-entropy
        of the labels.
        """
        visual = self._encode(images)  # [B, N, D]
        embeddings = torch.cat([visual, self.embed(text.ids)], dim=1)
        mask = torch.cat([text.mask.new_ones(visual.shape[:2]), text.mask], dim=1)
        hidden = self.backbone.run(embeddings, mask)[:, visual.shape[1] :]  # [B, T, D]
        targets = text.labels[:, 1:]
        wanted = targets != IGNORE
        loss = F.cross_entropy(self.logits(hidden[:, :-1][wanted]), targets[wanted])
        rows = torch.nonzero(text.query_start >= 0).squeeze(1)
        steps = torch.arange(self.config.num_queries, device=hidden.device)
        columns = text.query_start[rows, None] + steps
        return hidden[rows[:, None], columns], loss

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        batch = images.shape[0]
        return self.backbone.encode_images(images.flatten(0, 1)).view(
            batch, -1, self.config.backbone.text_width
        )

    @torch.inference_mode()
    def read(self, images: torch.Tensor, ids: torch.Tensor) -> tuple[DynamicCache, torch.Tensor]:
        """The cache and last hidden state [1, 1, D] of images [1, C, 3, S, S] and prompt [1, T]."""
        cache = DynamicCache()
        embeddings = torch.cat([self._encode(images), self.embed(ids)], dim=1)
        return cache, self.backbone.run(embeddings, cache=cache)[:, -1:]

    @torch.inference_mode()
    def generate(
        self, cache: DynamicCache, hidden: torch.Tensor, stop_ids: set[int], limit: int
    ) -> list[int]:
        """Greedy text after a read, up to the first stop token or action query, on the same cache.

        The stop token itself stays outside the cache, so that action queries can follow the text.
        """
        generated: list[int] = []
        while len(generated) < limit:
            token = int(self.logits(hidden[0, -1]).argmax())
            if token in stop_ids or token >= self.config.backbone.vocabulary:
                break
            generated.append(token)
            ids = torch.tensor([[token]], device=hidden.device)
            hidden = self.backbone.run(self.embed(ids), cache=cache)
        return generated

    @torch.inference_mode()
    def latent_action(self, cache: DynamicCache) -> torch.Tensor:
        """Latent action [1, Q, D]: all queries in one pass on what the cache holds."""
        return self.backbone.run(self.query_embedding[None], cache=cache)


class InstructVLA(nn.Module):
    """Both halves. state_size, horizon, action_size: of the embodiment contract."""

    def __init__(self, config: InstructVLAConfig, state_size: int, horizon: int, action_size: int):
        super().__init__()
        self.config = config
        self.reasoning = ReasoningModel(config)
        self.expert = ActionExpert(
            config.expert,
            config.backbone.text_width,
            config.num_queries,
            len(config.expert_cameras),
            state_size,
            horizon,
            action_size,
        )

    def loss(
        self,
        vlm_images: torch.Tensor,
        text: TextBatch,
        expert_images: torch.Tensor,
        state: torch.Tensor,
        actions: torch.Tensor,
        flow_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Flow-matching loss and cross-entropy (InstructVLA, section 3.2: their sum is trained).

        The A rows of expert_images [A, C, 3, S, S], state [A, S] and actions [A, H, A'] belong to
        the rows of `text` that have queries, in order. flow_samples: noise and time draws per
        chunk. The third result is the keypoints' scores [A, C, K, cells], for a grounding loss.
        """
        latent, text_loss = self.reasoning(vlm_images, text)
        context, scores = self.expert.encode_context_and_places(expert_images, latent, state)
        context = repeat_context(context, flow_samples)
        actions = actions.repeat_interleave(flow_samples, 0)
        noise = torch.randn(actions.shape, generator=generator)
        times = sample_times(len(actions), self.config.flow, generator)
        noise, times = noise.to(actions.device), times.to(actions.device)
        points, velocity = interpolate(noise, actions, times, self.config.flow)
        flow_loss = F.mse_loss(self.expert.velocity(context, points, times), velocity)
        return flow_loss, text_loss, scores


@torch.inference_mode()
def sample_actions(
    expert: ActionExpert,
    images: torch.Tensor,
    latent: torch.Tensor,
    state: torch.Tensor,
    steps: int,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Normalised action chunks [B, H, A]: Euler integration on one context per chunk."""
    context = expert.encode_context(images, latent, state)
    shape = (len(images), expert.horizon, expert.action_size)
    noise = torch.randn(shape, generator=generator).to(images.device)
    return integrate(lambda x, times: expert.velocity(context, x, times), noise, steps)
