"""What a run computes in, on a processor that may lack what its configuration asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from torch import nn


def usable_precision(precision: str, device: str) -> str:
    """The precision of a configuration, or "no" (float32) where this processor can't do it well.

    Without AVX-512, PyTorch on an x86 processor multiplies matrices in bfloat16 some forty times
    slower than in float32, and an LSTM not at all. A run may go on in the other precision: weights
    and optimiser are float32 in both.
    """
    if precision == "bf16" and device == "cpu" and _lacks_bfloat16():
        return "no"
    return precision


def halve_frozen(accelerator: Accelerator, model: nn.Module) -> None:
    """Holds frozen matrices in bfloat16 where a run computes in it and nothing changes by that.

    model: whose weights the first process alone may have yet. Sharded training takes float32, and
    divides it.
    """
    sharded = accelerator.distributed_type == DistributedType.FSDP
    if accelerator.mixed_precision != "bf16" or sharded:
        return
    main = accelerator.is_main_process
    (names,) = broadcast_object_list([exact_in_bfloat16(model) if main else None])
    hold_in_bfloat16(model, names)


def frozen_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Frozen matrices of linear layers and convolutions, which autocast rounds in each step.

    Not those that are an embedding, too: what a lookup gives is not rounded.
    """
    matrices, other = {}, set()
    for prefix, module in model.named_modules():
        rounds = isinstance(module, nn.Linear | nn.Conv2d)
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if rounds and parameter.ndim > 1 and not parameter.requires_grad:
                matrices[name] = parameter
            else:
                other.add(id(parameter))
    return {name: value for name, value in matrices.items() if id(value) not in other}


def exact_in_bfloat16(model: nn.Module) -> list[str]:
    """Names of the frozen matrices that bfloat16 holds exactly: of a start that was stored in it.

    To hold them in it changes no result, and nothing that is exported.
    """
    return [
        name
        for name, value in frozen_matrices(model).items()
        if torch.equal(value, value.bfloat16().to(value.dtype))
    ]


def hold_in_bfloat16(model: nn.Module, names: Iterable[str]) -> None:
    """Has a model hold the parameters of those names in bfloat16, in half of the memory."""
    for name in names:
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.bfloat16()


def _lacks_bfloat16() -> bool:
    """Whether this is an x86 processor without AVX-512; False where torch doesn't tell."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return not capabilities.get("avx512_bw", True)
