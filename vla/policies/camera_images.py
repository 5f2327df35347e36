"""Images of an observation, by camera name, as the tensors that a policy's models take."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from vla.contract.embodiment import EmbodimentContract
from vla.policies.base import Images
from vla.policies.images import to_device


def blank_images(cameras: Iterable[str], contract: EmbodimentContract) -> Images:
    """Black images of these cameras, as one that sees nothing would send them."""
    shapes = {name: contract.camera(name) for name in cameras}
    return {n: np.zeros((c.height, c.width, 3), dtype=np.uint8) for n, c in shapes.items()}


def stack_images(
    images: Images, cameras: tuple[str, ...], contract: EmbodimentContract, device: str
) -> torch.Tensor:
    """uint8 [1, C, 3, H, W]; raises ValueError for a missing camera or another size."""
    for name in cameras:
        if name not in images:
            raise ValueError(f"no image of camera '{name}'; got: {', '.join(sorted(images))}")
        wanted = (contract.camera(name).height, contract.camera(name).width, 3)
        if images[name].shape != wanted:
            raise ValueError(f"camera '{name}': expected {list(wanted)}, got {images[name].shape}")
    # A copy: images of a message or a dataset may be read-only, which torch warns about.
    stacked = np.stack([images[name] for name in cameras])
    return to_device(torch.from_numpy(stacked)[None].permute(0, 1, 4, 2, 3), device)


def stack_if_any(
    images: Images, cameras: tuple[str, ...], contract: EmbodimentContract, device: str
) -> torch.Tensor:
    """As stack_images; [0, C, 3, H, W] for {}, in a policy that acts without vision, too."""
    if images:
        return stack_images(images, cameras, contract, device)
    first = contract.camera(cameras[0])
    shape = (0, len(cameras), 3, first.height, first.width)
    return torch.zeros(shape, dtype=torch.uint8, device=device)
