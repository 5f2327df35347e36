"""Configuration of an InstructVLA model as plain dataclasses, and its JSON form."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints


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

    kind: file of vla/models/backbones. source: Hugging Face id or folder whose weights a new model
    starts from; empty for random weights. architecture: of its transformers configuration, what
    differs from that class's defaults. width: of its language model. image_size: side of its square
    input [px]. image_mean, image_std: of its values, per channel, in 0..1. image_tokens: what one
    image becomes in the language model. vocabulary: rows of its embedding.
    """

    kind: str = "internvl"
    source: str = ""
    architecture: dict[str, Any] = field(default_factory=dict)
    width: int = 192
    vocabulary: int = 512
    image_size: int = 96
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_tokens: int = 16
    chat: ChatFormat = field(default_factory=ChatFormat)


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
    rank: int = 128
    alpha: float = 256.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q", "k", "v", "o", "up", "down")
    gate: str = "sum"
    head_width: int = 128
    head_depth: int = 4
    head_dropout: float = 0.2


@dataclass
class AdapterConfig:
    """A few-shot adapter: one low-rank change of each linear layer, in both halves of a policy.

    state_limit: where normalised states are cut. The base is given -1 to 1; a new task may lead to
    where it has never been, and a policy that can't tell how far it has gone lets go anywhere.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    state_limit: float = 2.0


@dataclass
class ActionExpertConfig:
    """Sizes of the action expert (InstructVLA, section 3.1 and appendix E).

    vision: "dinov2", a DINOv2 vision transformer with registers, or "conv", a small transformer
    behind strided convolutions, which learns from little data. patch: pixels per visual token.
    vision_feature_block: with dinov2, the block whose output the tokens are; the published code
    takes 2 of 24. vision_zoom: with dinov2, enlarge by 256 / 224 and crop, as the published code.
    keypoints: with conv, places in each image that the state token is given beside the state; 0 for
    none, as in the paper. mask: "causal" by blocks, as in the paper; "separate", where the latent
    block does not see vision; "bias", where allowed pairs get a bonus of one and nothing is masked,
    which is what the published code runs; or "full". dropout: of attention, in training.
    """

    image_size: int = 96
    vision: str = "conv"
    patch: int = 16
    vision_width: int = 192
    vision_layers: int = 2
    vision_heads: int = 6
    vision_mlp: int = 576
    vision_feature_block: int = 1
    vision_zoom: bool = False
    keypoints: int = 32
    width: int = 192
    layers: int = 3
    heads: int = 6
    mlp: int = 512
    head_widths: tuple[int, ...] = (512, 256, 192)
    rope_theta: float = 1000.0
    dropout: float = 0.0
    use_state: bool = True
    mask: str = "causal"


@dataclass
class FlowMatchingConfig:
    """Flow matching (InstructVLA, equation 1; time distribution after pi0).

    Time 0 is noise, time 1 data. Training times are time_scale * (1 - z), z ~ Beta(alpha, beta).
    """

    alpha: float = 1.5
    beta: float = 1.0
    time_scale: float = 0.999
    sigma_min: float = 0.001
    steps: int = 10


@dataclass
class PromptConfig:
    """The words around an instruction; weights need the ones that they were trained with.

    act: asks for an action. think_suffix: asks for an answer first. motion_suffix: asks for the
    motion in words first. captions: questions that ask for a description of the scene.
    """

    act: str = "what action should the robot take to {instruction} ?"
    think_suffix: str = " first answer my question ."
    motion_suffix: str = " say the motion , then act ."
    captions: tuple[str, ...] = ("describe the scene without the robot .",)


@dataclass
class InstructVLAConfig:
    """Everything that shapes the weights, except the embodiment contract.

    num_queries: action queries, rows of the latent action. vlm_cameras, expert_cameras: which
    images of an observation go to which half, by name. lora: of the backbone's language model.
    """

    preset: str = "nano"
    num_queries: int = 8
    vlm_cameras: tuple[str, ...] = ("front",)
    expert_cameras: tuple[str, ...] = ("front", "wrist")
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    expert: ActionExpertConfig = field(default_factory=ActionExpertConfig)
    flow: FlowMatchingConfig = field(default_factory=FlowMatchingConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)


def from_dict(kind: type, values: dict[str, Any], where: str = "config") -> Any:
    """Builds a (nested) dataclass from plain values, refusing unknown names.

    Raises CheckpointError that names the entry and what is known there.
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: expected a mapping, got {type(values).__name__}")
    hints = get_type_hints(kind)
    known = {entry.name for entry in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise CheckpointError(
            f"{where}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    built = {}
    for name, value in values.items():
        if is_dataclass(hints[name]):
            value = from_dict(hints[name], value, f"{where}.{name}")
        elif hints[name] in (bool, int, float, str):
            value = _scalar(hints[name], value, f"{where}: {name}")
        elif isinstance(value, list | tuple):
            kinds = [kind for kind in get_args(hints[name]) if is_dataclass(kind)]
            value = tuple(
                from_dict(kinds[0], entry, f"{where}.{name}") if kinds else entry for entry in value
            )
        built[name] = value
    return kind(**built)


def _scalar(kind: type, value: Any, where: str) -> Any:
    """The value as that type; YAML takes "1e-3" for text, which is a number here."""
    try:
        converted = kind(value)
        if kind in (str, bool) or isinstance(value, bool):
            fits = type(value) is kind
        else:
            fits = kind is float or float(value) == converted
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise CheckpointError(f"{where} must be {names[kind]}, got {value!r}")
    return converted


def read_config(folder: str | Path) -> InstructVLAConfig:
    """Reads config.json of a checkpoint folder. Raises CheckpointError."""
    path = Path(folder) / "config.json"
    try:
        return from_dict(InstructVLAConfig, json.loads(path.read_text()), str(path))
    except OSError as error:
        raise CheckpointError(
            f"{folder} is not a checkpoint folder ({path.name}: {error.strerror}); "
            "give the folder that vla train wrote"
        ) from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error


def write_config(config: InstructVLAConfig, folder: str | Path) -> None:
    """Writes config.json."""
    (Path(folder) / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
