"""Images as model inputs."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def fit_images(images: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """uint8 images [N, 3, H, W] resized [px], bicubic; unchanged at that size.

    size: of a square, or height and width.

    Training and inference share it: an image of the contract's size is enlarged to the
    vision-language model's, as InstructVLA does with 224 to 448 px.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if images.shape[-2:] == (height, width):
        return images
    resized = F.interpolate(
        images.float(), size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.round().clamp(0, 255).to(torch.uint8)


def blank(images: torch.Tensor) -> torch.Tensor:
    """One black image, or one observation's, like those of a batch [0, ...] that has none."""
    return images.new_zeros(1, *images.shape[1:])


def square_image(image: np.ndarray, size: int) -> np.ndarray:
    """A uint8 image [H, W, 3] as [size, size, 3], squeezed where it is not square."""
    if image.shape[:2] == (size, size):
        return image
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return fit_images(pixels[None], size)[0].permute(1, 2, 0).numpy()


def zoom_images(images: torch.Tensor, factor: float = 256 / 224) -> torch.Tensor:
    """The middle of uint8 images [N, 3, S, S], enlarged by a factor to the same size.

    The released InstructVLA sees its expert's images so: resized to 256, cropped to 224.
    """
    size = images.shape[-1]
    large = fit_images(images, round(size * factor))
    start = (large.shape[-1] - size) // 2
    return large[..., start : start + size, start : start + size]


def joined_images(images: torch.Tensor) -> torch.Tensor:
    """Images [..., C, 3, H, W] of one observation side by side, as one [..., 3, H, C * W]."""
    return torch.cat(images.unbind(-4), dim=-1)
