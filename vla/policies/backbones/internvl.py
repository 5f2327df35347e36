"""InternVL: a vision transformer, pixel shuffle, an MLP connector, Qwen2."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedConfig

from vla.policies.backbones.base import CHATML, Backbone, tiny_text, tiny_vision
from vla.policies.config import BackboneConfig


class InternVL(Backbone):
    """InternVL 2.5, 3 and 3.5 in their transformers form, one tile per image."""

    SOURCE = "OpenGVLab/InternVL3-1B-hf"
    model_types = ("internvl",)
    chat = replace(CHATML, image_start="<img>", image_end="</img>\n")
    image_mean = (0.485, 0.456, 0.406)
    image_std = (0.229, 0.224, 0.225)

    @classmethod
    def tiny(cls) -> BackboneConfig:
        """16 patches, shuffled into 4 tokens."""
        architecture = {
            "vision_config": tiny_vision(),
            "text_config": tiny_text(model_type="qwen2"),
            "image_token_id": 1,
            "image_seq_length": 4,
        }
        return BackboneConfig("internvl", "", architecture, 32, 320, 28, image_tokens=4)

    @classmethod
    def image_shape(cls, config: PreTrainedConfig) -> tuple[int, int]:
        """Side of its square input [px], and tokens of one image, of released weights."""
        vision = config.vision_config
        side = vision.image_size[0]
        return side, int(side // vision.patch_size[0] * config.downsample_ratio) ** 2
