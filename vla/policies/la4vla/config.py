"""LA4VLA's configuration (arXiv 2606.27295): backbone, head, and what differs from its code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from vla.policies.backbones import KINDS
from vla.policies.config import (
    MOST_LAYERS,
    MOST_WIDTH,
    BackboneConfig,
    CheckpointError,
    FlowMatchingConfig,
    LoraConfig,
    bounded,
)


@dataclass
class CrossAttentionConfig:
    """The action head, as published but for its output."""

    width: int = bounded(896, 1, MOST_WIDTH)  # of the steps' hidden states
    layers: int = bounded(8, 1, MOST_LAYERS)
    heads: int = bounded(8, 1, 1024)
    mlp: int = bounded(3584, 1, MOST_WIDTH)
    hidden: int = bounded(1024, 1, MOST_WIDTH)  # inside the state's encoder and the output
    dropout: float = bounded(0.2, 0, 0.99)  # of attention weights, nowhere else
    # per_token: each step becomes its own action, whatever the horizon. flatten: all steps become
    # one vector and that the chunk, as published, for one horizon.
    pool: Literal["per_token", "flatten"] = "per_token"


@dataclass
class LA4VLAPrompts:
    """The words behind the images."""

    act: str = "{instruction}"


@dataclass
class LA4VLAConfig:
    """Everything that shapes the weights, except the embodiment contract."""

    TYPE: ClassVar[str] = "la4vla"

    preset: str = "nano_la4vla"
    cameras: tuple[str, ...] = ("front", "wrist")  # in this order in the prompt
    # Sizes that states and actions are padded to.
    max_state: int = bounded(24, 1, 1000)
    max_action: int = bounded(24, 1, 1000)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    head: CrossAttentionConfig = field(default_factory=CrossAttentionConfig)
    flow: FlowMatchingConfig = field(
        default_factory=lambda: FlowMatchingConfig(
            alpha=2.0, beta=2.0, time_scale=1.0, earliest=0.02, latest=0.98,
            noise="uniform", sigma_min=0.0, steps=32,
        )
    )  # fmt: skip
    # no_tokens: a sample without images has nothing in their place. attention_only: the published
    # flag: every sample has images, and the language model does not attend to them; they are
    # encoded all the same, and what the head reads still shows them.
    mask: Literal["no_tokens", "attention_only"] = "no_tokens"
    # What becomes -1 and 1: the 1st and 99th percentile, or the least and largest value, as
    # published.
    bounds: Literal["quantiles", "extremes"] = "quantiles"
    prompts: LA4VLAPrompts = field(default_factory=LA4VLAPrompts)


def require_choices(config: LA4VLAConfig, where: str) -> None:
    """Raises CheckpointError for choices that do not go together."""
    head, kind = config.head, config.backbone.kind
    if head.width % head.heads:
        raise CheckpointError(
            f"{where}: head.width {head.width} is no multiple of head.heads, {head.heads}; change "
            "one of them"
        )
    if config.mask == "attention_only" and kind in KINDS and KINDS[kind].attends:
        raise CheckpointError(
            f"{where}: mask attention_only hides image tokens, and backbone '{kind}' attends to "
            "images by layers of their own: set mask to no_tokens"
        )
