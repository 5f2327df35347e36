"""Named sizes. A preset sets sizes only; the code path is one."""

from __future__ import annotations

from vla.models.config import (
    ActionExpertConfig,
    BackboneConfig,
    CheckpointError,
    InstructVLAConfig,
)

PRESETS = {
    # The shipped policy: real time on two CPU cores.
    "nano": InstructVLAConfig(preset="nano"),
    # Seconds to build and run: tests of nodes and tools.
    "test": InstructVLAConfig(
        preset="test",
        num_queries=4,
        backbone=BackboneConfig(
            image_size=96,
            patch_size=24,
            vision_width=32,
            vision_layers=1,
            vision_heads=2,
            vision_mlp=64,
            text_width=32,
            text_layers=1,
            text_heads=2,
            text_key_value_heads=1,
            text_mlp=64,
        ),
        expert=ActionExpertConfig(
            vision_width=32,
            vision_layers=1,
            vision_heads=2,
            width=32,
            layers=1,
            heads=2,
            mlp=64,
            head_widths=(256, 128),
        ),
    ),
}


def preset(name: str) -> InstructVLAConfig:
    """The configuration of that name; raises CheckpointError that lists the known ones."""
    if name not in PRESETS:
        raise CheckpointError(f"unknown preset '{name}'; known: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
