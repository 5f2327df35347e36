"""What a run computes in, on a processor that may lack what its configuration asks for."""

from __future__ import annotations

from typing import Any

import torch


def usable_precision(precision: str, device: str) -> str:
    """The precision of a configuration, or "no" (float32) where this processor can't do it well.

    Without AVX-512, PyTorch on an x86 processor multiplies matrices in bfloat16 some forty times
    slower than in float32, and an LSTM not at all. A run may go on in the other precision: weights
    and optimiser are float32 in both.
    """
    if precision == "bf16" and device == "cpu" and _lacks_bfloat16():
        return "no"
    return precision


def _lacks_bfloat16() -> bool:
    """Whether this is an x86 processor without AVX-512; False where torch doesn't tell."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return not capabilities.get("avx512_bw", True)
