"""KosMos-2: CLIP, a resampler into 64 tokens, a text model with sinusoidal positions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from vla.policies.backbones.base import CLIP_MEAN, CLIP_STD, Backbone
from vla.policies.backbones.sizes import tiny_backbone, tiny_vision
from vla.policies.config import BackboneConfig, ChatFormat


class Kosmos2(Backbone):
    """KosMos-2. Its text model scales embeddings itself, those of images and queries too."""

    SOURCE = "microsoft/kosmos-2-patch14-224"
    model_types = ("kosmos-2",)
    chat = ChatFormat(
        opening="<s>",
        user="",
        image_start="<image>",
        image_end="</image>",
        question="Question: ",
        user_end=" ",
        assistant="Answer:",
        end="</s>",
        plain_words=False,
    )
    linear_names: ClassVar[dict[str, str]] = {
        "q": "q_proj",
        "k": "k_proj",
        "v": "v_proj",
        "o": "out_proj",
        "up": "fc1",
        "down": "fc2",
    }
    image_mean, image_std = CLIP_MEAN, CLIP_STD

    @classmethod
    def tiny(cls) -> BackboneConfig:
        """17 vision tokens into 6."""
        text = {
            "vocab_size": 320,
            "embed_dim": 32,
            "layers": 2,
            "ffn_dim": 48,
            "attention_heads": 4,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "init_std": 0.3,
        }
        return tiny_backbone(
            "kosmos2",
            image_tokens=6,
            vision_config=tiny_vision(),
            text_config=text,
            latent_query_num=6,
        )

    @classmethod
    def image_shape(cls, config: PreTrainedConfig) -> tuple[int, int]:
        """Side of its square input [px], and tokens of one image, of released weights."""
        return config.vision_config.image_size, config.latent_query_num

    @property
    def language_model(self) -> nn.Module:
        """The decoder, from embeddings to final hidden states."""
        return self.model.get_submodule("text_model.model")

    @property
    def vision_parts(self) -> dict[str, nn.Module]:
        """The vision encoder and the connector, by these names."""
        return {
            "vision encoder": self.model.get_submodule("vision_model"),
            "connector": self.model.get_submodule("image_to_text_projection"),
        }

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Image tokens [B, N, D] of standardised images [B, 3, S, S]."""
        vision, connector = self.vision_parts.values()
        # All tokens go through the norm that is the class token's elsewhere.
        hidden = vision.get_submodule("model.post_layernorm")(
            vision(pixel_values=pixels).last_hidden_state
        )
        return connector(F.normalize(hidden, dim=-1))[0]

    def positions(self, is_image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Positions [B, T] of tokens that start a sequence, behind the row of padding."""
        first = self.model.config.text_config.pad_token_id + 1
        return super().positions(is_image, mask) + first

    def text_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions [B, T] of later text tokens; transformers views them as one row."""
        return positions.contiguous()
