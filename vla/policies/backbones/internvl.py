"""InternVL: a vision transformer, pixel shuffle, an MLP connector, Qwen2."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig

from vla.policies.backbones.base import CHATML, Backbone
from vla.policies.backbones.sizes import (
    text_sizes,
    tiny_backbone,
    tiny_text,
    tiny_vision,
    vision_sizes,
)
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
        return tiny_backbone(
            "internvl",
            image_tokens=4,
            vision_config=tiny_vision(),
            text_config=tiny_text(model_type="qwen2"),
            image_token_id=1,
            image_seq_length=4,
        )

    @classmethod
    def merged(cls, config: PreTrainedConfig) -> int:
        """How many patches along a side become one token, of released weights."""
        return round(1 / config.downsample_ratio)


def small_internvl(
    image_size: int,
    patch: int,
    vision: tuple[int, int, int, int],
    text: tuple[int, int, int, int, int],
    vocabulary: int,
) -> BackboneConfig:
    """An InternVL composition of any size.

    vision: width, layers, heads, MLP. text: width, layers, heads, key-value heads, MLP.
    """
    tokens = (image_size // patch // 2) ** 2
    architecture: dict[str, Any] = {
        "vision_config": vision_sizes(image_size, patch, vision),
        "text_config": text_sizes(vocabulary, text)
        | {"model_type": "qwen2", "tie_word_embeddings": True},
        "image_token_id": 1,
        "image_seq_length": tokens,
        "tie_word_embeddings": True,
    }
    return BackboneConfig(
        architecture=architecture,
        width=text[0],
        vocabulary=vocabulary,
        image_size=image_size,
        image_tokens=tokens,
    )


# Of the policies that ship: real time on two CPU cores.
NANO = small_internvl(96, 8, (128, 4, 4, 384), (192, 4, 4, 2, 512), 1024)
