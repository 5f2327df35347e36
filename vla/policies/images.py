"""Images as model inputs, resampled as Pillow does, to the last bit, on every device.

Pillow resamples along the width, then along the height, in integers: it rounds weights to 22 bits
and sums to a byte between the two passes. A resampling in floating point that rounds only once
differs by up to 20 of 255 levels beside sharp edges, where the first pass leaves the range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from vla.contract.image_fit import resize_image

WEIGHT_BITS = 22
Constant = TypeVar("Constant")
# Tensors that compiled passes read, by what they are made of; see keeping_constants().
_kept: dict[tuple, Any] = {}
_keeps = False


def fit_images(images: torch.Tensor, width: int, height: int | None = None) -> torch.Tensor:
    """uint8 images [N, 3, H, W] as [N, 3, height, width], bicubic; unchanged at that size.

    All of an image is kept, and distorted where its aspect ratio is another. height: the width if
    not given. Training and inference share it: an image of the contract's size is enlarged to the
    vision-language model's, as InstructVLA does with 224 to 448 px.
    """
    height = width if height is None else height
    if images.shape[-2:] == (height, width):
        return images
    columns = _resample_rows(images.int().transpose(-1, -2), width)  # [N, 3, width, H]
    return _resample_rows(columns.transpose(-1, -2), height).to(torch.uint8)


def _resample_rows(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Levels int32 [..., S, M] in 0..255 as [..., size, M]."""
    if pixels.shape[-2] == size:
        return pixels
    rows, weights = _weights(pixels.shape[-2], size, pixels.device)
    total = torch.full_like(pixels[..., :1, :], 1 << (WEIGHT_BITS - 1))
    for row, weight in zip(rows, weights, strict=True):
        total = total + pixels.index_select(-2, row) * weight[:, None]
    return (total >> WEIGHT_BITS).clamp(0, 255)


def _weights(before: int, after: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return _constant("bicubic", _bicubic_weights, before, after, device=device)


@lru_cache(maxsize=64)
def _bicubic_weights(
    before: int, after: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The K of `before` pixels that each of `after` is made of [K, after], and int32 weights.

    Keys' cubic with a = -0.5 (IEEE Trans. ASSP 29, 1981), stretched when an image gets smaller.
    """
    scale = before / after
    stretch = max(scale, 1.0)
    centers = (np.arange(after) + 0.5) * scale
    first = np.maximum((centers - 2 * stretch + 0.5).astype(int), 0)
    end = np.minimum((centers + 2 * stretch + 0.5).astype(int), before)
    rows = first + np.arange((end - first).max())[:, None]  # [K, after]
    x = np.abs((rows - centers + 0.5) / stretch)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0)) * (rows < end)
    weights /= weights.sum(0)
    whole = np.trunc(weights * (1 << WEIGHT_BITS) + np.copysign(0.5, weights)).astype(np.int32)
    kept = np.minimum(rows, before - 1)
    return torch.from_numpy(kept).to(device), torch.from_numpy(whole).to(device)


def channel_values(values: tuple[float, float, float], device: torch.device) -> torch.Tensor:
    """A value of each colour, float32 [3, 1, 1]; on a device, where it goes once."""
    return _constant("channels", _channel_values, *values, device=device)


@lru_cache(maxsize=64)
def _channel_values(red: float, green: float, blue: float, device: torch.device) -> torch.Tensor:
    return torch.tensor([red, green, blue], device=device, dtype=torch.float32).view(3, 1, 1)


@contextmanager
def keeping_constants() -> Iterator[None]:
    """What passes need that run meanwhile stays where it is, for those compiled from them."""
    global _keeps
    _keeps = True
    try:
        yield
    finally:
        _keeps = False


def _constant(
    name: str, make: Callable[..., Constant], *values: float, device: torch.device
) -> Constant:
    """What is made of these values once. A compiler ignores lru_cache, and reads what is kept."""
    key = (name, *values, device.type, device.index)
    if key in _kept:
        return _kept[key]
    made = make(*values, device=device)
    if _keeps:
        _kept[key] = made
    return made


def to_device(values: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """A tensor of the host on a device; a GPU fetches it without the host waiting."""
    if torch.device(device).type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def blank(images: torch.Tensor) -> torch.Tensor:
    """One black image, or one observation's, like those of a batch [0, ...] that has none."""
    return images.new_zeros(1, *images.shape[1:])


def square_image(image: np.ndarray, size: int) -> np.ndarray:
    """A uint8 image [H, W, 3] as [size, size, 3], as fit_images does it."""
    if image.shape[:2] == (size, size):
        return image
    return resize_image(image, size, size, Image.Resampling.BICUBIC)


def zoom_images(images: torch.Tensor, size: int) -> torch.Tensor:
    """The middle [N, 3, size, size] of uint8 images [N, 3, H, W], the shorter side 8/7 of it.

    The released InstructVLA sees its expert's images so: resized to 256, bicubic, cropped to 224.
    """
    height, width = images.shape[-2:]
    short = int(size / 0.875)
    large = (
        fit_images(images, short, short * height // width)
        if width <= height
        else fit_images(images, short * width // height, short)
    )
    # Python's rounding to even, as torchvision crops.
    top, left = (round((side - size) / 2) for side in large.shape[-2:])
    return large[..., top : top + size, left : left + size]


def joined_images(images: torch.Tensor) -> torch.Tensor:
    """Images [..., C, 3, H, W] of one observation side by side, as one [..., 3, H, C * W]."""
    return torch.cat(images.unbind(-4), dim=-1)
