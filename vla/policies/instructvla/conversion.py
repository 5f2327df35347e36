"""The released checkpoints of InstructVLA, and of the model that it starts from, as our folders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from vla.contract.embodiment import EmbodimentContract
from vla.contract.normalization import (
    ABSOLUTE,
    BINARY,
    LARGEST,
    MOST_DIMENSIONS,
    RELATIVE,
    NormStats,
)
from vla.core.files import checked_numbers, read_json, require_regular
from vla.core.shown import brief, listed, shown_path
from vla.core.tensors import read_tensors
from vla.core.text import one_line
from vla.policies.checkpoint import build_model
from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.conversion_names import (
    LanguageNames,
    language_names,
    split_groups,
    translate,
)
from vla.policies.instructvla.presets import with_language_expert
from vla.policies.sequence import end_id

MOST_STATISTICS = 100_000_000
Groups = dict[str, dict[str, torch.Tensor]]


@dataclass
class Converted:
    """A converted model."""

    config: InstructVLAConfig
    weights: dict[str, torch.Tensor]  # by our names
    idle: list[str]  # their tensors that nothing needs


def read_released(path: str | Path) -> Groups:
    """The groups of tensors of a released InstructVLA file (.pt), left on disk until they are used.

    Raises CheckpointError where it can't be read or is something else.
    """
    require_regular(path, CheckpointError)
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # Of pickle, zip files and torch alike.
        reason = one_line(str(error).strip().split("\n")[0].rstrip("."))
        raise CheckpointError(f"{shown_path(path)} cannot be read: {reason}") from error
    groups = content.get("model") if isinstance(content, dict) else None
    wanted = ("vision_model", "language_model", "mlp1", "action_model")
    if not isinstance(groups, dict) or (lacking := [n for n in wanted if n not in groups]):
        found = "" if not isinstance(groups, dict) else f" (no {', '.join(lacking)})"
        raise CheckpointError(f"{path} is no checkpoint of InstructVLA{found}")
    for group, tensors in groups.items():
        entries = tensors.items() if isinstance(tensors, dict) else [(None, None)]
        if odd := [n for n, v in entries if not isinstance(v, torch.Tensor)]:
            raise CheckpointError(
                f"{shown_path(path)}: {one_line(group, 60)} is no group of tensors "
                f"({brief(odd[0])}); fetch it again"
            )
    return {group: dict(groups[group]) for group in groups}


def read_eagle(folder: str | Path) -> Groups:
    """The groups of tensors of a folder with the released Eagle 2. Raises CheckpointError."""
    groups: Groups = {}
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no *.safetensors: give the folder of Eagle2-2B")
    for file in files:
        for name, value in read_tensors(file, CheckpointError).items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = value
    return groups


def convert_released(
    groups: Groups, template: InstructVLAConfig, contract: EmbodimentContract
) -> Converted:
    """A released InstructVLA under our names.

    template: a preset with the sizes. From the weights come the LoRA experts, the vocabulary,
    whether there is a state token and whether the head is tied; from the contract the cameras'
    names. Raises CheckpointError where weights, template and contract do not fit each other.
    """
    theirs, idle = split_groups(groups)
    language = language_names(theirs, template.num_queries)
    config = _fit_language(template, theirs, language)
    _check_action(theirs, contract, config)
    uses_state = "action_model.state_embed.0.weight" in theirs
    config = replace(
        config,
        expert=replace(config.expert, use_state=uses_state),
        vlm_cameras=_cameras(contract, len(template.vlm_cameras)),
        expert_cameras=_cameras(contract, len(template.expert_cameras)),
    )
    with torch.device("meta"):
        ours = build_model(config, contract).state_dict()
    return Converted(config, translate(theirs, ours, language), idle)


def convert_eagle(
    groups: Groups, template: InstructVLAConfig, contract: EmbodimentContract
) -> Converted:
    """A released Eagle 2 as the reasoning half of a model, its action queries new.

    Arguments and errors as above; training starts from the result.
    """
    theirs, idle = split_groups(groups)
    language = language_names(theirs, queries=0)
    config = _fit_language(template, theirs, language)
    with torch.device("meta"):
        ours = build_model(config, contract).state_dict()
    wanted = {n: v for n, v in ours.items() if n.startswith("reasoning.backbone.")}
    weights = translate(theirs, wanted, language)
    for name in ("reasoning.query_embedding", "reasoning.query_output"):
        weights[name] = torch.randn(ours[name].shape) * 0.02
    return Converted(config, weights, idle)


def _fit_language(
    template: InstructVLAConfig, theirs: dict[str, torch.Tensor], language: LanguageNames
) -> InstructVLAConfig:
    """The template with their LoRA experts, vocabulary and tying; completes a tied head."""
    embedding = theirs[f"{language.prefix}model.embed_tokens.weight"]
    head = theirs.setdefault(f"{language.prefix}lm_head.weight", embedding)
    rows = len(embedding) - language.queries
    # New rows may be trained apart; what is tied shows in the older ones.
    tied = head is embedding or torch.equal(head[:rows], embedding[:rows])
    architecture = template.backbone.architecture
    text = {**architecture["text_config"], "vocab_size": rows, "tie_word_embeddings": tied}
    backbone = replace(
        template.backbone, vocabulary=rows, architecture={**architecture, "text_config": text}
    )
    config = replace(template, backbone=backbone)
    if len(language.adapters) == 2:
        return with_language_expert(config)
    if len(language.adapters) > 2:
        raise CheckpointError(
            f"{len(language.adapters)} LoRA adapters; InstructVLA has two at most"
        )
    lora = replace(config.lora, experts=("action",), gate="sum")
    return replace(config, lora=lora if language.adapters else LoraConfig())


def _check_action(
    theirs: dict[str, torch.Tensor], contract: EmbodimentContract, config: InstructVLAConfig
) -> None:
    """Raises CheckpointError where chunks or states are not the contract's."""
    names = [f"action_model.action_head.{2 * len(config.expert.head_widths)}.bias"]
    names += ["action_model.action_head.0.weight", "action_model.action_embed.linear_1.weight"]
    if lacking := [name for name in names if name not in theirs]:
        raise CheckpointError(f"the weights do not fit this preset: missing {', '.join(lacking)}")
    action_size = theirs[names[2]].shape[1]
    horizon = len(theirs[names[0]]) // action_size
    wanted = (contract.horizon, len(contract.action_names))
    if (horizon, action_size) != wanted:
        raise CheckpointError(
            f"the weights give chunks of {horizon} x {action_size} actions, but contract "
            f"'{contract.name}' has {wanted[0]} x {wanted[1]}; give the contract of their robot"
        )
    state = theirs.get("action_model.state_embed.0.weight")
    if state is not None and state.shape[1] != len(contract.state_names):
        raise CheckpointError(
            f"the weights take a state of {state.shape[1]} values, but contract "
            f"'{contract.name}' has {len(contract.state_names)}; give the contract of their robot"
        )


def _cameras(contract: EmbodimentContract, count: int) -> tuple[str, ...]:
    """The reference camera and then the others, so many of them."""
    names = sorted(
        (camera.name for camera in contract.cameras), key=lambda n: n != contract.reference_camera
    )
    if len(names) < count:
        raise CheckpointError(
            f"the model takes {count} cameras, but contract '{contract.name}' has {len(names)}"
        )
    return tuple(names[:count])


def data_sets(path: str | Path) -> list[str]:
    """Keys of the data sets in a released dataset_statistics.json. Raises CheckpointError."""
    return sorted(_statistics(path))


def _statistics(path: str | Path) -> dict[str, dict]:
    content = read_json(path, CheckpointError, MOST_STATISTICS, finite=False)
    path = shown_path(path)
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise CheckpointError(f"{path} is no mapping of data sets to statistics; fetch it again")
    return content


def _vector(content: dict, name: str, where: str) -> dict[str, Any]:
    vector = content.get(name)
    if not isinstance(vector, dict):
        raise CheckpointError(f"{where} has no statistics of '{name}'; fetch it again")
    return vector


def read_statistics(
    path: str | Path, key: str | None, contract: EmbodimentContract, uses_state: bool
) -> dict[str, NormStats]:
    """Normalisation out of a released dataset_statistics.json.

    key: of the data set in it; None where it has one only. Actions that its mask leaves out, or
    the gripper where there is no mask, are binary; everything else lies between the quantiles,
    angles too, as the authors have it. What else the file knows of the values is kept. Raises
    CheckpointError where the file, the key or its dimensions do not fit.
    """
    content = _statistics(path)
    if key is None and len(content) == 1:
        key = next(iter(content))
    if key not in content:
        raise CheckpointError(
            f"{shown_path(path)} has statistics of {listed(sorted(content))}; name one of "
            "them with --unnorm-key"
        )
    where = f"{shown_path(path)}: {one_line(key, 60)}"
    action = _vector(content[key], "action", where)
    mask = action.get("mask", [name != "gripper" for name in contract.action_names])
    if not isinstance(mask, list):
        raise CheckpointError(f"{where}: action: mask must be a list, got {brief(mask)}")
    kinds = tuple(RELATIVE if scaled else BINARY for scaled in mask)
    stats = {"action": _stats(action, contract.action_names, kinds, f"{where}: action")}
    if uses_state:
        every = (ABSOLUTE,) * len(contract.state_names)
        state = _vector(content[key], "proprio", where)
        stats["state"] = _stats(state, contract.state_names, every, f"{where}: proprio")
    else:
        # Never read, but a part of every checkpoint that acts.
        one = np.ones(len(contract.state_names))
        stats["state"] = NormStats(contract.state_names, (ABSOLUTE,) * len(one), -one, one)
    return stats


def _stats(entry: dict, names: tuple[str, ...], kinds: tuple[str, ...], where: str) -> NormStats:
    arrays = {
        name: np.array(
            checked_numbers(
                entry.get(name), f"{where}: {name}", CheckpointError, MOST_DIMENSIONS, LARGEST
            )
        )
        for name in ("q01", "q99", "mean", "std", "min", "max")
        if name in entry or name.startswith("q")
    }
    lengths = {len(kinds), *map(len, arrays.values())} - {len(names)}
    if lengths:
        raise CheckpointError(f"{where} has {min(lengths)} values, the contract {len(names)}")
    return NormStats(names, kinds, **arrays)


def check_tokenizer(tokenizer: Tokenizer, config: InstructVLAConfig, resized: bool) -> None:
    """Raises CheckpointError where a tokenizer is not of a converted model's language model.

    resized: whether the vocabulary ends where the action queries began, as in a checkpoint of
    InstructVLA; that of Eagle 2 may have rows without a token.
    """
    end_id(tokenizer, config.backbone.chat)
    count = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    rows = config.backbone.vocabulary
    if count > rows or (resized and count < rows):
        raise CheckpointError(
            f"the tokenizer has {count} tokens, the weights {rows} beside the action queries; give "
            "the tokenizer of Eagle2-2B without action queries, or their number with --queries"
        )
