"""A tiny DINOv2 with registers, as transformers saves it and as timm names its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from released_instructvla import VISION, shake
from safetensors.torch import save_file
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

GRID = 5  # patches along a side; the action expert of released_instructvla has 4
BLOCKS = 4


def tiny_dinov2(**changes) -> Dinov2WithRegistersModel:
    """With weights that all matter, for images of 35 px. changes: to its configuration."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": VISION,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 2,
        "image_size": 7 * GRID,
        "patch_size": 7,
    }
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**(sizes | changes))).eval()
    shake(model)
    return model


def save_dinov2(folder: Path, **changes) -> tuple[str, Dinov2WithRegistersModel]:
    """A folder that transformers wrote, and what it wrote."""
    model = tiny_dinov2(**changes)
    model.save_pretrained(folder)
    return str(folder), model


def timm_state(model: Dinov2WithRegistersModel) -> dict[str, torch.Tensor]:
    """Its weights as timm's vit_*_reg4_dinov2 has them: a class token without a position."""
    own = model.state_dict()
    state = {
        "cls_token": own["embeddings.cls_token"] + own["embeddings.position_embeddings"][:, :1],
        "reg_token": own["embeddings.register_tokens"],
        "pos_embed": own["embeddings.position_embeddings"][:, 1:],
    }
    for leaf in ("weight", "bias"):
        state[f"patch_embed.proj.{leaf}"] = own[f"embeddings.patch_embeddings.projection.{leaf}"]
        state[f"norm.{leaf}"] = own[f"layernorm.{leaf}"]
        for index in range(model.config.num_hidden_layers):
            block, ours = f"blocks.{index}", f"encoder.layer.{index}"
            qkv = [own[f"{ours}.attention.{part}_proj.{leaf}"] for part in "qkv"]
            state[f"{block}.attn.qkv.{leaf}"] = torch.cat(qkv)
            state[f"{block}.attn.proj.{leaf}"] = own[f"{ours}.attention.o_proj.{leaf}"]
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{block}.{part}.{leaf}"] = own[f"{ours}.{part}.{leaf}"]
    for index in range(model.config.num_hidden_layers):
        for side in "12":
            scale = own[f"encoder.layer.{index}.layer_scale{side}.lambda1"]
            state[f"blocks.{index}.ls{side}.gamma"] = scale
    return {name: value.clone() for name, value in state.items()}


def save_timm(path: Path, model: Dinov2WithRegistersModel, **changes) -> str:
    """A file as timm's hub has them: safetensors, or torch.save's. changes: to the tensors."""
    state = timm_state(model) | changes
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)
