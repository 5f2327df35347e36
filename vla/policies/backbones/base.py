"""What the rest of the library asks of a vision-language model, whichever it is.

A backbone composes classes of transformers; a file of this folder says how for each kind. LoRA
experts, gates, caches and checkpointing work on any of them, and are here.
"""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)

from vla.policies.backbones.depth import cut_layers
from vla.policies.backbones.static_cache import StaticCache
from vla.policies.config import BackboneConfig, ChatFormat, CheckpointError, LoraConfig
from vla.policies.empty_weights import backbone_weights
from vla.policies.expert_mixture import ScaleHead, gate_each_layer, make_scale_head
from vla.policies.images import channel_values
from vla.policies.lora import Blend, add_lora, lora_layers

# How Qwen2 and what is built on it read turns; an opening and marks around images are added to it.
CHATML = ChatFormat(
    user="<|im_start|>user\n",
    user_end="<|im_end|>\n",
    assistant="<|im_start|>assistant\n",
    end="<|im_end|>",
    answer_end="\n",
    plain_words=False,
)
# Of images that CLIP's vision transformers take.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Decoders of transformers whose masks may be given for each kind of layer.
GIVEN_MASKS = ("qwen2", "qwen3")
QWEN_OPENING = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


@dataclass
class Images:
    """Images of B rows, and where they stand."""

    features: torch.Tensor  # [N, I, F], as encode_images gave them, in the order of the rows
    places: torch.Tensor  # bool [B, T], True on image tokens


@dataclass
class TokenCache:
    """Keys and values of the tokens so far."""

    adapted: DynamicCache | StaticCache
    plain: DynamicCache | StaticCache | None = (
        None  # of the pass without adapters, for a gate that reads it
    )
    images: Images | None = None  # where layers go on attending to them


@dataclass
class DecoderPass:
    """What goes through the language model at once; as the arguments of `Backbone.run`."""

    embeddings: torch.Tensor  # [B, T, D], with image tokens at their places
    positions: torch.Tensor  # [B, T], or as `positions` gave them
    mask: torch.Tensor | None  # as `Backbone.run` takes it
    cache: DynamicCache | StaticCache | None
    prefix: torch.Tensor | None  # [B, T]
    images: Images | None

    def arguments(self) -> dict[str, Any]:
        """For a decoder of transformers."""
        return {
            "inputs_embeds": self.embeddings,
            "attention_mask": {"full_attention": None} if self.mask is None else self.mask,
            "position_ids": self.positions,
            "past_key_values": self.cache,
            "use_cache": self.cache is not None,
        }


class Backbone(nn.Module):
    """Images and text to hidden states, and hidden states to scores.

    A kind of backbone gives what follows; the defaults suit most.
    """

    SOURCE: ClassVar[str] = ""  # Hugging Face id of its usual size
    # Of its configuration in transformers; empty where transformers does not have it.
    model_types: ClassVar[tuple[str, ...]] = ()
    chat: ClassVar[ChatFormat]  # the format that its released weights read text in
    # Its language model's names of the layers that adapters go to.
    linear_names: ClassVar[dict[str, str]] = {
        "q": "q_proj",
        "k": "k_proj",
        "v": "v_proj",
        "o": "o_proj",
        "gate": "gate_proj",
        "up": "up_proj",
        "down": "down_proj",
    }
    # Whether its released weights may come with Python code of their own, which makes the model.
    own_code: ClassVar[bool] = False
    text_type: ClassVar[str] = ""  # of its decoder, where its architecture does not say so
    # Whether layers attend to images, each of which has one place in the sequence; else the image's
    # own tokens stand there.
    attends: ClassVar[bool] = False
    image_mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)  # of its input images
    image_std: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)  # likewise

    def __init__(self, config: BackboneConfig, lora: LoraConfig | None = None):
        super().__init__()
        self.config = config
        with backbone_weights():
            self.model = self.make(config)
        # What weights of layers that keep_layers leaves out begin with, in the model.
        self.dropped = cut_layers(self.model, self.stacks, config.keep_layers)
        self._check_sizes()
        self._note_untied()
        self.lora = LoraConfig()
        self.blend = Blend()
        self.scale_head: ScaleHead | None = None
        if lora is not None:
            self.add_experts(lora)

    # What a kind of backbone gives

    @classmethod
    def tiny(cls) -> BackboneConfig:
        """A configuration that is built and run in a moment, for tests."""
        raise NotImplementedError

    @classmethod
    def image_shape(cls, config: PreTrainedConfig) -> tuple[int, int]:
        """Side of its square input [px], and tokens of one image, of released weights."""
        vision = config.vision_config
        # Some give height and width, which are the same.
        side, patch = (
            size if isinstance(size, int) else size[0]
            for size in (vision.image_size, vision.patch_size)
        )
        return side, (side // patch // cls.merged(config)) ** 2

    @classmethod
    def merged(cls, config: PreTrainedConfig) -> int:
        """How many patches along a side become one token, of released weights."""
        return 1

    def make(self, config: BackboneConfig) -> PreTrainedModel:
        """The model with random weights, sized by config.architecture."""
        # A copy: transformers changes the values that it is given.
        values = {"model_type": self.model_types[0]} | deepcopy(config.architecture)
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(**values))

    @property
    def language_model(self) -> nn.Module:
        """The decoder, from embeddings to final hidden states."""
        return self.model.model.language_model

    @property
    def stacks(self) -> dict[nn.Module, int]:
        """Lists of layers, the decoder's own first, for vla.policies.backbones.depth."""
        return {self.language_model.get_submodule("layers"): 1}

    @property
    def vision_parts(self) -> dict[str, nn.Module]:
        """The vision encoder and the connector, by these names."""
        return {
            "vision encoder": self.model.model.vision_tower,
            "connector": self.model.model.multi_modal_projector,
        }

    def head_of(self, model: PreTrainedModel) -> nn.Linear:
        """From hidden states to scores of the vocabulary, of a model of this kind."""
        return model.get_output_embeddings()

    def words_of(self, model: PreTrainedModel) -> nn.Module:
        """From token ids to embeddings, of a model of this kind."""
        return model.get_input_embeddings()

    @property
    def embedding_shape(self) -> tuple[int, int]:
        """Rows of the vocabulary and their width D."""
        rows, width = self.words.get_parameter("weight").shape
        return rows, width

    @classmethod
    def vocabulary(cls, config: PreTrainedConfig) -> int:
        """Rows of the vocabulary, of released weights."""
        return config.get_text_config().vocab_size

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the language model takes [B, I, F] of standardised images [B, 3, S, S].

        The first D of F are image tokens; what follows is for decode.
        """
        features = self.model.model.get_image_features(pixel_values=pixels)
        return getattr(features, "pooler_output", features)

    def embed_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, T, D] of token ids [B, T]."""
        return self.words(ids)

    def place(self, embeddings: torch.Tensor, images: Images) -> torch.Tensor:
        """Embeddings [B, T, D] with image tokens at their places."""
        tokens = images.features[..., : embeddings.shape[-1]].to(embeddings.dtype)
        return embeddings.masked_scatter(images.places[..., None], tokens)

    def positions(self, is_image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Positions [B, T] of tokens that start a sequence.

        is_image [B, T]: True on image tokens. mask [B, T]: 1 where there is a token.
        """
        return (mask.cumsum(-1) - 1).clamp(min=0)

    def text_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions [B, T] of later text tokens as `decode` takes them."""
        return positions

    def decode(self, given: DecoderPass) -> torch.Tensor:
        """Final hidden states [B, T, D] of a pass through the language model."""
        return self.language_model(**given.arguments()).last_hidden_state

    # What holds for all

    @property
    def takes_masks_as_given(self) -> bool:
        """Whether `run` reads no mask on the host, and positions are places in the sequence."""
        config = getattr(self.language_model, "config", None)
        return getattr(config, "model_type", "") in GIVEN_MASKS

    def mask_of(self, tokens: torch.Tensor) -> torch.Tensor | None:
        """The mask for `run` of rows that are padded behind; tokens [B, T]: 1 where there is one.

        In a causal decoder no token sees the padding behind it, so that no mask has to say so, and
        a GPU attends in its flash kernel.
        """
        return None if self.takes_masks_as_given else tokens

    @property
    def head(self) -> nn.Linear:
        """From hidden states to scores of the vocabulary."""
        return self.head_of(self.model)

    @property
    def words(self) -> nn.Module:
        """From token ids to embeddings."""
        return self.words_of(self.model)

    def is_tied(self, model: PreTrainedModel) -> bool:
        """Whether the output embedding of a model of this kind is its input embedding."""
        return self.head_of(model).weight is self.words_of(model).get_parameter("weight")

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images [B, 3, S, S] to what the language model takes of them [B, I, F].

        Raises CheckpointError where they take other places than the configuration says.
        """
        like = next(self.vision_parts["vision encoder"].parameters())
        mean, std = (
            channel_values(values, images.device)
            for values in (self.config.image_mean, self.config.image_std)
        )
        features = self.image_features(((images.float() / 255.0 - mean) / std).to(like.dtype))
        tokens = 1 if self.attends else features.shape[1]
        if tokens != self.config.image_tokens:
            raise CheckpointError(
                f"backbone: an image becomes {tokens} tokens, but image_tokens says "
                f"{self.config.image_tokens}"
            )
        return features

    def new_cache(self) -> TokenCache:
        """An empty cache for run."""
        plain = DynamicCache() if self.lora.gate == "two_pass" else None
        return TokenCache(DynamicCache(), plain)

    def run(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: TokenCache | None = None,
        prefix: torch.Tensor | None = None,
        images: Images | None = None,
    ) -> torch.Tensor:
        """Final hidden states [B, T, D] of embeddings [B, T, D], LoRA experts blended.

        positions: what `positions` gave, or later ones. mask [B, past + T]: 1 where there is a
        token. Where `takes_masks_as_given` it may be what is added to scores [B, 1, T, N] of N
        tokens, or None where each attends to itself and those before. cache: what came before;
        extended in place. prefix [B, T]: True, or the same number, on image and question, which see
        each other both ways in models that were trained so. images: those of this pass, whose
        tokens take the place of what embeddings has there; with a cache, of its first pass.
        """
        if images is not None:
            embeddings = self.place(embeddings, images)
        if cache is not None and self.attends:
            images = cache.images = images or cache.images
        adapted, plain = (cache.adapted, cache.plain) if cache is not None else (None, None)
        given, weights = DecoderPass(embeddings, positions, mask, adapted, prefix, images), None
        if self.scale_head is not None and self.lora.gate == "two_pass":
            # The scale head alone learns from this pass, as in X-LoRA.
            with torch.no_grad(), self.blend.use(enabled=False):
                hidden = self.decode(replace(given, cache=plain))
            weights = self.scale_head(hidden)
        with self.blend.use(weights):
            return self.decode(given)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [..., vocabulary] of hidden states [..., D]."""
        return self.head(hidden)

    def add_experts(self, lora: LoraConfig) -> None:
        """Puts LoRA experts and their gate into a language model that has none yet."""
        if not lora.experts:
            return
        if self.lora.experts:
            raise CheckpointError("the backbone has LoRA experts already")
        self.lora = lora
        self.scale_head = make_scale_head(self.config.width, lora)
        add_lora(self.language_model, self.linear_names, lora, self.blend)
        if self.scale_head is not None and lora.gate == "layer":
            gate_each_layer(self.layers, self.scale_head, self.blend)

    def change_experts(self, experts: tuple[str, ...]) -> None:
        """Keeps, drops and adds LoRA experts, so that they are these; new ones change nothing yet.

        The gate gives a dropped expert's share to those that stay; a new one enters with the share
        of an even start. Raises CheckpointError where a gate would be left with one expert.
        """
        if not self.lora.experts:
            raise CheckpointError("the backbone has no LoRA experts; add some first")
        if self.scale_head is not None and len(experts) < 2:
            raise CheckpointError(f"gate '{self.lora.gate}' needs two experts; merge them instead")
        kept = [self.lora.experts.index(name) for name in experts if name in self.lora.experts]
        names = [self.lora.experts[index] for index in kept]
        names += [name for name in experts if name not in names]
        if names != list(experts):
            raise CheckpointError(f"new experts come behind those that stay: {', '.join(names)}")
        for layer in lora_layers(self.language_model).values():
            layer.resize(kept, len(experts) - len(kept))
        if self.scale_head is not None:
            self.scale_head.resize(kept, len(experts) - len(kept))
        self.lora = replace(self.lora, experts=tuple(experts))

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder's layers."""
        return [*next(iter(self.stacks)).children()]

    def draw_at_random(self) -> None:
        """Xavier's start for all matrices and convolutions, zero for their biases.

        As RoboVLMs' code compares with a backbone that has no vision-language pretraining
        (supplementary table 2).
        """
        for part in self.modules():
            weight, bias = getattr(part, "weight", None), getattr(part, "bias", None)
            if isinstance(weight, nn.Parameter) and weight.ndim > 1:
                nn.init.xavier_uniform_(weight)
                if isinstance(bias, nn.Parameter):
                    nn.init.zeros_(bias)

    def checkpoint_activations(self) -> None:
        """Trades time for memory in training: layers are run again in the backward pass.

        Each recomputation sees the blend that its forward pass saw.
        """

        def contexts():
            return nullcontext(), self.blend.use(self.blend.weights, self.blend.enabled)

        # Named so since transformers 5.21.
        enable = getattr(self.model, "activation_checkpointing_enable", None)
        enable = enable or self.model.gradient_checkpointing_enable
        enable({"use_reentrant": False, "context_fn": contexts})
        # Else frozen vision encoders keep everything for a backward pass that never comes.
        self.model.disable_input_require_grads()

    def _check_sizes(self) -> None:
        rows, width = self.embedding_shape
        if (rows, width) != (self.config.vocabulary, self.config.width):
            raise CheckpointError(
                f"backbone: architecture has {rows} rows of width {width}, but vocabulary and "
                f"width say {self.config.vocabulary} and {self.config.width}"
            )

    def _note_untied(self) -> None:
        """Writes down that input and output embeddings differ: the default depends on the model."""
        if self.config.ties_embeddings and not self.is_tied(self.model):
            self.config.architecture["tie_word_embeddings"] = False
