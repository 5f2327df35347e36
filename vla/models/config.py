"""Configuration of an InstructVLA model as plain dataclasses, and its JSON form."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints


class CheckpointError(ValueError):
    """A checkpoint or model configuration that can't be used."""


@dataclass
class BackboneConfig:
    """Sizes of the vision-language model.

    image_size: side of its square input [px]. image_tokens: what one image becomes in the language
    model. vision_*, text_*: of the two transformers. max_text_tokens: of a training prompt with its
    answer.
    """

    kind: str = "internvl"
    image_size: int = 96
    patch_size: int = 12
    vision_width: int = 96
    vision_layers: int = 2
    vision_heads: int = 4
    vision_mlp: int = 288
    text_width: int = 192
    text_layers: int = 3
    text_heads: int = 4
    text_key_value_heads: int = 2
    text_mlp: int = 512
    vocabulary: int = 512

    @property
    def image_tokens(self) -> int:
        """Tokens per image after pixel shuffle by one half."""
        return (self.image_size // self.patch_size // 2) ** 2


@dataclass
class ActionExpertConfig:
    """Sizes of the action expert (InstructVLA, section 3.1 and appendix E).

    stem: "conv" (strided convolutions, which learn from little data) or "patch" (one linear patch
    embedding, as in DINOv2). stride: pixels per visual token. keypoints: places in each image that
    the state token is given beside the state; 0 for none, as in the paper; they need the conv stem.
    Everything else as in the paper, at this preset's size.
    """

    image_size: int = 96
    stem: str = "conv"
    stride: int = 16
    keypoints: int = 32
    vision_width: int = 192
    vision_layers: int = 2
    vision_heads: int = 6
    width: int = 192
    layers: int = 3
    heads: int = 6
    mlp: int = 512
    head_widths: tuple[int, ...] = (512, 256, 192)
    rope_theta: float = 1000.0
    use_state: bool = True


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
    """The words around an instruction; weights need the ones that they were trained with."""

    act: str = "what action should the robot take to {instruction} ?"
    think_suffix: str = " first answer my question ."


@dataclass
class InstructVLAConfig:
    """Everything that shapes the weights, except the embodiment contract.

    num_queries: action queries, rows of the latent action. vlm_cameras, expert_cameras: which
    images of an observation go to which half, by name.
    """

    preset: str = "nano"
    num_queries: int = 8
    vlm_cameras: tuple[str, ...] = ("front",)
    expert_cameras: tuple[str, ...] = ("front", "wrist")
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
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
        elif isinstance(value, list):
            value = tuple(value)
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
