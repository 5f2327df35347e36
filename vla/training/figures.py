"""Figures of training steps, which stay on the device until somebody looks at them.

To read a figure waits for the step, and the processor has nothing to do meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.distributed.tensor import DTensor

StepFigures = dict[str, float | torch.Tensor]  # by name; tensors without dimensions


def unread(value: torch.Tensor) -> torch.Tensor:
    """A figure as it is kept: without what it was computed from; of all processes if sharded."""
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def read(steps: Sequence[StepFigures]) -> list[dict[str, float]]:
    """The figures of some steps as numbers, from the device all at once."""
    waiting = [v.float() for step in steps for v in step.values() if isinstance(v, torch.Tensor)]
    numbers = iter(torch.stack(waiting).tolist() if waiting else [])
    return [
        {name: next(numbers) if isinstance(v, torch.Tensor) else v for name, v in step.items()}
        for step in steps
    ]
