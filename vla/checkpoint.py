"""Checkpoints: a folder with everything that a policy needs, and no more.

config.json, model.safetensors (half precision), norm_stats.json, contract.yaml, tokenizer.json and
a model card, README.md.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from vla.contract import ContractError, EmbodimentContract, load_contract
from vla.data.normalization import (
    NormalizationError,
    NormStats,
    read_norm_stats,
    write_norm_stats,
)
from vla.models.config import CheckpointError, InstructVLAConfig, read_config, write_config
from vla.models.tokenizer import load_tokenizer
from vla.models.vision_language_action import InstructVLA

WEIGHTS = "model.safetensors"


@dataclass
class Checkpoint:
    """An opened checkpoint. checkpoint_id: first 12 hexadecimal digits of the weights' SHA-256."""

    config: InstructVLAConfig
    contract: EmbodimentContract
    stats: dict[str, NormStats]
    tokenizer: Tokenizer
    checkpoint_id: str
    folder: Path


def build_model(config: InstructVLAConfig, contract: EmbodimentContract) -> InstructVLA:
    """A randomly initialised model for an embodiment."""
    return InstructVLA(
        config, len(contract.state_names), contract.horizon, len(contract.action_names)
    )


def save_checkpoint(
    folder: str | Path,
    model: InstructVLA,
    contract: EmbodimentContract,
    stats: dict[str, NormStats],
    tokenizer: Tokenizer,
) -> None:
    """Writes a checkpoint folder; existing files are replaced one by one, each whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(model.config, folder)
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract.to_dict(), sort_keys=False))
    write_norm_stats(stats, folder / "norm_stats.json")
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        # Tied to the input embedding; loading ties it again.
        if not name.endswith("lm_head.weight")
    }
    temporary = folder / f"{WEIGHTS}.part"
    save_file(weights, temporary)
    os.replace(temporary, folder / WEIGHTS)


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Reads everything but the weights. Raises CheckpointError, one sentence."""
    folder = Path(folder)
    config = read_config(folder)
    try:
        contract = load_contract(folder / "contract.yaml")
        names = {"state": contract.state_names, "action": contract.action_names}
        stats = read_norm_stats(folder / "norm_stats.json", names)
    except (ContractError, NormalizationError) as error:
        raise CheckpointError(str(error)) from error
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS}; it is not a complete checkpoint")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    return Checkpoint(config, contract, stats, load_tokenizer(folder), digest, folder)


def load_weights(checkpoint: Checkpoint, module: torch.nn.Module, prefix: str, device: str) -> None:
    """Fills one half of the model ("reasoning." or "expert.") or, with prefix "", all of it.

    Raises CheckpointError that names what is missing, superfluous or of another shape.
    """
    path = checkpoint.folder / WEIGHTS
    try:
        weights = load_file(path, device=device)
    except Exception as error:  # safetensors raises its own, undocumented kind
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    own = {
        name.removeprefix(prefix): value.float()
        for name, value in weights.items()
        if name.startswith(prefix)
    }
    expected = module.state_dict()
    for name, value in own.items():
        if name in expected and expected[name].shape != value.shape:
            raise CheckpointError(
                f"{path}: {prefix}{name} has shape {list(value.shape)}, but config.json and "
                f"contract.yaml need {list(expected[name].shape)}"
            )
    result = module.load_state_dict(own, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith("lm_head.weight")]
    if missing or result.unexpected_keys:
        raise CheckpointError(
            f"{path} does not fit config.json: missing {missing[:3]}, "
            f"superfluous {result.unexpected_keys[:3]}"
        )
