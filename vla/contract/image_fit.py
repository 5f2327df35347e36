"""Image preparation, the same for live perception, data set conversion and evaluation."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vla.contract.embodiment import CameraContract


def prepare_image(image: np.ndarray, camera: CameraContract) -> np.ndarray:
    """Crops the centre to the contract's aspect ratio and resizes by area averaging.

    image: uint8 [H, W, 3] RGB. Returns uint8 [camera.height, camera.width, 3]; the input itself
    when it already has that size. Raises ValueError on another dtype or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"camera '{camera.name}': expected uint8 [H, W, 3], got {image.dtype} {image.shape}"
        )
    height, width = image.shape[:2]
    if (height, width) == (camera.height, camera.width):
        return image
    scale = min(height / camera.height, width / camera.width)
    crop_height, crop_width = round(camera.height * scale), round(camera.width * scale)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    cropped = Image.fromarray(image).crop((left, top, left + crop_width, top + crop_height))
    return np.asarray(cropped.resize((camera.width, camera.height), Image.Resampling.BOX))
