"""Named sizes of RoboVLMs."""

from __future__ import annotations

from dataclasses import replace

from vla.policies.backbones.internvl import NANO
from vla.policies.backbones.kosmos2 import Kosmos2
from vla.policies.config import BackboneConfig
from vla.policies.robovlms.config import HeadConfig, PointingConfig, RoboVLMConfig, StructureConfig

# microsoft/kosmos-2-patch14-224: CLIP ViT-L/14 at 224 px, 24 layers of width 2048, 64 image tokens.
_KOSMOS2 = BackboneConfig(
    kind="kosmos2",
    source=Kosmos2.SOURCE,
    architecture={},
    width=2048,
    vocabulary=65037,
    image_size=224,
    image_mean=Kosmos2.image_mean,
    image_std=Kosmos2.image_std,
    image_tokens=64,
    chat=Kosmos2.chat,
)
_NANO_HEAD = HeadConfig(hidden=256, layers=2, heads=4, widths=(256, 128), denoiser_width=128)


def _nano(name: str, structure: StructureConfig, trunk: str) -> RoboVLMConfig:
    """The shipped policies' backbone in another structure."""
    return RoboVLMConfig(
        preset=name,
        backbone=NANO,
        structure=structure,
        head=replace(_NANO_HEAD, trunk=trunk),
        # So small a model learns to look only where it is shown what to look for.
        pointing=PointingConfig(0 if structure.actions == "discrete" else 64),
    )


PRESETS = {
    config.preset: config
    for config in (
        # The paper's best: window 16, side and wrist view, an LSTM (supplementary table 1).
        RoboVLMConfig(
            preset="robovlm_kosmos2",
            backbone=_KOSMOS2,
            structure=StructureConfig("policy_head", window=16),
        ),
        _nano("nano_policy_head", StructureConfig("policy_head", window=8), "lstm"),
        _nano("nano_interleaved", StructureConfig("interleaved", window=8), "fc"),
        _nano("nano_one_step", StructureConfig("one_step", window=1), "fc"),
        _nano("nano_discrete", StructureConfig("one_step", "discrete", window=1), "fc"),
    )
}
