"""Checkpoints of RoboVLMs' authors as our folders.

Their file is a state dict, alone or within what Lightning or DeepSpeed saves. The language and
vision weights are named as transformers names them, and are renamed by transformers; the heads are
named as here, but for what stands before them. The configuration is a JSON file beside it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from vla.contract.embodiment import EmbodimentContract
from vla.contract.normalization import BINARY, RELATIVE, NormStats
from vla.core.shown import brief, shown_path
from vla.core.text import one_line
from vla.policies.backbones import build_backbone
from vla.policies.backbones.pretrained import quietly
from vla.policies.config import (
    ActionLossConfig,
    BackboneConfig,
    CheckpointError,
)
from vla.policies.loaded import Allowed, Loaded, require_fit
from vla.policies.released import Converted, contract_cameras, read_torch, unread_state
from vla.policies.robovlms.build import build_model
from vla.policies.robovlms.config import (
    ActionTokensConfig,
    HeadConfig,
    ResamplerConfig,
    RoboVLMConfig,
    RoboVLMPrompts,
    StructureConfig,
    require_structure,
)
from vla.policies.robovlms.conversion_config import TRUNKS, Released, ReleasedHead, words_of

Tensors = dict[str, torch.Tensor]

GPT_HEADS = 8
RESAMPLER_HEAD_WIDTH = 64
ACTION_OFFSET = 10  # rows between action tokens and special tokens

# What stands before their names: Lightning's module, DeepSpeed's, and its forward module.
_PREFIX = re.compile(r"^((_forward_)?module\.|model\.)*")
# Not in our model: heads that predict no actions, GPT-2's word embedding and masks, state tokens
# that their code never reads, and what is computed from the configuration.
_IDLE = re.compile(
    r"^(fwd_head|clip_norm_head|embed_(arm_|gripper_)?state)\."
    r"|^(static|hand)_image_tokens$|^act_head\.gpt\.(wte\.weight|h\.\d+\.attn\.(masked_)?bias)$"
    r"|\.position_ids$|\.rotary_emb\.inv_freq$"
)
_HEAD = (
    (re.compile(r"^act_head\.(rnn|mlp|fc|gpt)\."), r"head.trunk.\1."),
    (re.compile(r"^act_head\.(actions|gripper)\."), r"head.output.\1."),
)


def read_released(path: str | Path) -> Tensors:
    """Their tensors by their names, less what stands before them. Raises CheckpointError."""
    content = read_torch(path)
    for group in ("state_dict", "model_state_dict", "module"):
        if isinstance(content, dict) and isinstance(content.get(group), dict):
            content = content[group]
    where = shown_path(path)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{where} is no state dict; give the .pt or .ckpt file of a run")
    tensors = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{where}: {brief(name)} is no tensor of RoboVLMs; give the state dict of a run"
            )
        tensors[_PREFIX.sub("", name)] = value
    if not any(name.startswith("backbone.") for name in tensors):
        raise CheckpointError(f"{where} has no backbone.*: it is no checkpoint of RoboVLMs")
    return tensors


def convert_released(
    tensors: Tensors,
    released: Released,
    backbone: BackboneConfig,
    contract: EmbodimentContract,
    allowed: Allowed | None = None,
) -> Converted:
    """A released RoboVLM under our names, as it was published (docs/robovlms.md).

    backbone: of the vision-language model that it was trained from. allowed: what may be missing,
    by our names, or left over. Raises CheckpointError where weights, configuration, backbone and
    contract do not fit each other.
    """
    if released.fwd_pred_next_n != contract.horizon:
        raise CheckpointError(
            f"the head gives chunks of {released.fwd_pred_next_n} steps, but contract "
            f"'{contract.name}' has {contract.horizon}; give the contract of its robot"
        )
    backbone = replace(backbone, chat=words_of(released), image_size=released.image_size)
    used = {name: value for name, value in tensors.items() if not _IDLE.search(name)}
    config = _config(used, released, backbone, contract)
    require_structure(config, "their configuration")
    if config.resampler.tokens and backbone.kind == "paligemma":
        raise CheckpointError(
            "a resampler on PaliGemma is not converted: it read image tokens of another scale"
        )
    weights = _backbone_weights(used, config.backbone, allowed) | _own_weights(used, config)
    with torch.device("meta"):
        ours = build_model(config, contract).state_dict()
    odd = [
        f"{name} {list(weights[name].shape)}, not {list(like.shape)}"
        for name, like in ours.items()
        if name in weights and weights[name].shape != like.shape
    ]
    missing, others = ours.keys() - weights, weights.keys() - ours
    require_fit("their configuration", missing, others, odd, allowed)
    given = {name: value for name, value in weights.items() if name in ours}
    taken = {name: value.numel() for name, value in given.items()}
    left_over = {name: weights[name].numel() for name in others}
    unread = {name: value.numel() for name, value in tensors.items() if name not in used}
    loaded = Loaded("the released weights", taken, left_over, unread)
    return Converted(config, given, [loaded], {name: ours[name].numel() for name in missing})


def _config(
    tensors: Tensors, released: Released, backbone: BackboneConfig, contract: EmbodimentContract
) -> RoboVLMConfig:
    head = released.act_head
    discrete, learned = head.action_space == "discrete", head.action_space == "continuous"
    structure = StructureConfig(
        kind=_structure_kind(released),
        actions="discrete" if discrete else "continuous",
        window=released.window_size,
        history_step=contract.time_step,
        latent=head.latent,
        token_source="learned" if learned or discrete else head.token_source,
        token_place="before_last" if learned else "after_text",
        both_ways=False,
    )
    cameras = contract_cameras(contract, 2 if released.use_hand_rgb else 1)
    prompts = RoboVLMPrompts()
    if discrete:
        steps = (
            "action"
            if released.fwd_pred_next_n == 1
            else f"{released.fwd_pred_next_n} step actions"
        )
        prompts = RoboVLMPrompts(f"What {steps} should the robot take to {{instruction}}?")
    return RoboVLMConfig(
        preset="released",
        cameras=tuple(reversed(cameras)),  # each was put in at the same place, the hand's last
        backbone=backbone,
        structure=structure,
        head=HeadConfig() if discrete else _head(tensors, head),
        resampler=_resampler(tensors),
        action_tokens=_action_tokens(backbone, head) if discrete else ActionTokensConfig(),
        loss=ActionLossConfig("huber", released.arm_gripper_loss_ratio),
        prompts=prompts,
    )


def _structure_kind(released: Released) -> str:
    head = released.act_head
    if head.action_space == "discrete":
        return "one_step"
    if head.history_type == "pre" and released.window_size > 1:
        return "interleaved"
    flat = released.window_size == 1 and head.type == "FCDecoder"
    return "one_step" if flat else "policy_head"


def _head(tensors: Tensors, head: ReleasedHead) -> HeadConfig:
    """The sizes of a head, which their configuration leaves to their code."""
    trunk = TRUNKS.get(head.type)
    if trunk is None:
        raise CheckpointError(f"act_head: type {head.type} goes with action_space discrete")
    pattern = (
        r"act_head\.rnn\.weight_ih_l(\d+)" if trunk == "lstm" else r"act_head\.gpt\.h\.(\d+)\..+"
    )
    layers = {int(found[1]) for name in tensors if (found := re.fullmatch(pattern, name))}
    rows = {
        int(found[1]): len(value)
        for name, value in tensors.items()
        if (found := re.fullmatch(r"act_head\.actions\.mlp\.(\d+)\.weight", name))
    }
    if not rows or (trunk != "fc" and not layers):
        raise CheckpointError(
            f"the weights have no act_head of type {head.type}; give the configuration of this run"
        )
    return HeadConfig(
        trunk=trunk,
        hidden=head.hidden_size,
        layers=max(layers, default=0) + 1,
        heads=GPT_HEADS,
        widths=tuple(rows[index] for index in sorted(rows)[:-1]),
    )


def _resampler(tensors: Tensors) -> ResamplerConfig:
    latents = tensors.get("vision_resampler.latents")
    if latents is None:
        return ResamplerConfig()
    pattern = r"vision_resampler\.layers\.(\d+)\.0\.to_q\.weight"
    inner = [len(value) for name, value in tensors.items() if re.fullmatch(pattern, name)]
    return ResamplerConfig(
        tokens=len(latents),
        depth=max(len(inner), 1),
        heads=max(inner, default=RESAMPLER_HEAD_WIDTH) // RESAMPLER_HEAD_WIDTH or 1,
        head_width=RESAMPLER_HEAD_WIDTH,
    )


def _action_tokens(backbone: BackboneConfig, head: ReleasedHead) -> ActionTokensConfig:
    """Rows in front of the tokenizer's special tokens, as their tokenizer counts both."""
    tokenizer: Any = AutoTokenizer.from_pretrained(backbone.source)
    special = sum(
        len(value) if isinstance(value, list) else 1
        for value in tokenizer.special_tokens_map.values()
    )
    return ActionTokensConfig(
        bins=head.n_bin,
        rows="reused",
        offset=ACTION_OFFSET,
        special=backbone.vocabulary - tokenizer.vocab_size + special,
    )


def own_names(tensors: Tensors) -> Tensors:
    """Heads, learned token and resampler by our names, without what nothing needs."""
    weights = {}
    for name, value in tensors.items():
        if name.startswith("backbone.") or _IDLE.search(name):
            continue
        for theirs, ours in _HEAD:
            name = theirs.sub(ours, name)
        weights[name] = value
    return weights


def _own_weights(tensors: Tensors, config: RoboVLMConfig) -> Tensors:
    weights = own_names(tensors)
    if config.backbone.kind == "paligemma" and "action_token" in weights:
        # Gemma multiplied all that it was given by this; now its word embedding does.
        weights["action_token"] = weights["action_token"] * config.backbone.width**0.5
    return weights


def _backbone_weights(tensors: Tensors, config: BackboneConfig, allowed: Allowed | None) -> Tensors:
    """Of the vision-language model, renamed by transformers from whatever version wrote them."""
    theirs = {
        name.removeprefix("backbone."): value
        for name, value in tensors.items()
        if name.startswith("backbone.")
    }
    with torch.device("meta"):
        sized = build_backbone(config).model
    try:
        load: Any = type(sized).from_pretrained  # Its types know no pair.
        with quietly():
            model, report = load(
                None,
                config=sized.config,
                state_dict=theirs,
                dtype=next(iter(theirs.values())).dtype,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises whatever it meets
        raise CheckpointError(
            f"the weights are of no {config.kind} model: {one_line(error)}; give the backbone "
            "that they were trained from"
        ) from error
    require_fit(
        f"backbone {config.source or config.kind}",
        report["missing_keys"],
        report["unexpected_keys"],
        [
            f"{name} {list(found)}, not {list(wanted)}"
            for name, found, wanted in report["mismatched_keys"]
        ],
        allowed,
    )
    return {
        f"backbone.model.{name}": value
        for name, value in model.state_dict().items()
        if name not in report["missing_keys"]
    }


def released_stats(
    released: Released,
    contract: EmbodimentContract,
    stats: NormStats | None,
    units: tuple[float, float],
) -> dict[str, NormStats]:
    """Normalisation of actions: their clip, behind the quantiles of a data set where it had any.

    stats: of the data set's actions; the clip then is one of the normalised values, as published.
    units: what 1 is of their translations [m] and rotations [rad]. Raises CheckpointError where
    there is neither.
    """
    names = contract.action_names
    if stats is None and not released.norm_action:
        raise CheckpointError(
            "their configuration has no norm_action, so that actions were normalised by statistics "
            "of the data set; give --stats"
        )
    arm = np.array([name != "gripper" for name in names])
    if stats is None:
        scale = np.array([units[0]] * 3 + [units[1]] * (len(names) - 3))
        low, high = released.norm_min * scale, released.norm_max * scale
        kinds = tuple(RELATIVE if moving else BINARY for moving in arm)
    else:
        low, high, kinds = stats.q01, stats.q99, stats.kinds
        if released.norm_action:
            span = (high - low) / 2
            low, high = (
                low + (limit + 1) * span for limit in (released.norm_min, released.norm_max)
            )
    low, high = np.where(arm, low, 0.0), np.where(arm, high, 1.0)
    return {"action": NormStats(names, kinds, low, high), "state": unread_state(contract)}
