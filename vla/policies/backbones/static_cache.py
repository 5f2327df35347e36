"""Keys and values in memory of a fixed size: what a compiled or recorded pass extends."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class KeyValueMemory:
    """Keys and values [B, heads, size, D / heads] of each layer, set aside by the first pass."""

    size: int  # tokens
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)


@dataclass
class StaticCache:
    """A memory as a decoder of transformers takes it in one pass, in place of a growing cache."""

    memory: KeyValueMemory
    # Int64 [T]: where this pass' tokens go, and all of the memory is read. None for the first T,
    # which see nothing but each other.
    places: torch.Tensor | None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes a layer's keys and values [B, heads, T, D / heads]; returns those to attend to."""
        memory = self.memory
        if layer == len(memory.keys):
            shape = (*keys.shape[:2], memory.size, keys.shape[3])
            memory.keys.append(keys.new_zeros(shape))
            memory.values.append(values.new_zeros(shape))
        if self.places is None:
            memory.keys[layer][:, :, : keys.shape[2]] = keys
            memory.values[layer][:, :, : keys.shape[2]] = values
            return keys, values
        memory.keys[layer].index_copy_(2, self.places, keys)
        memory.values[layer].index_copy_(2, self.places, values)
        return memory.keys[layer], memory.values[layer]
