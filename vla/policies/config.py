"""Configurations as plain dataclasses: what policies share, and how any of them is read."""

from __future__ import annotations

import string
from dataclasses import asdict, dataclass, field
from typing import Any

from vla.core.configuration import T, bounded, read_dataclass
from vla.core.files import checked_number
from vla.core.shown import brief

MOST_LAYERS = 512
MOST_WIDTH = 65_536
MOST_VOCABULARY = 2_000_000


class CheckpointError(ValueError):
    """A checkpoint or model configuration that can't be used."""


@dataclass
class ChatFormat:
    """The text between which questions and answers stand, special tokens by their names.

    opening: before the first turn. user, user_end: around a question. image_start, image_end:
    around each image's tokens, which come first in a question. question: between them and its
    words. assistant: before an answer. answer: before its words, where it has any. end: closes it,
    and is predicted. answer_end: follows it before another question. plain_words: lower case, with
    punctuation apart, as small models are trained; false leaves the words as they are.
    """

    opening: str = ""
    user: str = "<user>"
    image_start: str = ""
    image_end: str = ""
    question: str = ""
    user_end: str = ""
    assistant: str = "<assistant>"
    answer: str = ""
    end: str = "<end>"
    answer_end: str = ""
    plain_words: bool = True


@dataclass
class BackboneConfig:
    """A vision-language model.

    kind: file of vla/policies/backbones. source: Hugging Face id or folder whose weights a new
    model starts from; empty for random weights. architecture: of its transformers configuration,
    what differs from that class's defaults. width: of its language model. image_size: side of its
    square input [px]. image_mean, image_std: of its values, per channel, in 0..1. image_tokens:
    what one image becomes in the language model. vocabulary: rows of its embedding.
    """

    kind: str = "internvl"
    source: str = ""
    architecture: dict[str, Any] = field(default_factory=dict)
    width: int = bounded(192, 1, MOST_WIDTH)
    vocabulary: int = bounded(512, 1, MOST_VOCABULARY)
    image_size: int = bounded(96, 1, 4096)
    image_mean: tuple[float, float, float] = bounded((0.5, 0.5, 0.5), 0, 1)
    image_std: tuple[float, float, float] = bounded((0.5, 0.5, 0.5), 0.001, 1)
    image_tokens: int = bounded(16, 1, 16384)
    chat: ChatFormat = field(default_factory=ChatFormat)

    def __post_init__(self) -> None:
        _require_sane_layers(self.architecture, "architecture")

    @property
    def ties_embeddings(self) -> bool:
        """Whether the language model's head is its input embedding."""
        text = self.architecture.get("text_config") or {}
        own = text.get("tie_word_embeddings", True)
        return bool(self.architecture.get("tie_word_embeddings", own))


@dataclass
class LoraConfig:
    """Low-rank adapters of the language model, one per expert, and how they are blended.

    experts: their names; none for a language model without adapters. gate: "sum" adds all of them
    as they are; "two_pass" blends them for each token by a scale head on the final hidden state of
    a pass without adapters, as InstructVLA does (X-LoRA, arXiv 2402.07148); "layer" by a scale head
    on the hidden state that enters each layer, in the same pass. head_width, head_depth,
    head_dropout: of the scale head.
    """

    experts: tuple[str, ...] = ()
    rank: int = bounded(128, 1, 4096)
    alpha: float = bounded(256.0, 0.001, 16384)
    dropout: float = bounded(0.05, 0, 0.99)
    targets: tuple[str, ...] = ("q", "k", "v", "o", "up", "down")
    gate: str = "sum"
    head_width: int = bounded(128, 1, MOST_WIDTH)
    head_depth: int = bounded(4, 1, MOST_LAYERS)
    head_dropout: float = bounded(0.2, 0, 0.99)


@dataclass
class AdapterConfig:
    """A few-shot adapter: one low-rank change of each linear layer, in both halves of a policy.

    state_limit: where normalised states are cut. The base is given -1 to 1; a new task may lead to
    where it has never been, and a policy that can't tell how far it has gone releases anywhere.
    """

    rank: int = bounded(16, 1, 4096)
    alpha: float = bounded(32.0, 0.001, 16384)
    dropout: float = bounded(0.0, 0, 0.99)
    state_limit: float = bounded(2.0, 1, 100)


@dataclass
class ActionLossConfig:
    """Losses of a regression head (equation 7)."""

    arm: str = "mse"  # or "huber", as the published code has it
    gripper_weight: float = bounded(0.01, 0, 1e6)  # of the gripper's BCE


@dataclass
class FlowMatchingConfig:
    """Flow matching (InstructVLA, equation 1; time distribution after pi0).

    Time 0 is noise, time 1 data. Training times are time_scale * (1 - z), z ~ Beta(alpha, beta).
    """

    alpha: float = bounded(1.5, 0.01, 100)
    beta: float = bounded(1.0, 0.01, 100)
    time_scale: float = bounded(0.999, 0.01, 1)
    sigma_min: float = bounded(0.001, 0, 1)
    steps: int = bounded(10, 1, 1000)


def from_dict(kind: type[T], values: Any, where: str = "config") -> T:
    """A configuration from plain values: see read_dataclass(). Raises CheckpointError."""
    return read_dataclass(kind, values, where, CheckpointError)


def with_entries(config: Any, entries: dict[str, Any], where: str) -> Any:
    """A configuration with some of its entries, at any depth, changed; errors as of from_dict."""
    return from_dict(type(config), _merged(asdict(config), entries), where) if entries else config


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, change in changes.items():
        nested = isinstance(change, dict) and isinstance(values.get(name), dict)
        merged[name] = _merged(values[name], change) if nested else change
    return merged


def _require_sane_layers(architecture: Any, where: str) -> None:
    """Raises ValueError where a transformers configuration asks for an absurd number of layers.

    Its names are those of many families; whatever counts layers is told by its name.
    """
    if isinstance(architecture, list):
        for value in architecture:
            _require_sane_layers(value, where)
    elif isinstance(architecture, dict):
        for name, value in architecture.items():
            if ("layers" in name or "depth" in name) and type(value) in (int, float):
                checked_number(value, f"{where}: {name}", ValueError, 0, MOST_LAYERS)
            _require_sane_layers(value, f"{where}: {name}")


def require_formats(act: str, where: str) -> None:
    """Raises CheckpointError where a prompt asks for more than the instruction to be filled in."""
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
