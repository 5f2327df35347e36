"""Adapters on disk, and their loading into weights in memory.

An adapter is a folder: adapter.json (which checkpoint it changes, and how), adapter.safetensors and
a card, README.md. It is a few per cent of the checkpoint, and needs it. When loaded, it is merged
into the weights; to remove it, the base's own weights are read from disk again, so that nothing of
it remains.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import vla
from vla.core.files import checked_entries, checked_text, read_json
from vla.core.replacing import replace_text, replacing
from vla.core.shown import brief, shown_path
from vla.core.tensors import read_tensors
from vla.core.text import one_line
from vla.policies.checkpoint import Checkpoint, weight_files, weights_digest
from vla.policies.config import AdapterConfig, CheckpointError, from_dict
from vla.policies.lora import LoraLinear

WEIGHTS = "adapter.safetensors"
DESCRIPTION = "adapter.json"
CARD = "README.md"
ENTRIES = ("base", "contract", "config", "package_version", "about")
MOST_SCALE = 100  # Of alpha to rank: what the product of the matrices is multiplied by.
# Weights in a model, each with what is to be in it.
Matrices = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Adapter:
    """An opened adapter."""

    folder: Path
    # First 12 hexadecimal digits of the SHA-256 of its weights, configuration, base and contract:
    # adapters that act differently differ in it.
    adapter_id: str
    base_id: str  # checkpoint_id of the checkpoint that it changes
    contract_id: str  # of the robot that it was trained for
    config: AdapterConfig
    # `lora_a` [rank, in] and lora_b [rank, out], by the path of the linear layer and these names.
    weights: dict[str, torch.Tensor]
    about: dict[str, Any] = field(default_factory=dict)

    def layers(self, prefix: str = "") -> list[str]:
        """Paths of the linear layers that it changes, those with a prefix."""
        paths = {name.rpartition(".")[0] for name in self.weights}
        return sorted(path for path in paths if path.startswith(prefix))

    def delta(self, path: str) -> torch.Tensor:
        """Its change of that layer's matrix [out, in], in float32."""
        first, second = (self.weights[f"{path}.{name}"].float() for name in ("lora_a", "lora_b"))
        return self.config.alpha / self.config.rank * (second.T @ first)


def save_adapter(
    folder: str | Path,
    weights: dict[str, torch.Tensor],
    base: Checkpoint,
    config: AdapterConfig,
    about: dict[str, Any],
    card: str,
) -> None:
    """Writes an adapter folder; each existing file is replaced atomically.

    weights: as in Adapter. about: further facts, ready for JSON. card: README.md.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Trained as one expert: [1, rank, ...].
    plain = {
        name: value.detach().to("cpu", torch.float32).flatten(0, -2)
        for name, value in weights.items()
    }
    description = {
        "base": base.checkpoint_id,
        "contract": base.contract.contract_id,
        "config": asdict(config),
        "package_version": vla.__version__,
        "about": about,
    }
    with replacing(folder / WEIGHTS) as new:
        save_file({name: value.contiguous() for name, value in plain.items()}, new)
    for name, text in ((DESCRIPTION, json.dumps(description, indent=2) + "\n"), (CARD, card)):
        replace_text(folder / name, text)


def open_adapter(folder: str | Path) -> Adapter:
    """Reads an adapter. Raises CheckpointError, one sentence."""
    folder = Path(folder)
    path, where = folder / DESCRIPTION, shown_path(folder / DESCRIPTION)
    if not path.exists():
        raise CheckpointError(
            f"{shown_path(folder)} is not an adapter (it has no {DESCRIPTION}); give the folder "
            "'adapter' that vla finetune wrote"
        )
    description = read_json(path, CheckpointError)
    checked_entries(description, where, CheckpointError, ENTRIES)
    if missing := [name for name in ("base", "contract", "config") if name not in description]:
        raise CheckpointError(f"{where}: missing entries: {', '.join(missing)}; copy it again")
    base, contract = (
        checked_text(description[name], f"{where}: {name}", CheckpointError, 100)
        for name in ("base", "contract")
    )
    config = from_dict(AdapterConfig, description["config"], f"{where}: config")
    if config.alpha > MOST_SCALE * config.rank:
        raise CheckpointError(
            f"{where}: config: alpha {config.alpha:g} is more than {MOST_SCALE} times the rank "
            f"{config.rank}; take the one that vla finetune wrote"
        )
    about = description.get("about") or {}
    if not isinstance(about, dict):
        raise CheckpointError(f"{where}: about must be a mapping, got {brief(about)}")
    weights = read_tensors(folder / WEIGHTS, CheckpointError)
    _require_pairs(folder / WEIGHTS, weights, config.rank)
    digest = hashlib.sha256(weights_digest([folder / WEIGHTS]).encode())
    digest.update(json.dumps([base, contract, asdict(config)], sort_keys=True).encode())
    return Adapter(folder, digest.hexdigest()[:12], base, contract, config, weights, about)


def _require_pairs(path: Path, weights: dict[str, torch.Tensor], rank: int) -> None:
    """Raises CheckpointError unless each layer has its two matrices of that rank."""
    pairs: dict[str, set[str]] = {}
    for name, value in weights.items():
        layer, _, part = name.rpartition(".")
        pairs.setdefault(layer, set()).add(part)
        if value.ndim != 2 or len(value) != rank or not value.is_floating_point():
            raise CheckpointError(
                f"{shown_path(path)}: {one_line(name)} is {brief(list(value.shape))} of "
                f"{value.dtype}, not [{rank}, ...] of real numbers; train it again"
            )
    if odd := [layer for layer, parts in pairs.items() if parts != {"lora_a", "lora_b"}]:
        raise CheckpointError(
            f"{shown_path(path)}: {one_line(odd[0]) or 'it'} lacks lora_a or lora_b; train it again"
        )


def require_base(adapter: Adapter, base: Checkpoint) -> None:
    """Raises CheckpointError where an adapter is not for a checkpoint, or for another robot."""
    if adapter.base_id != base.checkpoint_id:
        raise CheckpointError(
            f"{adapter.folder} changes the checkpoint {one_line(adapter.base_id)}, but "
            f"{base.folder} is {base.checkpoint_id}; load that checkpoint, or fine-tune this one"
        )
    if adapter.contract_id != base.contract.contract_id:
        raise CheckpointError(
            f"{adapter.folder} was trained with the contract {one_line(adapter.contract_id)}, but "
            f"the one of {base.folder} is {base.contract.contract_id} ('{base.contract.name}')"
        )


def adapted_id(base: Checkpoint, adapter: Adapter | None) -> str:
    """checkpoint_id of a checkpoint with an adapter."""
    return base.checkpoint_id + (f"+{adapter.adapter_id}" if adapter is not None else "")


def swap_adapter(
    module: torch.nn.Module,
    prefix: str,
    base: Checkpoint,
    before: Adapter | None,
    after: Adapter | None,
) -> None:
    """Replaces one adapter by another in loaded weights; None for none.

    module: one part of the policy, whose names in the checkpoint begin with `prefix`. Everything is
    read and checked before anything changes. Raises CheckpointError.
    """
    paths = {path for adapter in (before, after) if adapter for path in adapter.layers(prefix)}
    put_matrices(adapted_matrices(module, prefix, base, paths, after))


@torch.no_grad()
def put_matrices(matrices: Matrices) -> None:
    """Writes matrices of adapted_matrices() into the weights."""
    for target, value in matrices:
        target.copy_(value)


@torch.no_grad()
def adapted_matrices(
    module: torch.nn.Module,
    prefix: str,
    base: Checkpoint,
    paths: set[str],
    after: Adapter | None,
) -> Matrices:
    """The weights of the layers at these paths, and what they are under an adapter; None for none.

    module, prefix: as in swap_adapter. Raises CheckpointError.
    """
    if after is not None:
        require_base(after, base)
    changed: Matrices = []
    for path, value in _base_matrices(base, paths).items():
        name = path.removeprefix(prefix)
        try:
            target = module.get_parameter(f"{name}.weight")
        except AttributeError as error:
            raise CheckpointError(f"the model has no layer {path} for the adapter") from error
        value = value.to("cpu", torch.float32)
        if after is not None and f"{path}.lora_a" in after.weights:
            delta = after.delta(path)
            if delta.shape != value.shape:
                raise CheckpointError(
                    f"{after.folder}: {path} is {list(delta.shape)}, the checkpoint has "
                    f"{list(value.shape)}"
                )
            value = value + delta
        owner = module.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, LoraLinear) and owner.is_merged:
            value = value + owner.sum_of_experts().to("cpu")
        value = value.to(target.device, target.dtype)
        if not value.isfinite().all():
            raise CheckpointError(
                f"{shown_path(after.folder if after else base.folder)}: {one_line(path)} becomes "
                "NaN or infinity; take another adapter"
            )
        changed.append((target, value))
    return changed


def _base_matrices(base: Checkpoint, paths: set[str]) -> dict[str, torch.Tensor]:
    """The checkpoint's own matrices [out, in] of these layers, read from its files."""
    found: dict[str, torch.Tensor] = {}
    files = weight_files(base.folder)
    if weights_digest(files) != base.checkpoint_id:
        raise CheckpointError(
            f"the weights in {base.folder} were replaced after loading; load them again"
        )
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - the handle cannot be iterated
                path = name.removesuffix(".weight")
                if path in paths and name.endswith(".weight"):
                    found[path] = tensors.get_tensor(name)
    if missing := sorted(paths - found.keys()):
        raise CheckpointError(f"{base.folder} has no layer {missing[0]} for the adapter")
    return found
