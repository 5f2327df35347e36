"""Weights and tokenizers that a backbone starts from: released ones, or a checkpoint's of ours."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.image_processing_base import ImageProcessingMixin

from vla.core.shown import shown_path
from vla.policies.backbones import KINDS
from vla.policies.backbones.base import Backbone
from vla.policies.backbones.generic import Generic, image_size_of, measured
from vla.policies.backbones.remote_code import located, remote_code_of
from vla.policies.checkpoint import open_checkpoint, read_config, read_weights
from vla.policies.config import RUNS_CODE, BackboneConfig, CheckpointError, ModelPaths
from vla.policies.lora import is_lora_weight, lora_layers
from vla.policies.robots import CONTRACT
from vla.policies.tokenizer import load_tokenizer

# The kind that stands for the backbone of a checkpoint of ours.
STORED = "checkpoint"
# Of a configuration: what says nothing about the architecture.
_NOTES = {"architectures", "dtype", "torch_dtype", "transformers_version"} | RUNS_CODE

Value = TypeVar("Value")
Channels = tuple[float, float, float]


def backbone_config(
    kind: str, source: str, paths: ModelPaths | None = None, keep_layers: int = 0
) -> BackboneConfig:
    """The configuration of released weights: a Hugging Face id or a folder.

    kind: of backbone; STORED for a checkpoint folder, of whatever policy, whose backbone it is.
    paths: for kind generic. keep_layers: of its language model, 0 for all that there are.
    Raises CheckpointError for weights of another kind, and where they or their tokenizer can't be
    read.
    """
    if kind == STORED:
        return _stored_config(source, keep_layers)
    config, code = _released_config(kind, source)
    if kind == "generic":
        released = _generic_config(source, config, replace(paths or ModelPaths(), code=code))
        return replace(released, keep_layers=keep_layers)
    image_size, image_tokens = KINDS[kind].image_shape(config)
    mean, std = _standardisation(source, KINDS[kind])
    text = config.get_text_config()
    released = BackboneConfig(
        kind=kind,
        source=source,
        architecture=_without_notes(config.to_diff_dict()),
        width=text.hidden_size,
        vocabulary=KINDS[kind].vocabulary(config),
        image_size=image_size,
        image_mean=mean,
        image_std=std,
        image_tokens=image_tokens,
        keep_layers=keep_layers,
        chat=KINDS[kind].chat,
    )
    _check_tokenizer(load_tokenizer_of(source), released)
    return released


def _generic_config(source: str, config: PreTrainedConfig, paths: ModelPaths) -> BackboneConfig:
    mean, std = _standardisation(source, Generic)
    released = BackboneConfig(
        kind="generic",
        source=source,
        architecture=_without_notes(config.to_diff_dict()) | {"model_type": config.model_type},
        image_size=image_size_of(config, paths),
        image_mean=mean,
        image_std=std,
        chat=paths.chat or Generic.chat,
        paths=paths,
    )
    released = _fetch("the model", source, lambda: measured(released))
    _check_tokenizer(load_tokenizer_of(source), released)
    return released


def load_pretrained(
    backbone: Backbone, source: str, dtype: torch.dtype | str = torch.float32
) -> None:
    """Fills a backbone with released weights, which it holds in that type then; "auto" for theirs.

    LoRA experts, where it has any, stay as they are. The backbone's configuration is corrected
    where it wrongly says that input and output embeddings are one. Raises CheckpointError for
    weights of another kind or shape, and where they can't be read or miss something.
    """
    if _is_stored(source):
        _load_stored(backbone, source)
        return
    _, code = _released_config(backbone.config.kind, source)
    made_by = (backbone.config.paths or ModelPaths()).auto_class
    model, report = _fetch(
        "the weights", source, lambda: _released_model(source, dtype, made_by, bool(code))
    )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(
            f"the weights of {source} lack {len(missing)} tensors, {missing[0]} for one; "
            f"give the released weights of a {backbone.config.kind} model"
        )
    if not backbone.is_tied(model) and backbone.is_tied(backbone.model):
        backbone.head.weight = nn.Parameter(backbone.head.weight.detach().clone())
        backbone.config.architecture["tie_word_embeddings"] = False
    # Adapted layers keep their matrices one level deeper.
    adapted = lora_layers(backbone.model)
    weights = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(backbone.dropped):
            continue
        path, _, leaf = name.rpartition(".")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(
                f"the weights of {source} hold NaN or infinity in {name}; fetch them again"
            )
        weights[f"{path}.base.{leaf}" if path in adapted else name] = tensor
    experts = {name for name in backbone.model.state_dict() if ".lora_" in name}
    # Transformers wraps `to` in a way that loses its first argument's type.
    backbone.model.to(model.dtype)  # type: ignore[arg-type]
    _fill(backbone.model.state_dict(), weights, experts, source)


def start_backbone(backbone: Backbone, source: str | None) -> None:
    """Fills a backbone with released weights, or draws them anew where there is no source."""
    if source is None:
        backbone.draw_anew()
    else:
        load_pretrained(backbone, source)


def load_tokenizer_of(source: str) -> Tokenizer:
    """The fast tokenizer of a Hugging Face id or folder. Raises CheckpointError."""
    if _is_stored(source):
        return load_tokenizer(source)
    tokenizer = _fetch("the tokenizer", source, lambda: _released_tokenizer(source))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise CheckpointError(
            f"{source} has no fast tokenizer; give a source that has a tokenizer.json"
        )
    return backend


def _released_tokenizer(source: str) -> Any:
    name, revision = located(source)
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False, revision=revision)
    except Exception:  # A tokenizer of a model's own code may have a tokenizer.json, too.
        return PreTrainedTokenizerFast.from_pretrained(name, revision=revision)


def _released_config(kind: str, source: str) -> tuple[PreTrainedConfig, str]:
    """Its configuration, and the source again if it needs code of its own."""
    if kind not in KINDS:
        raise CheckpointError(f"unknown backbone '{kind}'; known: {', '.join(sorted(KINDS))}")
    known = KINDS[kind].model_types
    if not known and kind != "generic":
        raise CheckpointError(
            f"transformers has no {kind}; convert its released weights with vla convert"
        )
    # The plain values first: they name the kind even where transformers does not know it.
    name, revision = located(source)
    values, _ = _fetch(
        "the configuration",
        source,
        lambda: PreTrainedConfig.get_config_dict(name, revision=revision),
    )
    found = values.get("model_type")
    code = remote_code_of(values, source) if kind == "generic" else ""
    if known and found not in known:
        raise CheckpointError(
            f"{source} is a model of type '{found}', but kind {kind} needs "
            f"{' or '.join(known)}; give {KINDS[kind].SOURCE} or the like, or another kind"
        )
    config = _fetch(
        "the configuration",
        source,
        lambda: AutoConfig.from_pretrained(name, trust_remote_code=bool(code), revision=revision),
    )
    return config, code


def _is_stored(source: str) -> bool:
    """Whether it is a checkpoint folder of ours: its contract is there."""
    return (Path(source) / CONTRACT).is_file()


def _stored_config(source: str, keep_layers: int) -> BackboneConfig:
    config = read_config(source)
    if not isinstance(getattr(config, "backbone", None), BackboneConfig):
        raise CheckpointError(
            f"{shown_path(source)} is a policy of type {config.TYPE}, which has no backbone; give "
            "the folder of another checkpoint"
        )
    stored = deepcopy(config.backbone)
    if stored.keep_layers and keep_layers > stored.keep_layers:
        raise CheckpointError(
            f"{shown_path(source)} keeps {stored.keep_layers} layers of its language model, fewer "
            f"than backbone.keep_layers {keep_layers}; give {stored.keep_layers} or fewer"
        )
    return replace(stored, keep_layers=keep_layers or stored.keep_layers)


def _load_stored(backbone: Backbone, source: str) -> None:
    """Fills a backbone with that of a checkpoint, less its LoRA experts."""
    weights = {
        name.partition("backbone.model.")[2].replace(".base.", "."): value
        for name, value in read_weights(open_checkpoint(source)).items()
        if "backbone.model." in name and not is_lora_weight(name)
    }
    adapted = lora_layers(backbone.model)
    own = backbone.model.state_dict()
    for name in [name for name in own if name not in weights and name.endswith("lm_head.weight")]:
        own.pop(name)  # Tied to the input embedding, and stored once.
    experts = {name for name in own if is_lora_weight(name)}
    placed = {}
    for name, value in weights.items():
        if name.startswith(backbone.dropped):
            continue
        path, _, leaf = name.rpartition(".")
        placed[f"{path}.base.{leaf}" if path in adapted else name] = value.float()
    _fill(own, placed, experts, source)


def _released_model(
    source: str, dtype: torch.dtype | str, auto_class: str, trust: bool
) -> tuple[PreTrainedModel, dict[str, list[str]]]:
    name, revision = located(source)
    load = getattr(transformers, auto_class).from_pretrained
    return load(
        name, dtype=dtype, output_loading_info=True, trust_remote_code=trust, revision=revision
    )


def _fetch(what: str, source: str, read: Callable[[], Value]) -> Value:
    """What `read` gives; its failure as a CheckpointError."""
    try:
        return read()
    except CheckpointError:
        raise
    except Exception as error:  # Of transformers, the hub, safetensors and tokenizers alike.
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise CheckpointError(
            f"{what} of {source} can't be read ({reason}); give a folder, or check the name and "
            "the network"
        ) from error


def _without_notes(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_notes(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if name not in _NOTES
    }


def _standardisation(source: str, kind: type[Backbone]) -> tuple[Channels, Channels]:
    """Mean and deviation of its images, by its preprocessor; the kind's where it has none."""
    try:
        name, revision = located(source)
        values, _ = ImageProcessingMixin.get_image_processor_dict(name, revision=revision)
    except (OSError, ValueError):
        values = {}
    mean_red, mean_green, mean_blue = values.get("image_mean") or kind.image_mean
    red, green, blue = values.get("image_std") or kind.image_std
    return (mean_red, mean_green, mean_blue), (red, green, blue)


def _check_tokenizer(tokenizer: Tokenizer, config: BackboneConfig) -> None:
    if tokenizer.token_to_id(config.chat.end) is None:
        raise CheckpointError(
            f"the tokenizer of {config.source} has no token '{config.chat.end}', which answers of "
            f"kind {config.kind} end with; give {KINDS[config.kind].SOURCE} or the like"
        )
    if (highest := max(tokenizer.get_vocab().values())) >= config.vocabulary:
        raise CheckpointError(
            f"the tokenizer of {config.source} goes up to token {highest}, but its model has "
            f"{config.vocabulary}; they are not of one model"
        )


@torch.no_grad()
def _fill(
    own: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], kept: set[str], source: str
) -> None:
    odd = sorted((own.keys() - kept) ^ weights.keys())
    odd += sorted(n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape)
    if odd:
        raise CheckpointError(
            f"the weights of {source} do not fit this backbone, {odd[0]} for one; "
            "make its configuration from the same source"
        )
    for name, tensor in weights.items():
        own[name].copy_(tensor)
