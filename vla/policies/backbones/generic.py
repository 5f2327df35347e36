"""A model that has no kind of its own, by the paths of its parts.

It may be a model of transformers, or one with Python code of its own, such as UForm or Qwen-VL,
where that is allowed to run (vla/policies/backbones/remote_code.py).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from vla.core.shown import brief, listed, shown_path
from vla.policies.backbones.base import CHATML, Backbone, DecoderPass
from vla.policies.backbones.remote_code import located, remote_config
from vla.policies.backbones.sizes import tiny_backbone, tiny_text, tiny_vision
from vla.policies.config import BackboneConfig, CheckpointError, LoraConfig, ModelPaths


class Generic(Backbone):
    """A model whose decoder is called with embeddings, positions, a mask and a cache.

    Its image tokens stand in the sequence, and everything attends causally.
    """

    chat = CHATML
    own_code = True

    def __init__(self, config: BackboneConfig, lora: LoraConfig | None = None):
        """Raises CheckpointError for paths that are not there."""
        if config.paths is None:
            raise CheckpointError(
                "backbone: kind generic needs paths, which say where the model keeps its parts; "
                "see docs/backbones.md"
            )
        self.paths: ModelPaths = config.paths
        super().__init__(config, lora)
        for entry in ("vision", "connector", "decoder", "norm"):
            self._part(entry)
        self.head_of(self.model)

    @classmethod
    def tiny(cls) -> BackboneConfig:
        """DeepSeek-VL: SigLIP's 16 tokens, two linear layers, a Llama."""
        architecture: dict[str, Any] = {
            "model_type": "deepseek_vl",
            "vision_config": tiny_vision(model_type="siglip_vision_model", vision_use_head=False),
            "text_config": tiny_text(model_type="llama"),
            "image_token_id": 1,
            "tie_word_embeddings": False,
        }
        paths = ModelPaths(vision="model.vision_model", connector="model.aligner", head="lm_head")
        return replace(tiny_backbone("generic", image_tokens=16, **architecture), paths=paths)

    @property
    def linear_names(self) -> dict[str, str]:  # type: ignore[override]
        """What its decoder calls the layers that adapters go to."""
        return self.paths.linear_names or Backbone.linear_names

    def make(self, config: BackboneConfig) -> PreTrainedModel:
        """The model with random weights. Raises CheckpointError for code that may not run."""
        values = deepcopy(config.architecture)
        if not self.paths.code:
            make = getattr(transformers, self.paths.auto_class).from_config
            return make(AutoConfig.for_model(**values), trust_remote_code=False)
        known = remote_config(self.paths.code)
        name, revision = located(self.paths.code)
        if self.paths.auto_class not in known.auto_map:
            raise CheckpointError(
                f"backbone.paths.auto_class: the code of {shown_path(name)} makes "
                f"{listed(known.auto_map)}, no {self.paths.auto_class}; name one of those"
            )
        # Which code runs is said by what was allowed, never by the values.
        code = known.auto_map[self.paths.auto_class]
        made: Any = get_class_from_dynamic_module(code, name, revision=revision)
        return made._from_config(type(known).from_dict(values))

    @property
    def language_model(self) -> nn.Module:
        """The decoder, from embeddings to hidden states."""
        return part_at(self.model, self.paths.decoder, "decoder")

    @property
    def stacks(self) -> dict[nn.Module, int]:
        """The decoder's layers."""
        return {part_at(self.language_model, self.paths.layers, "layers"): 1}

    @property
    def vision_parts(self) -> dict[str, nn.Module]:
        """The vision encoder and the connector, which may be nothing."""
        return {"vision encoder": self._part("vision"), "connector": self._part("connector")}

    def _part(self, entry: str) -> nn.Module:
        path = getattr(self.paths, entry)
        return part_at(self.model, path, entry) if path else nn.Identity()

    def head_of(self, model: PreTrainedModel) -> nn.Linear:
        """From hidden states to scores. Raises CheckpointError where there is no such layer."""
        path = self.paths.head
        found = part_at(model, path, "head") if path else model.get_output_embeddings()
        if not isinstance(found, nn.Linear):
            raise CheckpointError(
                f"backbone.paths.head: {brief(path) if path else 'the model'} gives no linear "
                "layer; name the one from hidden states to scores"
            )
        return found

    def words_of(self, model: PreTrainedModel) -> nn.Module:
        """From token ids to embeddings."""
        path = self.paths.embeddings
        return part_at(model, path, "embeddings") if path else model.get_input_embeddings()

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Image tokens [B, I, D] of standardised images [B, 3, S, S]. Raises CheckpointError."""
        if self.paths.own_features:
            model: Any = self.model
            found = model.get_image_features(pixel_values=pixels)
            found = getattr(found, "pooler_output", found)
            tokens = torch.stack([*found]) if isinstance(found, list | tuple) else found
        else:
            vision, connector = self.vision_parts.values()
            tokens = _first(connector(self._vision_tokens(vision, pixels)[:, self.paths.skip :]))
        if tokens.ndim != 3 or tokens.shape[-1] != self.config.width:
            raise CheckpointError(
                f"backbone.paths: vision and connector give {list(tokens.shape)} of "
                f"{len(pixels)} images, but the decoder takes [images, tokens, "
                f"{self.config.width}]; name the part that leads there"
            )
        return tokens

    def _vision_tokens(self, vision: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        if self.paths.vision_layer == -1:
            return _first(vision(pixels))
        return vision(pixels, output_hidden_states=True).hidden_states[self.paths.vision_layer]

    def decode(self, given: DecoderPass) -> torch.Tensor:
        """Final hidden states [B, T, D] of a pass through the language model."""
        return self._part("norm")(_first(self.language_model(**given.arguments())))


def measured(config: BackboneConfig) -> BackboneConfig:
    """The configuration with the sizes that its model has; nothing is computed for them.

    Raises CheckpointError for paths that are not there.
    """
    with torch.device("meta"):
        sizes = _Unchecked(config)
        config.vocabulary, config.width = sizes.embedding_shape
        pixels = torch.zeros(1, 3, config.image_size, config.image_size)
        config.image_tokens = sizes.image_features(pixels).shape[1]
    return config


class _Unchecked(Generic):
    """Before its sizes are known."""

    def _check_sizes(self) -> None:
        pass


def image_size_of(config: PreTrainedConfig, paths: ModelPaths) -> int:
    """Side of its square input [px]. Raises CheckpointError where nothing says so."""
    vision = getattr(config, "vision_config", None)
    size = paths.image_size or getattr(vision, "image_size", None)
    size = size[0] if isinstance(size, list | tuple) and size else size
    if not isinstance(size, int):
        raise CheckpointError(
            "backbone.paths.image_size: the model's configuration does not say how large its "
            "images are; give their side in pixels"
        )
    return size


def part_at(module: nn.Module, path: str, entry: str) -> nn.Module:
    """The module at a path. Raises CheckpointError that says what there is instead."""
    found, before = module, "the model" if entry != "layers" else "the decoder"
    for name in path.split("."):
        children = found._modules
        if (child := children.get(name)) is None:
            raise CheckpointError(
                f"backbone.paths.{entry}: there is no {brief(path)}: {before} has "
                f"{listed(list(children)[:20]) or 'no parts'}"
            )
        before = name if found is module else f"{before}.{name}"
        found = child
    return found


def _first(output: Any) -> torch.Tensor:
    """The hidden states of what a module gives: a tensor, a tuple or a model's output."""
    if isinstance(output, torch.Tensor):
        return output
    hidden = getattr(output, "last_hidden_state", None)
    return output[0] if hidden is None else hidden
