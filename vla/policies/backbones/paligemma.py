"""PaliGemma: SigLIP, a linear connector, Gemma, which sees image and question both ways."""

from __future__ import annotations

import torch

from vla.policies.backbones.base import Backbone, DecoderPass
from vla.policies.backbones.sizes import tiny_backbone, tiny_text, tiny_vision
from vla.policies.config import BackboneConfig, ChatFormat


class PaliGemma(Backbone):
    """PaliGemma and PaliGemma 2."""

    SOURCE = "google/paligemma2-3b-pt-224"
    model_types = ("paligemma",)
    chat = ChatFormat(
        user="",
        question="<bos>",
        user_end="\n",
        assistant="",
        end="<eos>",
        plain_words=False,
    )

    @classmethod
    def tiny(cls) -> BackboneConfig:
        """PaliGemma 2, with a sliding window in one of its layers."""
        return tiny_backbone(
            "paligemma",
            image_tokens=16,
            vision_config=tiny_vision(model_type="siglip_vision_model", vision_use_head=False),
            text_config=tiny_text(
                model_type="gemma2", head_dim=8, query_pre_attn_scalar=8, sliding_window=24
            ),
            projection_dim=32,
            hidden_size=32,
            image_token_index=1,
        )

    def positions(self, is_image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Positions [B, T] of tokens that start a sequence; the first is 1."""
        return super().positions(is_image, mask) + 1

    def decode(self, given: DecoderPass) -> torch.Tensor:
        """Final hidden states [B, T, D] of a pass through the language model."""
        embeddings, mask, prefix = given.embeddings, given.mask, given.prefix
        assert mask is not None
        # [B, queries, keys]. Added to scores rather than boolean: rows of padding see nothing.
        total = mask.shape[1]
        keys = torch.arange(total, device=mask.device)
        queries = keys[total - embeddings.shape[1] :, None]
        seen = (keys <= queries).expand(len(mask), -1, -1)
        near = seen & (queries - keys < (self._window or total))
        if prefix is not None:
            both_ways = (prefix[:, :, None] == prefix[:, None]) & (prefix > 0)[:, None]
            seen, near = seen | both_ways, near | both_ways
        masks = [
            torch.zeros_like(allowed, dtype=embeddings.dtype)
            .masked_fill(~(allowed & mask.bool()[:, None]), torch.finfo(embeddings.dtype).min)
            .unsqueeze(1)
            for allowed in (seen, near)
        ]
        by_layer = {"full_attention": masks[0], "sliding_attention": masks[1]}
        seen_by = {"attention_mask": by_layer if self._window else masks[0]}
        return self.language_model(**given.arguments() | seen_by).last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [..., vocabulary] of hidden states [..., D]."""
        scores = super().logits(hidden)
        cap = getattr(self.language_model.config, "final_logit_softcapping", None)
        return scores if cap is None else cap * torch.tanh(scores / cap)

    @property
    def _window(self) -> int | None:
        return getattr(self.language_model.config, "sliding_window", None)
