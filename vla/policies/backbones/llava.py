"""LLaVA: CLIP, a two-layer connector, Vicuna."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig

from vla.policies.backbones.base import CLIP_MEAN, CLIP_STD, Backbone
from vla.policies.backbones.sizes import tiny_backbone, tiny_text, tiny_vision
from vla.policies.config import BackboneConfig, ChatFormat


class Llava(Backbone):
    """LLaVA 1.5 and what else `transformers` has as `llava`: one square image, no tiles."""

    SOURCE = "llava-hf/llava-1.5-7b-hf"
    model_types = ("llava",)
    chat = ChatFormat(
        opening="<s>",
        user="USER: ",
        image_end="\n",
        user_end=" ",
        assistant="ASSISTANT:",
        end="</s>",
        plain_words=False,
    )
    image_mean, image_std = CLIP_MEAN, CLIP_STD

    @classmethod
    def tiny(cls) -> BackboneConfig:
        """16 tokens of the last block but one, without CLIP's class token."""
        return tiny_backbone(
            "llava",
            image_tokens=16,
            vision_config=tiny_vision(model_type="clip_vision_model"),
            text_config=tiny_text(model_type="llama"),
            image_token_index=1,
            image_seq_length=16,
        )

    @classmethod
    def image_shape(cls, config: PreTrainedConfig) -> tuple[int, int]:
        """Side of its square input [px], and tokens of one image, of released weights."""
        side, tokens = super().image_shape(config)
        has_class = config.vision_config.model_type == "clip_vision_model"
        if config.vision_feature_select_strategy == "default":
            # Drops the first token, whatever it is.
            return side, tokens - (not has_class)
        return side, tokens + has_class

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Image tokens [B, N, D] of standardised images [B, 3, S, S]."""
        return torch.stack(self.model.model.get_image_features(pixel_values=pixels).pooler_output)
