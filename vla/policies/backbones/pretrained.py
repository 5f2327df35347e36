"""Weights and tokenizers that a backbone starts from: released ones, or a checkpoint's of ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    logging,
)
from transformers.image_processing_base import ImageProcessingMixin

from vla.core.shown import shown_path
from vla.policies.backbones import KINDS
from vla.policies.backbones.base import Backbone
from vla.policies.backbones.generic import Generic, image_size_of, measured
from vla.policies.backbones.remote_code import located, remote_code_of
from vla.policies.checkpoint import (
    open_checkpoint,
    read_config,
    stored_shapes,
    stream_weights,
)
from vla.policies.config import RUNS_CODE, BackboneConfig, CheckpointError, ModelPaths
from vla.policies.empty_weights import put, stored_tensors
from vla.policies.loaded import Loaded
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
    released = fetch("the model", source, lambda: measured(released))
    _check_tokenizer(load_tokenizer_of(source), released)
    return released


def load_pretrained(
    backbone: Backbone, source: str, dtype: torch.dtype | str = torch.float32, prefix: str = ""
) -> Loaded:
    """Fills a backbone with released weights, which it holds in that type then; "auto" for theirs.

    LoRA experts, where it has any, stay as they are. The backbone's configuration is corrected
    where it wrongly says that input and output embeddings are one. prefix: of its model's names, in
    what is returned. Raises CheckpointError for weights of another kind or shape, and where they
    can't be read or miss something.
    """
    if _is_stored(source):
        return _load_stored(backbone, source, prefix)
    _, code = _released_config(backbone.config.kind, source)
    made_by = (backbone.config.paths or ModelPaths()).auto_class
    model, report = fetch(
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
    weights = stored_tensors(model)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not all(b.isfinite() for b in tensor.detach().aminmax()):
            raise CheckpointError(
                f"the weights of {source} hold NaN or infinity in {name}; fetch them again"
            )
    # Transformers wraps `to` in a way that loses its first argument's type.
    backbone.model.to(model.dtype)  # type: ignore[arg-type]
    own, sizes = stored_tensors(backbone.model), {n: v.numel() for n, v in weights.items()}
    places, unread = _places(backbone, {n: v.shape for n, v in weights.items()}, own, source)
    placed: set[int] = set()
    for name, place in places.items():
        value = weights[name]
        # Two of theirs may be one that are two here.
        put(own[place], value.clone() if id(value) in placed else value)
        placed.add(id(value))
    # Transformers says no more of what it has no place for than the names.
    left_over = dict.fromkeys(report["unexpected_keys"], 0)
    taken = {prefix + place: sizes[name] for name, place in places.items()}
    return Loaded(shown_path(source), taken, left_over, {name: sizes[name] for name in unread})


def start_backbone(backbone: Backbone, source: str | None, prefix: str) -> Loaded:
    """Fills a backbone with released weights, or draws them at random where there is no source.

    prefix: of its model's names, in what is returned.
    """
    if source is None:
        backbone.draw_at_random()
        return Loaded("drawn at random", {})
    return load_pretrained(backbone, source, prefix=prefix)


def load_tokenizer_of(source: str) -> Tokenizer:
    """The fast tokenizer of a Hugging Face id or folder. Raises CheckpointError."""
    if _is_stored(source):
        return load_tokenizer(source)
    tokenizer = fetch("the tokenizer", source, lambda: _released_tokenizer(source))
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
    values, _ = fetch(
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
    config = fetch(
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


def _load_stored(backbone: Backbone, source: str, prefix: str) -> Loaded:
    """Fills a backbone with that of a checkpoint, less its LoRA experts."""
    stored = open_checkpoint(source)
    shapes = {
        name: shape for name, shape in stored_shapes(stored).items() if "backbone.model." in name
    }
    experts = {name for name in shapes if is_lora_weight(name)}
    plain = {_model_name(name): name for name in shapes if name not in experts}
    own = stored_tensors(backbone.model)
    places, unread = _places(
        backbone, {name: shapes[full] for name, full in plain.items()}, own, source
    )
    for full, value in stream_weights(stored):
        name = _model_name(full)
        if full in shapes and full not in experts and name in places:
            put(own[places[name]], value.to(torch.float32, copy=True))
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    taken = {prefix + place: sizes[plain[name]] for name, place in places.items()}
    left = experts | {plain[name] for name in unread}
    return Loaded(shown_path(source), taken, unread={name: sizes[name] for name in sorted(left)})


def _model_name(name: str) -> str:
    """A stored weight's name in a backbone's model without LoRA experts."""
    return name.partition("backbone.model.")[2].replace(".base.", ".")


def _released_model(
    source: str, dtype: torch.dtype | str, auto_class: str, trust: bool
) -> tuple[PreTrainedModel, dict[str, list[str]]]:
    name, revision = located(source)
    load = getattr(transformers, auto_class).from_pretrained
    return load(
        name, dtype=dtype, output_loading_info=True, trust_remote_code=trust, revision=revision
    )


def fetch(what: str, source: str, read: Callable[[], Value]) -> Value:
    """What `read` gives; its failure as a CheckpointError.

    what: that is read of a source, for the error.
    """
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


def _places(
    backbone: Backbone,
    shapes: Mapping[str, tuple[int, ...]],
    own: dict[str, torch.Tensor],
    source: str,
) -> tuple[dict[str, str], list[str]]:
    """Where weights go in a backbone's model, by name, and those of layers that it does not keep.

    Raises CheckpointError where any has no place or another shape, or none fills one.
    """
    # Adapted layers keep their matrices one level deeper.
    adapted, places, unread = lora_layers(backbone.model), {}, []
    for name in shapes:
        path, _, leaf = name.rpartition(".")
        if name.startswith(backbone.dropped):
            unread.append(name)
        else:
            places[name] = f"{path}.base.{leaf}" if path in adapted else name
    filled = {id(own[place]) for place in places.values() if place in own}
    wanted = {name for name, value in own.items() if not is_lora_weight(name)}
    # One that is tied to another is stored once.
    missing = {n for n in wanted - {*places.values()} if id(own[n]) not in filled}
    odd = sorted(missing | ({*places.values()} - wanted))
    odd += sorted(p for n, p in places.items() if p in own and own[p].shape != shapes[n])
    if odd:
        raise CheckpointError(
            f"the weights of {source} do not fit this backbone, {odd[0]} for one; "
            "make its configuration from the same source"
        )
    return places, unread


@contextmanager
def quietly() -> Iterator[None]:
    """Keeps transformers from printing what it loads, where something here says it."""
    loud = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(loud)
