"""Qwen2.5-VL: a vision transformer with windows, Qwen2.5 with positions along three axes."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig

from vla.policies.backbones.base import CHATML, CLIP_MEAN, CLIP_STD, QWEN_OPENING, Backbone
from vla.policies.backbones.sizes import tiny_backbone, tiny_text
from vla.policies.config import BackboneConfig

# What the tiny configurations of Qwen's models have in common: 12 x 12 patches.
TINY_VISION = {
    "depth": 2,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 32,
    "initializer_range": 0.3,
}
TINY_TOKENS = {
    "image_token_id": 1,
    "video_token_id": 2,
    "vision_start_token_id": 3,
    "vision_end_token_id": 4,
}


class Qwen25VL(Backbone):
    """Qwen2.5-VL on square images of one size."""

    SOURCE = "Qwen/Qwen2.5-VL-3B-Instruct"
    model_types = ("qwen2_5_vl",)
    chat = replace(
        CHATML, opening=QWEN_OPENING, image_start="<|vision_start|>", image_end="<|vision_end|>"
    )
    image_mean, image_std = CLIP_MEAN, CLIP_STD
    # It takes images of any size; this one gives 16 x 16 tokens.
    IMAGE_SIZE: ClassVar[int] = 448

    @classmethod
    def tiny(cls) -> BackboneConfig:
        """12 x 12 patches, merged into 36 tokens, with windows in the first block."""
        architecture = {
            "vision_config": TINY_VISION | {"window_size": 16, "fullatt_block_indexes": [1]},
            "text_config": tiny_text(
                rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2]},
                pad_token_id=0,
                bos_token_id=0,
                eos_token_id=0,
            ),
        } | TINY_TOKENS
        return tiny_backbone("qwen2_5_vl", image_tokens=36, image_size=48, **architecture)

    @classmethod
    def image_shape(cls, config: PreTrainedConfig) -> tuple[int, int]:
        """Side of its square input [px], and tokens of one image, of released weights."""
        vision, side = config.vision_config, cls.IMAGE_SIZE
        return side, (side // vision.patch_size // vision.spatial_merge_size) ** 2

    @property
    def vision_parts(self) -> dict[str, nn.Module]:
        """The vision encoder and the connector, which is its last part."""
        visual = self.model.model.visual
        return {"vision encoder": visual, "connector": visual.merger}

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Image tokens [B, N, D] of standardised images [B, 3, S, S]."""
        found = self.model.model.get_image_features(*self.patches(pixels))
        return torch.stack(found.pooler_output)

    def patches(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches [P, V] of images [B, 3, S, S], and the grid [B, 3] of each, as it takes them."""
        vision = self.model.config.vision_config
        patch, merge = vision.patch_size, vision.spatial_merge_size
        batch, side = len(pixels), pixels.shape[-1] // patch
        # Patches that become one token follow each other; an image is a film of equal frames.
        cells = pixels.reshape(batch, 3, side // merge, merge, patch, side // merge, merge, patch)
        cells = cells.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
        frames = cells.expand(*cells.shape[:6], vision.temporal_patch_size, patch, patch)
        grid = torch.tensor([[1, side, side]], device=pixels.device).expand(batch, 3)
        return frames.reshape(batch * side * side, -1), grid

    def positions(self, is_image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Positions [3, B, T] in time, down and across, of tokens that start a sequence.

        An image's tokens stand side by side in its two axes, and take the room of one side.
        """
        tokens = self.config.image_tokens
        side = int(tokens**0.5)
        place = (is_image.cumsum(-1) - 1) % tokens
        at_end = is_image & (place == tokens - 1)
        steps = torch.where(is_image, at_end * side, mask)
        start = steps.cumsum(-1) - steps
        return torch.stack(
            [start, start + place // side * is_image, start + place % side * is_image]
        )
