"""The first layers of a language model alone: `keep_layers` of a backbone's configuration."""

from __future__ import annotations

from torch import nn

from vla.policies.config import CheckpointError


def cut_layers(model: nn.Module, stacks: dict[nn.Module, int], keep: int) -> tuple[str, ...]:
    """Drops the layers of a decoder behind the first `keep`, 0 for none.

    stacks: lists of layers in the model, the decoder's own first, each with how many of the
    decoder's layers one of them goes with. Returns what the weights' names in the model of each
    layer that is gone begin with. Raises CheckpointError where there are fewer layers.
    """
    if not keep:
        return ()
    layers = len(next(iter(stacks))._modules)
    if keep > layers:
        raise CheckpointError(
            f"backbone: keep_layers is {keep}, but the language model has {layers} layers; give "
            f"{layers} or fewer, or 0 for all"
        )
    paths = {part: path for path, part in model.named_modules()}
    gone = []
    for stack, each in stacks.items():
        for name in [*stack._modules][-(-keep // each) :]:
            delattr(stack, name)
            gone.append(f"{paths[stack]}.{name}.")
    return tuple(gone)
