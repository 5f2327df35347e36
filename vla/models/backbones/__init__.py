"""Vision-language models by kind, one file each."""

from __future__ import annotations

from vla.models.backbones.base import Backbone, TokenCache
from vla.models.backbones.eagle import Eagle
from vla.models.backbones.internvl import InternVL
from vla.models.backbones.kosmos2 import Kosmos2
from vla.models.backbones.llava import Llava
from vla.models.backbones.paligemma import PaliGemma
from vla.models.backbones.qwen2_5_vl import Qwen25VL
from vla.models.backbones.smolvlm import SmolVLM
from vla.models.config import BackboneConfig, CheckpointError, LoraConfig

KINDS: dict[str, type[Backbone]] = {
    "eagle": Eagle,
    "internvl": InternVL,
    "kosmos2": Kosmos2,
    "llava": Llava,
    "paligemma": PaliGemma,
    "qwen2_5_vl": Qwen25VL,
    "smolvlm": SmolVLM,
}


def build_backbone(config: BackboneConfig, lora: LoraConfig | None = None) -> Backbone:
    """The backbone with random weights. Raises CheckpointError for an unknown kind."""
    if config.kind not in KINDS:
        raise CheckpointError(
            f"unknown backbone '{config.kind}'; known: {', '.join(sorted(KINDS))}"
        )
    return KINDS[config.kind](config, lora)


__all__ = ["KINDS", "Backbone", "TokenCache", "build_backbone"]
