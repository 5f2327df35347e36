"""The vision-language part: text and latent actions from images and words.

The action queries are separate rows beside the backbone's vocabulary, at the input and at the
output, so older rows stay unchanged, without gradients or optimiser state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from vla.policies.backbones import Images, TokenCache, build_backbone
from vla.policies.images import fit_images
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.sequence import IGNORE, IMAGE, TextBatch

# Of products of image tokens and word embeddings, before they are scores.
NAMING_SCALE = 5.0


@dataclass
class PrefillState:
    """What the model has read and generated so far, for B rows."""

    cache: TokenCache
    mask: torch.Tensor  # [B, L]: 1 on tokens
    position: torch.Tensor  # [B]: of each row's next token
    hidden: torch.Tensor  # [B, D]: final hidden state of each row's last token


class ReasoningModel(nn.Module):
    """A backbone with action queries."""

    def __init__(self, config: InstructVLAConfig):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.lora)
        width = config.backbone.width
        self.query_embedding = nn.Parameter(torch.randn(config.num_queries, width) * 0.02)
        self.query_output = nn.Parameter(torch.randn(config.num_queries, width) * 0.02)

    @torch.no_grad()
    def start_queries(self) -> None:
        """Scales new action queries to the backbone's own rows, at input and output."""
        rows = self.backbone.head.weight
        ids = torch.arange(min(len(rows), 4096), device=rows.device)
        self.query_embedding.normal_(0.0, float(self.backbone.embed_text(ids).float().std()))
        self.query_output.normal_(0.0, float(rows.float().std()))

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, T, D] of text and action queries, from the vocabulary's size on.

        What stands at IMAGE is replaced by `Backbone.run`.
        """
        vocabulary = self.config.backbone.vocabulary
        is_query, is_image = ids >= vocabulary, ids == IMAGE
        embeddings = self.backbone.embed_text(ids.masked_fill(is_query | is_image, 0))
        queries = self.query_embedding[(ids - vocabulary).clamp(min=0)].to(embeddings.dtype)
        return torch.where(is_query[..., None], queries, embeddings)

    def see(self, images: torch.Tensor, ids: torch.Tensor) -> Images | None:
        """Images [N, 3, H, W] at their places in ids [B, T]; None without any."""
        if not len(images):
            return None
        images = fit_images(images, self.config.backbone.image_size)
        return Images(self.backbone.encode_images(images), ids == IMAGE)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [..., vocabulary + Q] of hidden states."""
        queries = hidden @ self.query_output.T.to(hidden.dtype)
        return torch.cat([self.backbone.logits(hidden), queries], dim=-1)

    def forward(
        self, images: torch.Tensor, text: TextBatch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Training pass on uint8 images [N, 3, H, W] and text that is padded on the right.

        Returns the latent actions [A, Q, D] of the A rows with queries, the mean cross-entropy and
        accuracy of the labels, whose scores alone are computed, and the image tokens [N, I, D],
        N = 0 without images.
        """
        embeddings, seen = self.embed(text.ids), self.see(images, text.ids)
        width = embeddings.shape[-1]
        image_tokens = embeddings[:0] if seen is None else seen.features[..., :width]
        if (allowed := text.seen) is None:
            positions = self.backbone.positions(text.ids == IMAGE, text.mask)
            mask = self.backbone.mask_of(text.mask)
        else:
            positions, mask = allowed.sum(dim=-1) - 1, allowed[:, None]
        hidden = self.backbone.run(embeddings, positions, mask, prefix=text.prefix, images=seen)
        targets = text.labels[:, 1:]
        wanted = targets != IGNORE
        scores, targets = self.logits(hidden[:, :-1][wanted]).float(), targets[wanted]
        loss = F.cross_entropy(scores, targets)
        accuracy = (scores.argmax(dim=-1) == targets).float().mean()
        rows = torch.nonzero(text.query_start >= 0).squeeze(1)
        steps = torch.arange(self.config.num_queries, device=hidden.device)
        columns = text.query_start[rows, None] + steps
        return hidden[rows[:, None], columns], loss, accuracy, image_tokens

    def naming_loss(
        self, image_tokens: torch.Tensor, word_ids: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Distance of image tokens [N, I, D] from the embeddings of the words for what they show.

        word_ids [W, L], -1 after each word; labels [N, I, W], 1 where a word fits. A binary
        cross-entropy of scaled products, initialised so that nothing fits (as in SigLIP, arXiv
        2303.15343), with equal weight on what fits and what does not.
        """
        known = word_ids >= 0
        embedded = self.backbone.embed_text(word_ids.clamp(min=0)) * known[..., None]
        words = embedded.sum(dim=1) / known.sum(dim=1, keepdim=True)  # [W, D]
        scores = NAMING_SCALE * (image_tokens.float() @ words.float().T) - NAMING_SCALE
        losses = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
        fits, total = labels.sum().clamp(min=1), labels.numel()
        return (losses * torch.where(labels > 0, total / (2 * fits), 0.5)).mean()

    @torch.no_grad()
    def read(
        self,
        images: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        prefix: torch.Tensor | None = None,
    ) -> PrefillState:
        """Reads prompts [B, T] that are padded on the left, with their images [N, 3, H, W].

        prefix [B, T]: True before the first answer; all of the prompt if not given.
        """
        cache = self.backbone.new_cache()
        positions = self.backbone.positions(ids == IMAGE, mask)
        prefix = mask.bool() if prefix is None else prefix
        hidden = self.backbone.run(
            self.embed(ids), positions, mask, cache, prefix, self.see(images, ids)
        )
        # Some models count positions along several axes, [3, B, T].
        last = positions.amax(dim=-1)
        last = last.amax(dim=0) if last.ndim == 2 else last
        return PrefillState(cache, mask, last + 1, hidden[:, -1])

    def _extend(
        self, prefill: PrefillState, embeddings: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states [B, T, D] of further tokens; valid [B, T]: 1 where a row has one."""
        prefill.mask = torch.cat([prefill.mask, valid], dim=1)
        positions = prefill.position[:, None] + (valid.cumsum(-1) - 1).clamp(min=0)
        prefill.position = prefill.position + valid.sum(dim=1)
        return self.backbone.run(
            embeddings, self.backbone.text_positions(positions), prefill.mask, prefill.cache
        )

    @torch.no_grad()
    def generate(self, prefill: PrefillState, stop_ids: set[int], limit: int) -> list[list[int]]:
        """Greedy text of each row, up to its first stop token or action query, on the same cache.

        The stop token itself stays outside the cache, so that action queries can follow the text.
        """
        rows = len(prefill.mask)
        generated: list[list[int]] = [[] for _ in range(rows)]
        going = [True] * rows
        for _ in range(limit):
            tokens = self.logits(prefill.hidden).argmax(dim=-1).tolist()
            for row, token in enumerate(tokens):
                ends = token in stop_ids or token >= self.config.backbone.vocabulary
                going[row] = going[row] and not ends
                if going[row]:
                    generated[row].append(token)
            if not any(going):
                break
            device = prefill.mask.device
            valid = torch.tensor(going, device=device)
            ids = torch.tensor(tokens, device=device).masked_fill(~valid, 0)[:, None]
            hidden = self._extend(
                prefill, self.backbone.embed_text(ids), valid[:, None].to(prefill.mask.dtype)
            )
            prefill.hidden = torch.where(valid[:, None], hidden[:, -1], prefill.hidden)
        return generated

    @torch.no_grad()
    def latent_action(self, prefill: PrefillState) -> torch.Tensor:
        """Latent actions [B, Q, D]: all queries in one pass on the cache."""
        rows, queries = len(prefill.mask), self.config.num_queries
        embeddings = self.query_embedding.to(prefill.hidden.dtype).expand(rows, -1, -1)
        return self._extend(prefill, embeddings, prefill.mask.new_ones(rows, queries))

    @torch.no_grad()
    def act(
        self,
        images: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        prefix: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Latent actions [B, Q, D] of prompts [B, T] that end with all queries.

        The prompts are padded on the left. One pass without a cache: fastest where no text is
        generated. prefix [B, T]: True before the first answer; all but the queries if not given.
        """
        positions = self.backbone.positions(ids == IMAGE, mask)
        if prefix is None:
            prefix = mask.bool() & (ids < self.config.backbone.vocabulary)
        hidden = self.backbone.run(
            self.embed(ids), positions, mask, prefix=prefix, images=self.see(images, ids)
        )
        return hidden[:, -self.config.num_queries :]
