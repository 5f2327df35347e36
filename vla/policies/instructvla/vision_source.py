"""Pretrained weights for the action expert's DINOv2: of transformers, or a file of timm."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, PreTrainedConfig

from vla.core.shown import shown_path
from vla.core.tensors import read_tensors
from vla.policies.backbones.pretrained import fetch, quietly
from vla.policies.backbones.remote_code import located
from vla.policies.config import CheckpointError
from vla.policies.instructvla.config import ActionExpertConfig
from vla.policies.instructvla.conversion_names import (
    FILM,
    LanguageNames,
    timm_names,
    translate,
    unread_names,
)
from vla.policies.instructvla.film_dinov2 import Dinov2Encoder, dinov2_config, unread_weights
from vla.policies.loaded import Loaded, require_fit, split_unread
from vla.policies.released import read_torch

VISION = "expert.vision.model"  # where it is in an InstructVLA
POSITIONS = "embeddings.position_embeddings"  # [1, 1 + N, D], the class token's first
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class VisionWeights:
    """What a source gives."""

    weights: Tensors  # float32, by their names in an InstructVLA
    loaded: Loaded


def read_vision(source: str, config: ActionExpertConfig) -> VisionWeights:
    """Weights for the DINOv2 of an action expert, up to its feature block.

    source: Hugging Face id or folder of a Dinov2WithRegistersModel, or a file with the state of
    timm's vit_large_patch14_reg4_dinov2 or a smaller one (safetensors, or what torch.save wrote).
    Position embeddings are resampled to the grid of the configuration. Raises CheckpointError where
    nothing can be read, and for weights of another model or size, or not all of them.
    """
    if config.vision != "dinov2":
        raise CheckpointError(
            f"expert.vision is '{config.vision}', which has no pretrained weights: leave the "
            "vision source out, or take 'dinov2'"
        )
    with torch.device("meta"):
        wanted = Dinov2Encoder(config, condition_width=1).model.state_dict()
    if Path(source).is_file():
        given, left_over, unread = _of_timm(source, config, wanted)
    else:
        given, left_over, unread = _of_transformers(source, config, wanted)
    if lacking := sorted(wanted.keys() - given.keys()):
        raise CheckpointError(
            f"{shown_path(source)} lacks {len(lacking)} tensors of DINOv2, {lacking[0]} for one; "
            "give the weights of a whole encoder"
        )
    if bad := sorted(name for name, value in given.items() if not value.isfinite().all()):
        raise CheckpointError(
            f"{shown_path(source)} holds NaN or infinity in {bad[0]}; fetch it again"
        )
    weights = {f"{VISION}.{name}": value.float() for name, value in given.items()}
    taken = {name: value.numel() for name, value in weights.items()}
    return VisionWeights(weights, Loaded(shown_path(source), taken, left_over, unread))


def _of_timm(
    path: str, config: ActionExpertConfig, wanted: Tensors
) -> tuple[Tensors, dict[str, int], dict[str, int]]:
    """Tensors by transformers' names, and parameters of theirs that are left over, and unread."""
    if path.endswith(".safetensors"):
        content = read_tensors(path, CheckpointError)
    else:
        content = read_torch(path)
    tensors = isinstance(content, dict) and all(
        isinstance(value, torch.Tensor) for value in content.values()
    )
    if not tensors or "patch_embed.proj.weight" not in content:
        raise CheckpointError(
            f"{shown_path(path)} holds no vision transformer of timm; give a file with its state "
            "dict alone, or a folder that transformers wrote"
        )
    blocks = {int(found[1]) for name in content if (found := re.match(r"blocks\.(\d+)\.", name))}
    _require_same(path, {"blocks": max(blocks, default=-1) + 1}, {"blocks": config.vision_layers})
    content = dict(content)
    if (positions := content.get("pos_embed")) is not None and positions.ndim == 3:
        content["pos_embed"] = resampled(positions, wanted[POSITIONS].shape[1] - 1)
    ours = {f"{VISION}.{name}": value for name, value in wanted.items()}
    made = translate(timm_names(content), ours, LanguageNames("", (), 0))
    require_fit("this action expert", [], [], [name.replace(FILM, "") for name in made.odd])
    others, unread = split_unread(made.left_over, unread_names(config))
    given = {name.removeprefix(f"{VISION}."): value for name, value in made.made.items()}
    return given, _as_in_timm(others), _as_in_timm(unread)


def _of_transformers(
    source: str, config: ActionExpertConfig, wanted: Tensors
) -> tuple[Tensors, dict[str, int], dict[str, int]]:
    name, revision = located(source)
    values, _ = fetch(
        "the configuration",
        source,
        lambda: PreTrainedConfig.get_config_dict(name, revision=revision),
    )
    kind = Dinov2WithRegistersConfig.model_type
    if values.get("model_type") != kind:
        raise CheckpointError(
            f"{shown_path(source)} is a model of type '{values.get('model_type')}', but the action "
            f"expert's vision encoder needs {kind}; give such a folder, or a file of timm"
        )
    theirs, own = Dinov2WithRegistersConfig(**values), dinov2_config(config)
    same = ["hidden_size", "num_attention_heads", "mlp_ratio", "patch_size", "num_register_tokens"]
    same += ["use_swiglu_ffn", "layer_norm_eps"]
    _require_same(
        source,
        {"blocks": theirs.num_hidden_layers} | {entry: getattr(theirs, entry) for entry in same},
        {"blocks": config.vision_layers} | {entry: getattr(own, entry) for entry in same},
    )
    theirs.num_hidden_layers = own.num_hidden_layers  # The blocks behind are not read from disk.

    def load() -> tuple[Dinov2WithRegistersModel, dict[str, list[str]]]:
        read: Any = Dinov2WithRegistersModel.from_pretrained  # Its types know no pair.
        with quietly():
            return read(
                name,
                config=theirs,
                dtype=torch.float32,
                output_loading_info=True,
                revision=revision,
            )

    model, report = fetch("the weights", source, load)
    found = {n: v for n, v in model.state_dict().items() if n not in report["missing_keys"]}
    given = {n: value for n, value in found.items() if n in wanted}
    if (positions := given.get(POSITIONS)) is not None:
        patches = resampled(positions[:, 1:], wanted[POSITIONS].shape[1] - 1)
        given[POSITIONS] = torch.cat([positions[:, :1], patches], dim=1)
    # Of what no module was made for, transformers says the names alone: blocks are alike.
    sizes = {n: value.numel() for n, value in found.items()}
    others = {n: size for n, size in sizes.items() if n not in wanted}
    for n in report["unexpected_keys"]:
        others[n] = sizes.get(re.sub(r"^encoder\.layer\.\d+\.", "encoder.layer.0.", n), 0)
    later = tuple(n.removeprefix("model.") for n in unread_weights(config))
    return given, *split_unread(others, later)


def _require_same(source: str, theirs: dict[str, object], own: dict[str, object]) -> None:
    for name, value in own.items():
        if theirs[name] != value:
            raise CheckpointError(
                f"{shown_path(source)} has {name} {theirs[name]}, the action expert {value}; give "
                "another vision_source, or other sizes in model: {expert: ...}"
            )


def resampled(positions: torch.Tensor, count: int) -> torch.Tensor:
    """Embeddings [1, N, D] of a square grid of patches, for a square grid of `count` patches.

    Bicubic with antialiasing, as timm and transformers do it; unchanged where N is no square.
    """
    before, after = math.isqrt(positions.shape[1]), math.isqrt(count)
    if before**2 != positions.shape[1] or before == after:
        return positions
    grid = positions.float().unflatten(1, (before, before)).permute(0, 3, 1, 2)  # [1, D, G, G]
    grid = F.interpolate(grid, size=(after, after), mode="bicubic", antialias=True)
    return grid.flatten(2).transpose(1, 2).to(positions.dtype)


def _as_in_timm(sizes: dict[str, int]) -> dict[str, int]:
    plain = {name.removeprefix(FILM): size for name, size in sizes.items()}
    return {name.replace(".block.", "."): size for name, size in plain.items()}
