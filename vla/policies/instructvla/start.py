"""Starts a model from an earlier checkpoint, which may have fewer LoRA experts."""

from __future__ import annotations

import torch

from vla.policies.checkpoint import Checkpoint, read_weights
from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.instructvla.vision_language_action import InstructVLA
from vla.policies.lora import is_lora_weight


@torch.no_grad()
def start_from(model: InstructVLA, source: Checkpoint) -> list[str]:
    """Fills a model with a checkpoint's weights, and returns the names that it lacks.

    LoRA experts go to the experts of the same name. Raises CheckpointError for a weight of another
    shape, and where an expert would be lost.
    """
    lora = model.config.lora
    if lost := set(source.config.lora.experts) - set(lora.experts):
        raise CheckpointError(
            f"{source.folder} has the LoRA experts {', '.join(sorted(lost))}, "
            "which lora.experts does not name; name them too"
        )
    weights = read_weights(source)
    missing = []
    for name, target in model.state_dict().items():
        found = _expert_rows(name, target, weights, source.config.lora, lora)
        if found is None:
            found = weights.get(name, weights.get(name.replace(".base.", ".")))
        if found is None:
            # Tied to the input embedding.
            if not name.endswith("lm_head.weight"):
                missing.append(name)
            continue
        if found.shape != target.shape:
            raise CheckpointError(
                f"{source.folder}: {name} is {list(found.shape)}, this model's {list(target.shape)}"
                "; presets, contract and adapter rank must be the same"
            )
        target.copy_(found)
    return missing


def _expert_rows(
    name: str,
    target: torch.Tensor,
    weights: dict[str, torch.Tensor],
    source: LoraConfig,
    lora: LoraConfig,
) -> torch.Tensor | None:
    """The experts of an adapted layer, the source's at their index in the target."""
    if not is_lora_weight(name) or name not in weights:
        return None
    rows, given = target.clone(), weights[name]
    if given.shape[1:] != rows.shape[1:]:
        return given
    for index, expert in enumerate(lora.experts):
        if expert in source.experts:
            rows[index] = given[source.experts.index(expert)].to(rows.dtype)
    return rows
