"""Eagle 2: SigLIP, pixel shuffle, an MLP connector, Qwen2.

Its released code is not part of transformers. What it composes is: InternVL's composition with
another vision transformer, whose patches are merged in the same order.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
)

from vla.policies.backbones.base import CHATML, QWEN_OPENING, Backbone
from vla.policies.backbones.sizes import tiny_backbone, tiny_text, tiny_vision
from vla.policies.config import BackboneConfig


class Eagle(Backbone):
    """Eagle 2 with one tile per image (InstructVLA, section 3.1).

    Its architecture is {"vision_config": of SigLIP, "text_config": of Qwen2}.
    """

    SOURCE = "nvidia/Eagle2-2B"
    chat = replace(CHATML, opening=QWEN_OPENING, image_start="<img>", image_end="</img>\n")
    text_type = "qwen2"

    @classmethod
    def tiny(cls) -> BackboneConfig:
        """16 patches, shuffled into 4 tokens."""
        tiny = tiny_backbone(
            "eagle", image_tokens=4, vision_config=tiny_vision(), text_config=tiny_text()
        )
        return replace(tiny, chat=cls.chat)

    @classmethod
    def merged(cls, config: PreTrainedConfig) -> int:
        """How many patches along a side become one token, of released weights."""
        return 2

    def make(self, config: BackboneConfig) -> PreTrainedModel:
        """The model with random weights: SigLIP's last block, normalised, without pooling."""
        # A copy: transformers changes the values that it is given.
        values = deepcopy(config.architecture)
        text = Qwen2Config(**{"tie_word_embeddings": True} | values["text_config"])
        return InternVLForConditionalGeneration(
            InternVLConfig(
                vision_config=SiglipVisionConfig(vision_use_head=False, **values["vision_config"]),
                text_config=text,
                # SigLIP has no class token to drop.
                vision_feature_select_strategy="full",
                tie_word_embeddings=text.tie_word_embeddings,
            )
        )
