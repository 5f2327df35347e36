"""Sizes of backbones in the words of transformers' configurations, and tiny ones for tests."""

from __future__ import annotations

from typing import Any

from vla.policies.config import BackboneConfig


def vision_sizes(image_size: int, patch: int, sizes: tuple[int, int, int, int]) -> dict[str, Any]:
    """A vision transformer in transformers' words. sizes: width, layers, heads, MLP."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    image = {"image_size": image_size, "patch_size": patch}
    return dict(zip(names, sizes, strict=True)) | image


def text_sizes(vocabulary: int, sizes: tuple[int, int, int, int, int]) -> dict[str, Any]:
    """A decoder in transformers' words. sizes: width, layers, heads, key-value heads, MLP."""
    names = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
    )
    return dict(zip(names, sizes, strict=True)) | {"vocab_size": vocabulary}


def tiny_backbone(
    kind: str, image_tokens: int, image_size: int = 28, **architecture: Any
) -> BackboneConfig:
    """The configuration of a tiny model with parts as tiny_text and tiny_vision size them."""
    return BackboneConfig(
        kind, "", architecture, width=32, vocabulary=320, image_size=image_size,
        image_tokens=image_tokens,
    )  # fmt: skip


def tiny_text(**values: Any) -> dict[str, Any]:
    """Sizes of a tiny language model, with weights large enough for attention to matter."""
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 320,
        "initializer_range": 0.3,
        **values,
    }


def tiny_vision(**values: Any) -> dict[str, Any]:
    """Sizes of a tiny vision transformer: 4 x 4 patches of 7 px."""
    return {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 28,
        "patch_size": 7,
        "initializer_range": 0.3,
        **values,
    }
