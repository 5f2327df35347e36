"""Models without memory for weights that a file is about to give them.

Their parameters are on the meta device; their buffers, which no file holds, are computed. So a
start holds one copy of a model: nothing is drawn to be overwritten, and what is read from a mapped
file goes to its place tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

import torch
from torch import nn
from transformers import PreTrainedModel

_empty_backbones: ContextVar[bool] = ContextVar("empty_backbones", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Puts the parameters of modules that are made meanwhile on the meta device."""
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        # One on the meta device may be tied to another module's; recurrent layers keep references.
        if parameter is not None and not (parameter.is_meta or isinstance(module, nn.RNNBase)):
            parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@contextmanager
def empty_backbones() -> Iterator[None]:
    """Has backbones that are made meanwhile wait for their weights; all else is drawn as usual."""
    token = _empty_backbones.set(True)
    try:
        yield
    finally:
        _empty_backbones.reset(token)


def backbone_weights() -> AbstractContextManager[None]:
    """What a backbone makes its model in. What is drawn later is the same, however it is made."""
    return without_weights() if _empty_backbones.get() else torch.random.fork_rng(devices=[])


def stored_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Its parameters themselves, tied ones by each of their names, and buffers that are stored."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return {name: parameters.get(name, value) for name, value in module.state_dict().items()}


@torch.no_grad()
def put(target: torch.Tensor, value: torch.Tensor) -> None:
    """Gives a parameter the memory of a value, of whatever type and device; fills a buffer.

    What is tied to the parameter stays tied.
    """
    if not isinstance(target, nn.Parameter):
        target.copy_(value)
    elif target.is_meta:
        torch.utils.swap_tensors(target, nn.Parameter(value.detach(), target.requires_grad))
    else:
        target.data = value.detach()


@torch.no_grad()
def reserve(model: nn.Module) -> None:
    """Gives parameters without memory some that takes no room until it is written to."""
    for parameter in list(model.parameters()):
        if parameter.is_meta:
            put(parameter, torch.empty_like(parameter, device="cpu"))


@torch.no_grad()
def draw_missing(model: nn.Module) -> None:
    """Draws weights of transformers' models that are still without memory, as those draw them."""
    inner_first = reversed([part for part in model.modules() if isinstance(part, PreTrainedModel)])
    for part in inner_first:
        for module in part.modules():
            own = dict(module.named_parameters(recurse=False))
            if not (empty := [name for name, value in own.items() if value.is_meta]):
                continue
            kept = {name: value.clone() for name, value in own.items() if name not in empty}
            for name in empty:
                put(own[name], torch.empty_like(own[name], device="cpu"))
            part._init_weights(module)
            for name, value in kept.items():
                own[name].copy_(value)
