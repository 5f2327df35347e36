"""Random changes of training images, drawn once per frame and applied to all its images alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from vla.contract.image_fit import resize_image
from vla.policies.config import bounded

# Weights of red, green and blue in the brightness (ITU-R BT.601).
_LUMA = torch.tensor([0.299, 0.587, 0.114])


@dataclass
class Augmentation:
    """Random changes of images; the same for all images of a frame."""

    # Share of the image that is cut out at random and enlarged again; 1 for none.
    crop_area: float = bounded(0.9, 0.01, 1)
    shift: int = bounded(0, 0, 1024)  # largest random shift [px]
    # Largest relative changes.
    brightness: float = bounded(0.2, 0, 1)
    contrast: float = bounded(0.2, 0, 1)
    saturation: float = bounded(0.2, 0, 1)
    hue: float = bounded(0.05, 0, 0.5)  # largest turn, of a full circle
    state_noise: float = bounded(0.0, 0, 10)  # standard deviation on the normalised state
    # Whether images of conversations are changed, too, each one as a square of one tile; answers
    # about them may not hold then.
    conversations: bool = False


@dataclass(frozen=True)
class ImageTransform:
    """How one frame is changed."""

    crop: tuple[float, float, float]  # left, top and side of the kept part, in shares of the image
    shift: tuple[int, int]  # pixels, right and down
    brightness: float  # a factor, as the next two
    contrast: float
    saturation: float
    hue: float  # turn [rad]

    def move(self, pixels: np.ndarray, size: int) -> np.ndarray:
        """Where pixels [..., 2], right and down, of an image of that size move to."""
        left, top, side = self.crop
        moved = (pixels + 0.5 - np.array([left, top]) * size) / side - 0.5
        return moved + np.array(self.shift)


def draw_transform(augmentation: Augmentation, generator: np.random.Generator) -> ImageTransform:
    """A change within the configured ranges."""
    side = float(np.sqrt(augmentation.crop_area))
    left, top = generator.uniform(0, 1 - side, 2) if side < 1 else (0.0, 0.0)
    limit = augmentation.shift
    shift = generator.integers(-limit, limit + 1, 2)

    def factor(change: float) -> float:
        return float(1 + generator.uniform(-change, change))

    return ImageTransform(
        (float(left), float(top), side),
        (int(shift[0]), int(shift[1])),
        factor(augmentation.brightness),
        factor(augmentation.contrast),
        factor(augmentation.saturation),
        float(2 * np.pi * generator.uniform(-augmentation.hue, augmentation.hue)),
    )


def transform_image(image: np.ndarray, change: ImageTransform) -> torch.Tensor:
    """A uint8 image [H, W, 3], changed: uint8 [3, H, W]. In this order: crop, shift, colours."""
    height, width = image.shape[:2]
    left, top, side = change.crop
    if side < 1:
        x, y = round(left * width), round(top * height)
        kept = image[y : y + max(1, round(side * height)), x : x + max(1, round(side * width))]
        image = resize_image(kept, width, height, Image.Resampling.BICUBIC)
    # A copy: images of a data set are read-only, which torch warns about.
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [3, H, W]
    if change.shift != (0, 0):
        columns = (torch.arange(width) - change.shift[0]).clamp(0, width - 1)
        rows = (torch.arange(height) - change.shift[1]).clamp(0, height - 1)
        pixels = pixels[:, rows[:, None], columns]
    return _recolor(pixels.float(), change).round().clamp(0, 255).to(torch.uint8)


def _recolor(pixels: torch.Tensor, change: ImageTransform) -> torch.Tensor:
    """Brightness, contrast, saturation and hue of [3, H, W] in 0..255."""
    luma = torch.einsum("c,chw->hw", _LUMA, pixels)
    mean = luma.mean() * change.brightness
    pixels = pixels * change.brightness
    pixels = mean + (pixels - mean) * change.contrast
    if change.saturation != 1.0 or change.hue != 0.0:
        matrix = _color_matrix(change.saturation, change.hue)
        pixels = torch.einsum("dc,chw->dhw", matrix, pixels)
    return pixels


def _color_matrix(saturation: float, hue: float) -> torch.Tensor:
    """A turn of the hue and a change of the saturation [3, 3] that keep grey.

    In YIQ, the colour is a vector of two numbers beside the brightness.
    """
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    cos, sin = saturation * np.cos(hue), saturation * np.sin(hue)
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]], dtype=torch.float32)
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq
