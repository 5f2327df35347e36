"""Prompts of few lengths, so that a compiled pass knows all shapes beforehand.

A prompt is padded at its end. Where no token attends to what follows it, the result is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vla.policies.images import to_device

# Lengths of prompts: these many tokens more than the shortest has.
ROOM = (32, 96, 224)


def prompt_lengths(shortest: int) -> tuple[int, ...]:
    """The lengths that prompts are padded to, of which the shortest has so many tokens."""
    return tuple(rounded(shortest + room) for room in ROOM)


def padded_prompt(
    tokens: Sequence[int], lengths: Sequence[int], device: str | torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """A prompt's ids [1, T] at the next of the lengths, and how many of these are tokens [1].

    It must not be longer than the last of the lengths.
    """
    length = next(length for length in lengths if length >= len(tokens))
    ids = torch.tensor([[*tokens, *[0] * (length - len(tokens))]])
    return to_device(ids, device), to_device(torch.tensor([len(tokens)]), device)


def rounded(length: int) -> int:
    """Up to a multiple of 8, which suits kernels."""
    return -(-length // 8) * 8
