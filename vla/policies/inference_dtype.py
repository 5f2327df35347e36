"""The number type of a policy's weights, and of what its layers compute, where it acts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vla.core.shown import brief, listed
from vla.policies.config import CheckpointError

if TYPE_CHECKING:
    import torch

# auto: bfloat16 on a GPU that computes in it, float32 elsewhere.
DTYPES = ("auto", "float32", "bfloat16")


def inference_dtype(name: str, device: str) -> torch.dtype:
    """The type that a name stands for on a usable device. Raises CheckpointError for others.

    Noise, the integration of a flow and normalisation are in float32 whatever it is.
    """
    # Nodes and commands declare the names before they load torch.
    import torch

    if name not in DTYPES:
        raise CheckpointError(f"unknown dtype {brief(name)}; known: {listed(DTYPES)}")
    if name == "auto":
        # Older GPUs only emulate it, slower than float32.
        fast = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return torch.float32 if name == "float32" else torch.bfloat16
