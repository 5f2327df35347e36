"""SmolVLM: SigLIP, pixel shuffle, a linear connector, a Llama."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedConfig

from vla.policies.backbones.base import Backbone
from vla.policies.backbones.sizes import tiny_backbone, tiny_text, tiny_vision
from vla.policies.config import BackboneConfig, ChatFormat


class SmolVLM(Backbone):
    """SmolVLM, SmolVLM2 and Idefics3, one image without tiles."""

    SOURCE = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
    model_types = ("smolvlm", "idefics3")
    chat = ChatFormat(
        opening="<|im_start|>",
        user="User:",
        image_start="<fake_token_around_image><global-img>",
        image_end="<fake_token_around_image>",
        user_end="<end_of_utterance>\n",
        assistant="Assistant:",
        answer=" ",
        end="<end_of_utterance>",
        answer_end="\n",
        plain_words=False,
    )

    @classmethod
    def tiny(cls) -> BackboneConfig:
        """16 patches, shuffled into 4 tokens."""
        return tiny_backbone(
            "smolvlm",
            image_tokens=4,
            vision_config=tiny_vision(),
            text_config=tiny_text(model_type="llama"),
            image_token_id=1,
            scale_factor=2,
        )

    @classmethod
    def merged(cls, config: PreTrainedConfig) -> int:
        """How many patches along a side become one token, of released weights."""
        return config.scale_factor

    @property
    def language_model(self) -> nn.Module:
        """The decoder, from embeddings to final hidden states."""
        return self.model.model.text_model

    @property
    def vision_parts(self) -> dict[str, nn.Module]:
        """The vision encoder and the connector, by these names."""
        model = self.model.model
        return {"vision encoder": model.vision_model, "connector": model.connector}

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Image tokens [B, N, D] of standardised images [B, 3, S, S]."""
        # Not by get_image_features, which takes an image of zeros for padding and leaves it out.
        model = self.model.model
        return model.connector(model.vision_model(pixels).last_hidden_state)
