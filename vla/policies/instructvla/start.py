"""Starts a model from an earlier checkpoint, which may have fewer LoRA experts."""

from __future__ import annotations

import math

import torch

from vla.core.shown import shown_path
from vla.policies.checkpoint import Checkpoint, stored_shapes, stream_weights
from vla.policies.config import CheckpointError
from vla.policies.empty_weights import put, stored_tensors
from vla.policies.instructvla.vision_language_action import InstructVLA
from vla.policies.loaded import Loaded, split_unread
from vla.policies.lora import is_lora_weight


@torch.no_grad()
def start_from(model: InstructVLA, source: Checkpoint) -> Loaded:
    """Fills a model with those of a checkpoint's weights that it has.

    LoRA experts go to the experts of the same name. Raises CheckpointError for a weight of another
    shape, and where an expert would be lost.
    """
    given, wanted = source.config.lora.experts, model.config.lora.experts
    if lost := set(given) - set(wanted):
        raise CheckpointError(
            f"{source.folder} has the LoRA experts {', '.join(sorted(lost))}, "
            "which lora.experts does not name; name them too"
        )
    targets, stored = stored_tensors(model), stored_shapes(source)
    # An adapted layer keeps its matrix one level deeper.
    places = {_plain(name): name for name in targets} | {name: name for name in targets}
    found = {name: places[name] for name in stored if name in places}
    rows = [wanted.index(expert) for expert in given]
    for name, place in found.items():
        own = tuple(targets[place].shape)
        if is_lora_weight(name):
            own = (len(given), *own[1:])
        if stored[name] != own:
            raise CheckpointError(
                f"{source.folder}: {name} is {list(stored[name])}, this model's {list(own)}"
                "; presets, contract and adapter rank must be the same"
            )
    for name, value in stream_weights(source):
        if name not in found:
            continue
        target = targets[found[name]]
        if is_lora_weight(name):
            target[rows] = value.to(target.dtype)
        else:
            put(target, value.to(target.dtype, copy=True))
    sizes = {name: math.prod(shape) for name, shape in stored.items()}
    others = {name: size for name, size in sizes.items() if name not in found}
    taken = {place: sizes[name] for name, place in found.items()}
    unread = source.type.unread(source.config)
    return Loaded(shown_path(source.folder), taken, *split_unread(others, unread))


def _plain(name: str) -> str:
    """The name of a weight in a model whose layers are not adapted."""
    return name.replace(".base.", ".")
