"""Qwen3-VL: a vision transformer whose inner blocks speak to the first layers of Qwen3, too."""

from __future__ import annotations

from dataclasses import replace

import torch

from vla.policies.backbones.base import CHATML, DecoderPass
from vla.policies.backbones.qwen2_5_vl import TINY_TOKENS, TINY_VISION, Qwen25VL
from vla.policies.backbones.sizes import tiny_backbone, tiny_text
from vla.policies.config import BackboneConfig


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
    IMAGE_SIZE = 512

    @classmethod
    def tiny(cls) -> BackboneConfig:
        """12 x 12 patches, merged into 36 tokens; the first vision block speaks to a layer, too."""
        architecture = {
            "vision_config": TINY_VISION
            | {"num_position_embeddings": 36, "deepstack_visual_indexes": [0]},
            "text_config": tiny_text(
                head_dim=8, rope_parameters={"rope_type": "default", "mrope_section": [2, 1, 1]}
            ),
        } | TINY_TOKENS
        return tiny_backbone("qwen3_vl", image_tokens=36, image_size=48, **architecture)

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Image tokens, and what goes to the first layers [B, I, F] of images [B, 3, S, S]."""
        found = self.model.model.get_image_features(*self.patches(pixels))
        levels = [found.pooler_output, *found.deepstack_features]
        return torch.cat([torch.stack(level) for level in levels], dim=-1)

    def decode(self, given: DecoderPass) -> torch.Tensor:
        """Final hidden states [B, T, D] of a pass through the language model."""
        places = levels = None
        if given.images is not None:
            places = given.images.places
            # Of a blank image, which has no places, none.
            tokens = given.images.features.flatten(0, 1)[: int(places.sum())]
            _, *levels = tokens.split(self.config.width, dim=-1)
        return self.language_model(
            **given.arguments(), visual_pos_masks=places, deepstack_visual_embeds=levels
        ).last_hidden_state
