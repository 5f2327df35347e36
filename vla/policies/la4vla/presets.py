"""Named sizes of LA4VLA."""

from __future__ import annotations

from dataclasses import replace

from vla.policies.backbones.internvl import NANO, InternVL
from vla.policies.config import BackboneConfig
from vla.policies.la4vla.config import CrossAttentionConfig, LA4VLAConfig

# OpenGVLab/InternVL3-1B-hf: InternViT of 300M at 448 px, the first 14 of Qwen2.5-0.5B's 24 layers.
_INTERNVL3_1B = BackboneConfig(
    kind="internvl",
    source=InternVL.SOURCE,
    architecture={
        "vision_config": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "image_size": 448,
            "patch_size": 14,
        },
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": 896,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "intermediate_size": 4864,
            "vocab_size": 151674,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
        "image_token_id": 151667,
        "tie_word_embeddings": False,
    },
    width=896,
    vocabulary=151674,
    image_size=448,
    image_mean=InternVL.image_mean,
    image_std=InternVL.image_std,
    image_tokens=256,
    keep_layers=14,
    chat=InternVL.chat,
)

PRESETS = {
    config.preset: config
    for config in (
        LA4VLAConfig(preset="la4vla_1b", backbone=_INTERNVL3_1B),
        # The shipped policies' vision-language model, on two CPU cores; fewer steps of the flow.
        LA4VLAConfig(
            preset="nano_la4vla",
            backbone=NANO,
            flow=replace(LA4VLAConfig().flow, steps=10),
            head=CrossAttentionConfig(width=192, layers=4, heads=4, mlp=768, hidden=256),
        ),
    )
}
