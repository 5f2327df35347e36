"""Vision-language models by kind, one file each."""

from __future__ import annotations

from vla.policies.backbones.base import GIVEN_MASKS, Backbone, Images, TokenCache
from vla.policies.backbones.eagle import Eagle
from vla.policies.backbones.generic import Generic
from vla.policies.backbones.idefics import Idefics
from vla.policies.backbones.internvl import InternVL
from vla.policies.backbones.kosmos2 import Kosmos2
from vla.policies.backbones.llava import Llava
from vla.policies.backbones.paligemma import PaliGemma
from vla.policies.backbones.qwen2_5_vl import Qwen25VL
from vla.policies.backbones.qwen3_vl import Qwen3VL
from vla.policies.backbones.smolvlm import SmolVLM
from vla.policies.config import BackboneConfig, CheckpointError, LoraConfig

KINDS: dict[str, type[Backbone]] = {
    "eagle": Eagle,
    "generic": Generic,
    "idefics": Idefics,
    "internvl": InternVL,
    "kosmos2": Kosmos2,
    "llava": Llava,
    "paligemma": PaliGemma,
    "qwen2_5_vl": Qwen25VL,
    "qwen3_vl": Qwen3VL,
    "smolvlm": SmolVLM,
}


def build_backbone(config: BackboneConfig, lora: LoraConfig | None = None) -> Backbone:
    """The backbone with random weights. Raises CheckpointError for an unknown kind."""
    if config.kind not in KINDS:
        raise CheckpointError(
            f"unknown backbone '{config.kind}'; known: {', '.join(sorted(KINDS))}"
        )
    return KINDS[config.kind](config, lora)


def packs_turns(config: BackboneConfig) -> bool:
    """Whether turns that don't see each other may share a row: its decoder takes any mask."""
    text = config.architecture.get("text_config", {})
    return text.get("model_type", KINDS[config.kind].text_type) in GIVEN_MASKS


__all__ = ["KINDS", "Backbone", "Images", "TokenCache", "build_backbone", "packs_turns"]
