"""Configurations as plain dataclasses: what policies share, and how any of them is read."""

from __future__ import annotations

import string
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vla.core.configuration import T, bounded, read_dataclass
from vla.core.files import checked_number
from vla.core.shown import brief

MOST_LAYERS = 512
MOST_WIDTH = 65_536
MOST_VOCABULARY = 2_000_000
# Of transformers' configurations: what leads to somebody's Python code or kernels.
RUNS_CODE = {
    "auto_map",
    "trust_remote_code",
    "_name_or_path",
    "name_or_path",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
}


class CheckpointError(ValueError):
    """A checkpoint or model configuration that can't be used."""


@dataclass
class ChatFormat:
    """The text around questions and answers, special tokens by their names."""

    opening: str = ""  # before the first turn
    user: str = "<user>"  # before a question
    image_start: str = ""  # before each image's tokens, which come first in a question
    image_end: str = ""  # after each image's tokens
    question: str = ""  # between the images and the words
    user_end: str = ""  # after a question
    assistant: str = "<assistant>"  # before an answer
    answer: str = ""  # before its words, where it has any
    end: str = "<end>"  # closes an answer, and is predicted
    answer_end: str = ""  # follows it before another question
    # Lower case, with punctuation apart, as small models are trained; False leaves the words as
    # they are.
    plain_words: bool = True


@dataclass
class ModelPaths:
    """Where a model of no known kind keeps its parts (docs/backbones.md).

    Paths lead from the model to modules, with dots between their names.
    """

    # Class of transformers that makes the model.
    auto_class: Literal["AutoModelForImageTextToText", "AutoModelForCausalLM", "AutoModel"] = (
        "AutoModelForImageTextToText"
    )
    # Hugging Face id or folder whose own Python code the model needs; empty for a model of
    # transformers. It says what is needed, and allows nothing.
    code: str = ""
    vision: str = "model.vision_tower"  # vision encoder, called with images [B, 3, S, S]
    vision_layer: int = bounded(-1, -512, -1)  # whose output is taken, from the end
    skip: int = bounded(0, 0, 4096)  # first vision tokens that are left out
    # From vision to image tokens; empty where the vision encoder gives them.
    connector: str = "model.multi_modal_projector"
    # Image tokens come from the model's get_image_features, which uses both in its own way.
    own_features: bool = False
    embeddings: str = ""  # of words; empty where the model says so itself
    decoder: str = "model.language_model"  # from embeddings to hidden states
    layers: str = "layers"  # of the decoder, from it on
    norm: str = ""  # of hidden states, where the decoder leaves it out
    head: str = ""  # from hidden states to scores; empty where the model says so itself
    # What the decoder calls q, k, v, o, gate, up and down; as a Llama does if empty.
    linear_names: dict[str, str] = field(default_factory=dict)
    image_size: int = bounded(0, 0, 4096)  # 0 for that of the configuration's vision_config
    chat: ChatFormat | None = None  # ChatML if not given


@dataclass
class BackboneConfig:
    """A vision-language model."""

    kind: str = "internvl"  # file of vla/policies/backbones
    # Hugging Face id or folder of the weights that a new model starts from; empty for random
    # weights.
    source: str = ""
    # Entries of its transformers configuration that differ from the defaults.
    architecture: dict[str, Any] = field(default_factory=dict)
    width: int = bounded(192, 1, MOST_WIDTH)  # of its language model
    vocabulary: int = bounded(512, 1, MOST_VOCABULARY)  # rows of its embedding
    image_size: int = bounded(96, 1, 4096)  # side of its square input [px]
    # Per channel, of values in 0..1.
    image_mean: tuple[float, float, float] = bounded((0.5, 0.5, 0.5), 0, 1)
    image_std: tuple[float, float, float] = bounded((0.5, 0.5, 0.5), 0.001, 1)  # likewise
    image_tokens: int = bounded(16, 1, 16384)  # of one image, in the language model
    # Into how many tiles of image_size a large image may be cut, where the kind has a rule for it;
    # a copy of the whole image is added to them, and each has image_tokens. 1 for none.
    max_tiles: int = bounded(1, 1, 64)
    keep_layers: int = bounded(0, 0, MOST_LAYERS)  # of its language model, the first; 0 for all
    chat: ChatFormat = field(default_factory=ChatFormat)
    paths: ModelPaths | None = None  # of kind generic

    def __post_init__(self) -> None:
        _require_sane_layers(self.architecture, "architecture")
        _require_no_code(self.architecture, "architecture")

    @property
    def ties_embeddings(self) -> bool:
        """Whether the language model's head is its input embedding."""
        text = self.architecture.get("text_config") or {}
        own = text.get("tie_word_embeddings", True)
        return bool(self.architecture.get("tie_word_embeddings", own))


@dataclass
class LoraConfig:
    """Low-rank adapters of the language model, one per expert, and how they are blended."""

    experts: tuple[str, ...] = ()  # their names; empty for a language model without adapters
    rank: int = bounded(128, 1, 4096)
    alpha: float = bounded(256.0, 0.001, 16384)
    dropout: float = bounded(0.05, 0, 0.99)
    targets: tuple[str, ...] = ("q", "k", "v", "o", "up", "down")
    # "sum" adds all of them as they are; "two_pass" blends them for each token by a scale head on
    # the final hidden state of a pass without adapters, as InstructVLA does (X-LoRA, arXiv
    # 2402.07148); "layer" by a scale head on the hidden state that enters each layer, in the same
    # pass.
    gate: str = "sum"
    head_width: int = bounded(128, 1, MOST_WIDTH)  # of the scale head, as the next two
    head_depth: int = bounded(4, 1, MOST_LAYERS)
    head_dropout: float = bounded(0.2, 0, 0.99)


@dataclass
class AdapterConfig:
    """A few-shot adapter: one low-rank change of each linear layer, in both parts of a policy."""

    rank: int = bounded(16, 1, 4096)
    alpha: float = bounded(32.0, 0.001, 16384)
    dropout: float = bounded(0.0, 0, 0.99)
    # Where normalised states are cut. The base sees -1 to 1; a new task may lead further, and a
    # policy that cannot tell how far it is releases anywhere.
    state_limit: float = bounded(2.0, 1, 100)


@dataclass
class ActionLossConfig:
    """Losses of a regression head (equation 7)."""

    arm: str = "mse"  # or "huber", as the published code has it
    gripper_weight: float = bounded(0.01, 0, 1e6)  # of the gripper's BCE


@dataclass
class FlowMatchingConfig:
    """Flow matching from noise at time 0 to data at 1 (InstructVLA, equation 1)."""

    # Training times are time_scale * (1 - z), z ~ Beta(alpha, beta), after pi0.
    alpha: float = bounded(1.5, 0.01, 100)
    beta: float = bounded(1.0, 0.01, 100)
    time_scale: float = bounded(0.999, 0.01, 1)
    earliest: float = bounded(0.0, 0, 1)  # where training times are cut
    latest: float = bounded(1.0, 0, 1)  # likewise
    # "normal", or "uniform" between -1 and 1, as LA4VLA has it.
    noise: Literal["normal", "uniform"] = "normal"
    sigma_min: float = bounded(0.001, 0, 1)
    steps: int = bounded(10, 1, 1000)

    def __post_init__(self) -> None:
        if self.earliest > self.latest:
            raise ValueError(
                f"earliest is {self.earliest}, later than latest, {self.latest}; exchange them"
            )


def from_dict(kind: type[T], values: Any, where: str = "config") -> T:
    """A configuration from plain values: see read_dataclass(). Raises CheckpointError."""
    return read_dataclass(kind, values, where, CheckpointError)


def with_entries(config: Any, entries: dict[str, Any], where: str) -> Any:
    """A configuration with some of its entries, at any depth, changed; errors as of from_dict."""
    return from_dict(type(config), merged(asdict(config), entries), where) if entries else config


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Entries with changes to some: mappings are merged at any depth, lists and others replaced."""
    result = dict(values)
    for name, change in changes.items():
        nested = isinstance(change, dict) and isinstance(values.get(name), dict)
        result[name] = merged(values[name], change) if nested else change
    return result


def _require_sane_layers(architecture: Any, where: str) -> None:
    """Raises ValueError where a transformers configuration has an absurd number of layers.

    Any entry counts layers whose name says so, in any model family.
    """
    if isinstance(architecture, list):
        for value in architecture:
            _require_sane_layers(value, where)
    elif isinstance(architecture, dict):
        for name, value in architecture.items():
            if ("layers" in name or "depth" in name) and type(value) in (int, float):
                checked_number(value, f"{where}: {name}", ValueError, 0, MOST_LAYERS)
            _require_sane_layers(value, f"{where}: {name}")


def _require_no_code(architecture: Any, where: str) -> None:
    """Raises ValueError where a transformers configuration would have it fetch and run code."""
    if isinstance(architecture, list):
        for value in architecture:
            _require_no_code(value, where)
    elif isinstance(architecture, dict):
        if named := sorted(architecture.keys() & RUNS_CODE):
            raise ValueError(
                f"{where}: {named[0]} may name code to fetch and run, which a configuration must "
                "not; leave it out"
            )
        for name, value in architecture.items():
            _require_no_code(value, f"{where}: {name}")


def require_formats(act: str, where: str) -> None:
    """Raises CheckpointError where a prompt has placeholders other than the instruction."""
    try:
        parts = list(string.Formatter().parse(act))
    except ValueError as error:
        raise CheckpointError(f"{where}: prompts.act {brief(act)}: {error}") from error
    for _, name, width, conversion in parts:
        if name is not None and (name != "instruction" or width or conversion):
            raise CheckpointError(
                f"{where}: prompts.act {brief(act)} may hold {{instruction}} and nothing "
                "else in braces"
            )
