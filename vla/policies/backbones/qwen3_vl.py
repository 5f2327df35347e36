"""Qwen3-VL: a vision transformer whose inner blocks speak to the first layers of Qwen3, too."""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import DynamicCache, PreTrainedConfig

from vla.policies.backbones.base import CHATML, Images, tiny_text
from vla.policies.backbones.qwen2_5_vl import Qwen25VL, side_tokens
from vla.policies.config import BackboneConfig

# It takes images of any size; this one gives 16 x 16 tokens.
IMAGE_SIZE = 512


class Qwen3VL(Qwen25VL):
    """Qwen3-VL on square images of one size.

    Features of inner vision blocks are added to the image tokens behind the first layers
    (DeepStack, arXiv 2406.04334). They follow the image token's own: F = (1 + layers) D.
    """

    SOURCE = "Qwen/Qwen3-VL-4B-Instruct"
    model_types = ("qwen3_vl",)
    chat = replace(CHATML, image_start="<|vision_start|>", image_end="<|vision_end|>")
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)

    @classmethod
    def tiny(cls) -> BackboneConfig:
        """12 x 12 patches, merged into 36 tokens; the first vision block speaks to a layer, too."""
        architecture = {
            "vision_config": {
                "depth": 2,
                "hidden_size": 24,
                "intermediate_size": 32,
                "num_heads": 2,
                "patch_size": 4,
                "out_hidden_size": 32,
                "num_position_embeddings": 36,
                "deepstack_visual_indexes": [0],
                "initializer_range": 0.3,
            },
            "text_config": tiny_text(
                head_dim=8, rope_parameters={"rope_type": "default", "mrope_section": [2, 1, 1]}
            ),
            "image_token_id": 1,
            "video_token_id": 2,
            "vision_start_token_id": 3,
            "vision_end_token_id": 4,
        }
        return BackboneConfig("qwen3_vl", "", architecture, 32, 320, 48, image_tokens=36)

    @classmethod
    def image_shape(cls, config: PreTrainedConfig) -> tuple[int, int]:
        """Side of its square input [px], and tokens of one image, of released weights."""
        return IMAGE_SIZE, side_tokens(config, IMAGE_SIZE) ** 2

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Image tokens, and what goes to the first layers [B, I, F] of images [B, 3, S, S]."""
        found = self.model.model.get_image_features(*self.patches(pixels))
        levels = [found.pooler_output, *found.deepstack_features]
        return torch.cat([torch.stack(level) for level in levels], dim=-1)

    def decode(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: DynamicCache | None,
        prefix: torch.Tensor | None,
        images: Images | None,
    ) -> torch.Tensor:
        """Final hidden states of one pass through the language model; arguments as for run."""
        places = levels = None
        if images is not None:
            places = images.places
            _, *levels = images.features.flatten(0, 1).split(embeddings.shape[-1], dim=-1)
        return self.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            visual_pos_masks=places,
            deepstack_visual_embeds=levels,
        ).last_hidden_state
