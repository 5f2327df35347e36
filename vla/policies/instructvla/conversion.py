"""The released checkpoints of InstructVLA, and of its base model, as our folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from vla.contract.embodiment import EmbodimentContract
from vla.core.shown import brief, shown_path
from vla.core.tensors import read_tensors
from vla.core.text import one_line
from vla.policies.checkpoint import build_model
from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.conversion_names import (
    LanguageNames,
    language_names,
    replaced_names,
    split_groups,
    translate,
    unread_names,
)
from vla.policies.instructvla.presets import with_language_expert
from vla.policies.instructvla.vision_source import VisionWeights, read_vision
from vla.policies.loaded import Allowed, Loaded, require_fit, split_unread
from vla.policies.released import Converted, contract_cameras, read_torch
from vla.policies.sequence import end_id

Groups = dict[str, dict[str, torch.Tensor]]


def read_released(path: str | Path) -> Groups:
    """The groups of tensors of a released InstructVLA file (.pt), on disk until used.

    Raises CheckpointError where it cannot be read or is something else.
    """
    content = read_torch(path)
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
    groups: Groups,
    template: InstructVLAConfig,
    contract: EmbodimentContract,
    vision_source: str = "",
    allowed: Allowed | None = None,
) -> Converted:
    """A released InstructVLA under our names.

    template: a preset with the sizes. The weights determine the LoRA experts, the vocabulary, the
    state token and the tying of the head; the contract the cameras' names. vision_source: of a
    DINOv2 that takes the place of theirs, see read_vision. allowed: which of their tensors may be
    missing or left over. Raises CheckpointError where weights, template and contract do not match.
    """
    vision = read_vision(vision_source, template.expert) if vision_source else None
    theirs, idle = split_groups(groups)
    language = language_names(theirs, template.num_queries)
    config = _fit_language(template, theirs, language)
    _check_action(theirs, contract, config)
    uses_state = "action_model.state_embed.0.weight" in theirs
    config = _with_cameras(config, contract)
    config = replace(config, expert=replace(config.expert, use_state=uses_state))
    with torch.device("meta"):
        ours = build_model(config, contract).state_dict()
    return _converted(config, theirs, ours, language, idle, vision, allowed)


def convert_eagle(
    groups: Groups,
    template: InstructVLAConfig,
    contract: EmbodimentContract,
    vision_source: str = "",
    allowed: Allowed | None = None,
) -> Converted:
    """A released Eagle 2 as the reasoning part of a model, with new action queries.

    With a vision_source, its DINOv2 is in the action expert. Arguments and errors as above;
    training starts from the result.
    """
    vision = read_vision(vision_source, template.expert) if vision_source else None
    theirs, idle = split_groups(groups)
    language = language_names(theirs, queries=0)
    config = _with_cameras(_fit_language(template, theirs, language), contract)
    with torch.device("meta"):
        ours = build_model(config, contract).state_dict()
    wanted = {n: v for n, v in ours.items() if n.startswith("reasoning.backbone.")}
    converted = _converted(config, theirs, wanted, language, idle, vision, allowed)
    for name in ("reasoning.query_embedding", "reasoning.query_output"):
        converted.weights[name] = torch.randn(ours[name].shape) * 0.02
        converted.random[name] = ours[name].numel()
    return converted


def _converted(
    config: InstructVLAConfig,
    theirs: dict[str, torch.Tensor],
    ours: dict[str, torch.Tensor],
    language: LanguageNames,
    idle: dict[str, int],
    vision: VisionWeights | None,
    allowed: Allowed | None,
) -> Converted:
    """Their tensors under the names of ours, with DINOv2 from elsewhere where that is given."""
    unread = unread_names(config.expert)
    if vision is not None:
        unread = (*unread, *replaced_names(vision.weights))
        ours = {name: value for name, value in ours.items() if name not in vision.weights}
    found = translate(theirs, ours, language)
    left_over, known = split_unread(found.left_over, unread)
    require_fit("this preset", found.missing, left_over, found.odd, allowed)
    taken = {name: value.numel() for name, value in found.made.items()}
    loaded = [Loaded("the released weights", taken, left_over, known | idle)]
    random = {name: value.numel() for name, value in ours.items() if name not in found.made}
    if vision is None:
        return Converted(config, found.made, loaded, random)
    require_fit("this action expert", [], vision.loaded.left_over, [], allowed)
    return Converted(config, found.made | vision.weights, [*loaded, vision.loaded], random)


def _with_cameras(config: InstructVLAConfig, contract: EmbodimentContract) -> InstructVLAConfig:
    """The same number of cameras by the contract's names. Raises CheckpointError for too many."""
    return replace(
        config,
        vlm_cameras=contract_cameras(contract, len(config.vlm_cameras)),
        expert_cameras=contract_cameras(contract, len(config.expert_cameras)),
    )


def _fit_language(
    template: InstructVLAConfig, theirs: dict[str, torch.Tensor], language: LanguageNames
) -> InstructVLAConfig:
    """The template with their LoRA experts, vocabulary and tying; completes a tied head."""
    embedding = theirs[f"{language.prefix}model.embed_tokens.weight"]
    head = theirs.setdefault(f"{language.prefix}lm_head.weight", embedding)
    rows = len(embedding) - language.queries
    # New rows may be trained separately; the older ones show the tying.
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


def check_tokenizer(tokenizer: Tokenizer, config: InstructVLAConfig, resized: bool) -> None:
    """Raises CheckpointError where a tokenizer does not belong to a converted model.

    resized: whether the vocabulary ends where the action queries began, as in a checkpoint of
    InstructVLA; Eagle 2's may have rows without a token.
    """
    end_id(tokenizer, config.backbone.chat)
    count = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    rows = config.backbone.vocabulary
    if count > rows or (resized and count < rows):
        raise CheckpointError(
            f"the tokenizer has {count} tokens, the weights {rows} beside the action queries; give "
            "the tokenizer of Eagle2-2B without action queries, or their number with --queries"
        )
