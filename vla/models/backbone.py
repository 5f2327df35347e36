"""The vision-language model: a transformers composition behind four plain functions.

encode_images, embed_text, run and logits are all that the rest of the library asks of a backbone.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    DynamicCache,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
)

from vla.models.config import BackboneConfig, CheckpointError


class Backbone(nn.Module):
    """InternVL (vision transformer, pixel shuffle, MLP connector, Qwen2) of any size."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        if config.kind != "internvl":
            raise CheckpointError(f"unknown backbone '{config.kind}'; known: internvl")
        self.config = config
        self.model = InternVLForConditionalGeneration(
            InternVLConfig(
                vision_config=InternVLVisionConfig(
                    hidden_size=config.vision_width,
                    num_hidden_layers=config.vision_layers,
                    num_attention_heads=config.vision_heads,
                    intermediate_size=config.vision_mlp,
                    image_size=config.image_size,
                    patch_size=config.patch_size,
                ),
                text_config=Qwen2Config(
                    hidden_size=config.text_width,
                    num_hidden_layers=config.text_layers,
                    num_attention_heads=config.text_heads,
                    num_key_value_heads=config.text_key_value_heads,
                    intermediate_size=config.text_mlp,
                    vocab_size=config.vocabulary,
                    tie_word_embeddings=True,
                ),
                image_token_id=1,
                image_seq_length=config.image_tokens,
                tie_word_embeddings=True,
            )
        )

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images [B, 3, S, S] to image tokens [B, N, D] in the language model's space."""
        pixels = images.to(self.model.dtype) / 127.5 - 1.0
        features = self.model.model.get_image_features(pixel_values=pixels)
        return features.pooler_output if hasattr(features, "pooler_output") else features

    def embed_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids [B, T] to embeddings [B, T, D]."""
        return self.model.get_input_embeddings()(ids)

    def run(
        self,
        embeddings: torch.Tensor,
        mask: torch.Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> torch.Tensor:
        """Final hidden states [B, T, D] of embeddings [B, T, D].

        mask [B, past + T], 1 where there is a token. cache: what came before; extended in place.
        """
        return self.model.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [..., vocabulary] of hidden states [..., D]."""
        return self.model.lm_head(hidden)
