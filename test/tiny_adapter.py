"""Adapters with random weights for checkpoints of any type that takes them."""

import json
import shutil
from pathlib import Path

import torch

from vla.policies.adapters import save_adapter
from vla.policies.checkpoint import build_model, open_checkpoint
from vla.policies.config import AdapterConfig
from vla.policies.lora import adapter_layers, adapter_weights


def save_tiny_adapter(checkpoint: Path, folder: Path, seed: int = 0) -> Path:
    """Writes an adapter of a checkpoint into `folder` and returns it."""
    base = open_checkpoint(checkpoint)
    config = AdapterConfig(rank=2, alpha=4.0)
    torch.manual_seed(seed)
    model = build_model(base.config, base.contract)
    base.type.insert_adapter(model, config)
    for layer in adapter_layers(model).values():
        torch.nn.init.normal_(layer.lora_b, std=0.1)
    weights = {name: model.get_parameter(name) for name in adapter_weights(model)}
    save_adapter(folder, weights, base, config, {}, "A test's adapter.\n")
    return folder


def with_description(adapter: Path, folder: Path, **entries: object) -> Path:
    """A copy of an adapter with other entries in adapter.json."""
    shutil.copytree(adapter, folder)
    description = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps(description | entries))
    return folder
