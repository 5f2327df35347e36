"""Idefics: CLIP, a perceiver, a Llama that attends to images by gated layers (Flamingo)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from vla.policies.backbones.base import CLIP_MEAN, CLIP_STD, Backbone, DecoderPass, Images
from vla.policies.backbones.sizes import tiny_backbone, tiny_text, tiny_vision
from vla.policies.backbones.smolvlm import SmolVLM
from vla.policies.config import BackboneConfig


class Idefics(Backbone):
    """Idefics, an open Flamingo (arXiv 2306.16527, 2204.14198).

    Images are no tokens. Each stands in the text by the one tag <image>, as its released weights
    read it, and every token attends to the images of its row whose tags it does not precede.
    """

    SOURCE = "HuggingFaceM4/idefics-9b-instruct"
    model_types = ("idefics",)
    attends = True
    chat = replace(SmolVLM.chat, opening="<s>", image_start="<fake_token_around_image>")
    image_mean, image_std = CLIP_MEAN, CLIP_STD

    @classmethod
    def tiny(cls) -> BackboneConfig:
        """17 vision tokens into 4, to which the first of two layers attends by an open gate."""
        vision = tiny_vision()
        vision["embed_dim"] = vision.pop("hidden_size")
        perceiver = {
            "use_resampler": True,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
        }
        text = tiny_text(vocab_size=318, additional_vocab_size=2)
        text.pop("num_key_value_heads")
        architecture = text | {
            "vision_config": vision,
            "perceiver_config": perceiver,
            "use_resampler": True,
            "cross_layer_interval": 2,
            # Zero, as published, would leave images without any effect.
            "alpha_initializer": "ones",
            "qk_layer_norms": True,
            "tie_word_embeddings": False,
        }
        return tiny_backbone("idefics", image_tokens=1, **architecture)

    @classmethod
    def image_shape(cls, config: PreTrainedConfig) -> tuple[int, int]:
        """Side of its square input [px], and an image's places in the sequence."""
        return config.vision_config.image_size, 1

    @classmethod
    def vocabulary(cls, config: PreTrainedConfig) -> int:
        """Rows of the vocabulary, with those that were added for images."""
        return config.vocab_size + config.additional_vocab_size

    def make(self, config: BackboneConfig) -> PreTrainedModel:
        """The model with random weights; which of them are trained is not its configuration's."""
        return super().make(config).requires_grad_(True)

    @property
    def embedding_shape(self) -> tuple[int, int]:
        """Rows of the vocabulary, with those that were added, and their width D."""
        return self.vocabulary(self.model.config), self.model.config.hidden_size

    @property
    def language_model(self) -> nn.Module:
        """The decoder without the gated layers; `decode` runs it."""
        model = self.model.model
        return nn.ModuleDict(
            {"embed_tokens": model.embed_tokens, "layers": model.layers, "norm": model.norm}
        )

    @property
    def stacks(self) -> dict[nn.Module, int]:
        """The decoder's layers, and those between them that attend to images."""
        model = self.model.model
        return {
            model.layers: 1,
            model.gated_cross_attn_layers: self.model.config.cross_layer_interval,
        }

    @property
    def vision_parts(self) -> dict[str, nn.Module]:
        """The vision encoder; the perceiver and the layers that attend to images."""
        model = self.model.model
        perceiver = [model.perceiver_resampler] if self.model.config.use_resampler else []
        return {
            "vision encoder": model.vision_model,
            "connector": nn.ModuleList([*perceiver, model.gated_cross_attn_layers]),
        }

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What layers attend to [B, I, F] of standardised images [B, 3, S, S]."""
        model = self.model.model
        features = model.vision_model(pixel_values=pixels).last_hidden_state
        return model.perceiver_resampler(features) if self.model.config.use_resampler else features

    def place(self, embeddings: torch.Tensor, images: Images) -> torch.Tensor:
        """Embeddings [B, T, D] with the tag <image> at the images' places."""
        config = self.model.config
        # The second row that was added to Llama's, behind <fake_token_around_image>.
        tag = config.vocab_size + 1 if config.additional_vocab_size > 1 else config.vocab_size - 1
        row = self.embed_text(torch.tensor([tag], device=embeddings.device))
        return torch.where(images.places[..., None], row.to(embeddings.dtype), embeddings)

    def decode(self, given: DecoderPass) -> torch.Tensor:
        """Final hidden states [B, T, D] of a pass through the language model."""
        media, seen = self._media(given)
        part = "perceiver" if self.model.config.use_resampler else "image_encoder"
        attended: dict[str, Any] = {f"{part}_embeddings": media, "image_attention_mask": seen}
        return self.model.model(**given.arguments(), **attended).last_hidden_state

    def _media(self, given: DecoderPass) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [B, M, I, F] of each row's images, and which tokens see them [B, T, M]."""
        embeddings, mask, images = given.embeddings, given.mask, given.images
        assert mask is not None
        rows, length = embeddings.shape[:2]
        if images is None:
            media = embeddings.new_zeros(rows, 1, 1, self.model.config.vision_config.embed_dim)
            return media, mask.new_zeros(rows, length, 1)
        # A cache holds the images' rows from their first token on.
        later = mask.shape[1] - images.places.shape[1]
        before = nn.functional.pad(images.places, (0, later)).cumsum(dim=-1)  # [B, past + T]
        # At least one, for a blank image that has no place.
        numbers = torch.arange(max(1, int(before.max())), device=mask.device)
        present = numbers < before[:, -1:]  # [B, M]
        media = images.features.new_zeros(*present.shape, *images.features.shape[1:])
        media[present] = images.features
        return media, (numbers < before[:, -length:, None]).to(mask.dtype)
