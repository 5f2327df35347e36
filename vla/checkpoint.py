"""Checkpoints: a folder with everything that a policy needs, and no more.

config.json, model.safetensors, norm_stats.json, contract.yaml, tokenizer.json and a model card,
README.md; with several robots, those of the others in robots (vla/robots.py). Large weights are in
several files, model-00001-of-00003.safetensors and so on, with model.safetensors.index.json, as in
the Hugging Face hub's folders.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from vla.contract import EmbodimentContract
from vla.data.normalization import NormStats
from vla.models.config import CheckpointError, InstructVLAConfig, read_config, write_config
from vla.models.tokenizer import load_tokenizer
from vla.models.vision_language_action import InstructVLA
from vla.robots import Robot, checkpoint_folder, read_robot, write_robots

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
MOST_PER_FILE = 5_000_000_000  # Bytes; more can't be put on many file systems and hosts.


@dataclass
class Checkpoint:
    """An opened checkpoint, for one of its robots.

    checkpoint_id: first 12 hexadecimal digits of the weights' SHA-256.
    """

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
    config: InstructVLAConfig,
    weights: dict[str, torch.Tensor],
    robots: list[Robot],
    tokenizer: Tokenizer,
    dtype: torch.dtype | None = torch.float16,
) -> None:
    """Writes a checkpoint folder; existing files are replaced one by one, each whole.

    weights: a model's state, or its reasoning half's alone, with names that begin "reasoning.".
    robots: that it acts for, at least one. dtype: of the stored weights; None for those that they
    have.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, folder)
    write_robots(folder, robots)
    tokenizer.save(str(folder / "tokenizer.json"))
    tied = ties_embeddings(config)
    kept = {
        name: value.detach().to("cpu", dtype or value.dtype).contiguous()
        for name, value in weights.items()
        if not (tied and name.endswith("lm_head.weight"))
    }
    _write_weights(folder, kept)


def _write_weights(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """One file, or several with an index; those of an earlier checkpoint go at the end."""
    shards = split_torch_state_dict_into_shards(weights, max_shard_size=MOST_PER_FILE)
    for name, tensors in shards.filename_to_tensors.items():
        temporary = folder / f"{name}.part"
        save_file({tensor: weights[tensor] for tensor in tensors}, temporary)
        os.replace(temporary, folder / name)
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        temporary = folder / f"{INDEX}.part"
        temporary.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        os.replace(temporary, folder / INDEX)
    else:
        (folder / INDEX).unlink(missing_ok=True)
    for file in folder.glob("model*.safetensors"):
        if file.name not in shards.filename_to_tensors:
            file.unlink()


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold a checkpoint's weights. Raises CheckpointError where one is missing."""
    folder = Path(folder)
    names = [WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / INDEX} cannot be read: {error}") from error
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}; it is not a complete checkpoint")
    return [folder / name for name in names]


def weights_digest(files: list[Path]) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the files one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()[:12]


def ties_embeddings(config: InstructVLAConfig) -> bool:
    """Whether the language model's head is its input embedding, which is stored once then."""
    architecture = config.backbone.architecture
    text = architecture.get("text_config") or {}
    tied = architecture.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
    return bool(tied)


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Reads everything but the weights. Raises CheckpointError, one sentence.

    folder: of a checkpoint, for its first robot, or of one of its robots.
    """
    robot_folder, folder = Path(folder), checkpoint_folder(folder)
    config = read_config(folder)
    robot = read_robot(robot_folder)
    digest = weights_digest(weight_files(folder))
    return Checkpoint(config, robot.contract, robot.stats, load_tokenizer(folder), digest, folder)


def read_weights(checkpoint: Checkpoint, device: str = "cpu") -> dict[str, torch.Tensor]:
    """All weights by name. Raises CheckpointError for a damaged file."""
    weights: dict[str, torch.Tensor] = {}
    for path in weight_files(checkpoint.folder):
        try:
            weights |= load_file(path, device=device)
        except Exception as error:  # safetensors raises its own, undocumented kind
            raise CheckpointError(f"{path} cannot be read: {error}") from error
    return weights


def load_weights(
    checkpoint: Checkpoint,
    module: torch.nn.Module,
    prefix: str,
    device: str,
    dtype: torch.dtype | None = torch.float32,
) -> None:
    """Fills one half of the model ("reasoning." or "expert.") or, with prefix "", all of it.

    dtype: of its parameters from then on; None for those that the checkpoint stores. Raises
    CheckpointError that names what is missing, superfluous or of another shape.
    """
    path = checkpoint.folder / WEIGHTS
    weights = read_weights(checkpoint, device)
    own = {
        name.removeprefix(prefix): value if dtype is None else value.to(dtype)
        for name, value in weights.items()
        if name.startswith(prefix)
    }
    if not own:
        raise CheckpointError(
            f"{path} holds no weights of the {prefix.rstrip('.')}: a pretrained vision-language "
            "model has not learned to act; train stage 'action' from it"
        )
    expected = module.state_dict()
    for name, value in own.items():
        if name in expected and expected[name].shape != value.shape:
            raise CheckpointError(
                f"{path}: {prefix}{name} has shape {list(value.shape)}, but config.json and "
                f"contract.yaml need {list(expected[name].shape)}"
            )
    # Assigned, not copied: copies would take the type that the parameters have.
    result = module.load_state_dict(own, strict=False, assign=dtype is not torch.float32)
    tied = ties_embeddings(checkpoint.config)
    missing = [n for n in result.missing_keys if not (tied and n.endswith("lm_head.weight"))]
    if missing or result.unexpected_keys:
        raise CheckpointError(
            f"{path} does not fit config.json: missing {missing[:3]}, "
            f"superfluous {result.unexpected_keys[:3]}"
        )
    for part in module.modules():
        if tied and isinstance(part, PreTrainedModel):
            part.tie_weights()
