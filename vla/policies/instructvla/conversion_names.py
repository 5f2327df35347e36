"""How our tensors are made from those of the released InstructVLA.

The released checkpoints name their tensors as PEFT, timm and transformers do, in four groups:
vision_model, language_model, mlp1 and action_model. Each of our tensors is made from none, one or
several of theirs, and each of theirs must be used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from vla.policies.config import CheckpointError
from vla.policies.instructvla.config import ActionExpertConfig

Build = Callable[[list[torch.Tensor]], torch.Tensor]

# PEFT's names around a language model: with a gate, with one adapter, without any.
_WRAPPINGS = ("base_model.lora_model.model.", "base_model.model.", "")
_GATE = "base_model.internal_xlora_classifier."

# Not in our model: SigLIP's pooling head, and what is computed from the configuration.
_IDLE = re.compile(r"^vision_model\.head\.|\.position_ids$|\.rotary_emb\.inv_freq$")


@dataclass(frozen=True)
class Recipe:
    """How one of our tensors is made of theirs."""

    sources: tuple[str, ...]
    build: Build | None = None  # None where one is taken as it is


@dataclass(frozen=True)
class LanguageNames:
    """How a released language model is wrapped."""

    prefix: str  # of its names
    adapters: tuple[str, ...]  # PEFT's names of the LoRA adapters, empty for a plain one
    queries: int  # how many of its last rows are action queries


def language_names(names: Iterable[str], queries: int) -> LanguageNames:
    """Reads the wrapping off a checkpoint's names. Raises CheckpointError for an unknown one."""
    names = [n.removeprefix("language_model.") for n in names if n.startswith("language_model.")]
    for prefix in _WRAPPINGS:
        if any(name.startswith(f"{prefix}model.embed_tokens.") for name in names):
            found = {match[1] for name in names if (match := re.search(r"\.lora_A\.(\w+)\.", name))}
            return LanguageNames(f"language_model.{prefix}", tuple(sorted(found)), queries)
    raise CheckpointError(
        "language_model has no embedding under a known name: not a checkpoint of InstructVLA"
    )


def split_groups(
    groups: dict[str, dict[str, torch.Tensor]],
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """The tensors of all groups by one name each, "group.name", and the sizes of idle ones.

    Older versions of transformers have SigLIP's names one level deeper; here that level is gone.
    """
    used, idle = {}, {}
    for group, part in groups.items():
        for name, value in part.items():
            if group == "vision_model":
                name = name.removeprefix("vision_model.")
            if _IDLE.search(f"{group}.{name}"):
                idle[f"{group}.{name}"] = value.numel()
            else:
                used[f"{group}.{name}"] = value
    return used, idle


# Action expert: ours, and theirs where one tensor becomes one.
_EXPERT = (
    (r"layers\.(\d+)\.norm1\.", r"VideoGPT.model.layers.\1.input_layernorm."),
    (r"layers\.(\d+)\.norm2\.", r"VideoGPT.model.layers.\1.post_attention_layernorm."),
    (r"layers\.(\d+)\.projection\.", r"VideoGPT.model.layers.\1.self_attn.o_proj."),
    (r"layers\.(\d+)\.(gate|up|down)\.", r"VideoGPT.model.layers.\1.mlp.\2_proj."),
    (r"norm\.", "VideoGPT.model.norm."),
    (r"vision_projector\.", "visual_projector."),
    (r"latent_projector\.", "cog_projector."),
    (r"state_projector\.", "state_embed."),
    (r"action_embedding\.", "action_embed.linear_1."),
    (r"action_projector\.0\.", "action_embed.linear_2."),
    (r"action_projector\.2\.", "action_embed.linear_3."),
    (r"head\.", "action_head."),
    (r"vision\.films\.(\d+)\.gamma\.", r"@blocks.\1.scale."),
    (r"vision\.films\.(\d+)\.beta\.", r"@blocks.\1.shift."),
    (r"vision\.model\.embeddings\.cls_token$", "@cls_token"),
    (r"vision\.model\.embeddings\.register_tokens$", "@reg_token"),
    (r"vision\.model\.embeddings\.patch_embeddings\.projection\.", "@patch_embed.proj."),
    (r"vision\.model\.encoder\.layer\.(\d+)\.norm([12])\.", r"@blocks.\1.block.norm\2."),
    (r"vision\.model\.encoder\.layer\.(\d+)\.attention\.o_proj\.", r"@blocks.\1.block.attn.proj."),
    (
        r"vision\.model\.encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$",
        r"@blocks.\1.block.ls\2.gamma",
    ),
    (r"vision\.model\.encoder\.layer\.(\d+)\.mlp\.", r"@blocks.\1.block.mlp."),
)
FILM = "action_model.film_vision_model.vision_model."  # before the names of their DINOv2


def timm_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a DINOv2 of timm by the names that they have in a released action model."""
    return {FILM + re.sub(r"^blocks\.(\d+)\.", r"blocks.\1.block.", n): v
            for n, v in tensors.items()}  # fmt: skip


def replaced_names(weights: Iterable[str]) -> tuple[str, ...]:
    """Their names of what makes up these weights of ours."""
    recipes = [recipe(name, LanguageNames("", (), 0)) for name in weights]
    return tuple(source for one in recipes if one is not None for source in one.sources)


def unread_names(config: ActionExpertConfig) -> tuple[str, ...]:
    """What names of theirs begin with that nothing reads: DINOv2 behind the feature block."""
    later = range(config.vision_feature_block + 1, config.vision_layers)
    return (*(f"{FILM}blocks.{index}." for index in later), f"{FILM}norm.")


def recipe(name: str, language: LanguageNames) -> Recipe | None:
    """The recipe for our tensor of that name; None for one without a counterpart."""
    if name.startswith("expert."):
        return _expert_recipe(name.removeprefix("expert."))
    if name in ("reasoning.query_embedding", "reasoning.query_output"):
        source = "model.embed_tokens" if name.endswith("embedding") else "lm_head"
        rows = language.queries
        # Copies: of a tied head, both are the same memory, and are two tensors of ours.
        return Recipe(
            (f"{language.prefix}{source}.weight",), lambda t: t[0][len(t[0]) - rows :].clone()
        )
    name = name.removeprefix("reasoning.backbone.")
    if name.startswith("scale_head."):
        return Recipe((f"language_model.{_GATE}{name.removeprefix('scale_head.')}",))
    return _backbone_recipe(name.removeprefix("model."), language)


def _expert_recipe(name: str) -> Recipe | None:
    if match := re.fullmatch(r"layers\.(\d+)\.qkv\.weight", name):
        layer = f"action_model.VideoGPT.model.layers.{match[1]}.self_attn"
        return Recipe(tuple(f"{layer}.{part}_proj.weight" for part in "qkv"), torch.cat)
    pattern = r"vision\.model\.encoder\.layer\.(\d+)\.attention\.([qkv])_proj\.(\w+)"
    if match := re.fullmatch(pattern, name):
        third = "qkv".index(match[2])
        fused = f"{FILM}blocks.{match[1]}.block.attn.qkv.{match[3]}"
        return Recipe((fused,), lambda t: t[0].chunk(3)[third])
    if name == "vision.model.embeddings.position_embeddings":
        # The released class token includes its position.
        return Recipe(
            (f"{FILM}pos_embed",), lambda t: torch.cat([torch.zeros_like(t[0][:, :1]), t[0]], 1)
        )
    for ours, theirs in _EXPERT:
        renamed, found = re.subn(f"^{ours}", theirs, name)
        if found:
            return Recipe((f"action_model.{renamed}".replace("action_model.@", FILM),))
    return None


def _backbone_recipe(name: str, language: LanguageNames) -> Recipe | None:
    for index, part in enumerate(("layer_norm", "linear_1", "", "linear_2")):
        if part and name.startswith(prefix := f"model.multi_modal_projector.{part}."):
            return Recipe((f"mlp1.{index}.{name.removeprefix(prefix)}",))
    if name.startswith(prefix := "model.vision_tower."):
        return Recipe((f"vision_model.{name.removeprefix(prefix)}",))
    rows = language.queries
    if name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
        theirs = name.replace("model.language_model.", "model.")
        return Recipe((f"{language.prefix}{theirs}",), lambda t: t[0][: len(t[0]) - rows])
    if not name.startswith("model.language_model."):
        return None
    path = language.prefix + name.replace("model.language_model.", "model.")
    path, _, leaf = path.rpartition(".")
    if leaf in ("lora_a", "lora_b"):
        letter, turned = leaf[-1].upper(), leaf == "lora_b"
        sources = tuple(f"{path}.lora_{letter}.{name}.weight" for name in language.adapters)
        return Recipe(sources, lambda t: torch.stack([m.T if turned else m for m in t]))
    if path.endswith(".base"):
        path += "_layer"
    return Recipe((f"{path}.{leaf}",))


@dataclass(frozen=True)
class Translation:
    """Tensors under our names, and what does not fit."""

    made: dict[str, torch.Tensor]
    missing: list[str]  # theirs that would be needed, or ours without a counterpart
    left_over: dict[str, int]  # parameters of theirs that nothing took, by name
    odd: list[str]  # theirs of another shape, with both shapes


def translate(
    theirs: dict[str, torch.Tensor], ours: dict[str, torch.Tensor], language: LanguageNames
) -> Translation:
    """Their tensors, from split_groups, as ours.

    ours: a model's state, used for names and shapes, so meta tensors suffice.
    """
    made: dict[str, torch.Tensor] = {}
    missing: list[str] = []
    odd: list[str] = []
    used: set[str] = set()
    for name, like in ours.items():
        steps = recipe(name, language)
        if steps is None:
            missing.append(name)
            continue
        if lacking := [source for source in steps.sources if source not in theirs]:
            missing += lacking
            continue
        used |= set(steps.sources)
        parts = [theirs[source] for source in steps.sources]
        value = parts[0] if steps.build is None else steps.build(parts)
        if value.shape != like.shape:
            odd.append(f"{', '.join(steps.sources)} {list(value.shape)}, not {list(like.shape)}")
        made[name] = value
    left_over = {name: theirs[name].numel() for name in theirs if name not in used}
    return Translation(made, missing, left_over, odd)
