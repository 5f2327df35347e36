"""Image preparation, the same for live perception, data set conversion and evaluation."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vla.contract.embodiment import CameraContract

FILTERS = {"area": Image.Resampling.BOX, "lanczos": Image.Resampling.LANCZOS}


def prepare_image(image: np.ndarray, camera: CameraContract) -> np.ndarray:
    """A camera's frame at the contract's size, by the contract's `fit` and `resampling`.

    image: uint8 [H, W, 3] RGB. Returns uint8 [camera.height, camera.width, 3]; the input itself
    when it already has that size. Raises ValueError on another dtype or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"camera '{camera.name}': expected uint8 [H, W, 3], got {image.dtype} {image.shape}"
        )
    height, width = image.shape[:2]
    if (height, width) == (camera.height, camera.width):
        return image
    resampling = FILTERS[camera.resampling]
    if camera.fit == "squash":
        return resize_image(image, camera.width, camera.height, resampling)
    if camera.fit == "crop":
        scale = min(height / camera.height, width / camera.width)
        kept_height = max(1, round(camera.height * scale))
        kept_width = max(1, round(camera.width * scale))
        top, left = (height - kept_height) // 2, (width - kept_width) // 2
        kept = image[top : top + kept_height, left : left + kept_width]
        return resize_image(kept, camera.width, camera.height, resampling)
    scale = max(height / camera.height, width / camera.width)
    inner_height, inner_width = max(1, round(height / scale)), max(1, round(width / scale))
    top, left = (camera.height - inner_height) // 2, (camera.width - inner_width) // 2
    padded = np.zeros((camera.height, camera.width, 3), np.uint8)
    padded[top : top + inner_height, left : left + inner_width] = resize_image(
        image, inner_width, inner_height, resampling
    )
    return padded


def resize_image(
    image: np.ndarray, width: int, height: int, resampling: Image.Resampling
) -> np.ndarray:
    """A uint8 image [H, W, 3] as uint8 [height, width, 3], whatever its aspect ratio.

    Along the width first, as Pillow does up to version 12. Later ones take the height first where
    that is faster, and what is rounded and cut between the two passes is then something else.
    """
    pixels = Image.fromarray(np.ascontiguousarray(image))
    pixels = pixels.resize((width, pixels.height), resampling)
    return np.asarray(pixels.resize((width, height), resampling))
