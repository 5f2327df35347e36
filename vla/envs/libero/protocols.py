"""The two published ways of evaluating on LIBERO, where they differ."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vla.contract.embodiment import CameraContract
from vla.contract.image_fit import prepare_image
from vla.envs.execution import Execution

Prepare = Callable[[np.ndarray, CameraContract], np.ndarray]

# Share of an image's area that is left of it where training cut out as much at random.
MIDDLE = 0.9


def as_in_the_data(image: np.ndarray, camera: CameraContract) -> np.ndarray:
    """An image uint8 [H, W, 3] as OpenVLA and InstructVLA show it to policies trained on RLDS data.

    Compressed as JPEG, resized by Lanczos, then the middle nine tenths of its area, bilinearly.
    """
    compressed = io.BytesIO()
    Image.fromarray(image).save(compressed, "JPEG", quality=95)
    resized = Image.open(compressed).resize((camera.width, camera.height), Image.Resampling.LANCZOS)
    return middle(np.asarray(resized), MIDDLE)


def middle(image: np.ndarray, share: float) -> np.ndarray:
    """The middle of an image uint8 [H, W, 3], of that share of its area, enlarged to its size.

    Sampled bilinearly from corner to corner, as TensorFlow's crop_and_resize does.
    """
    margin = (1.0 - math.sqrt(share)) / 2.0
    pixels = _resampled(image.astype(np.float64), margin)
    pixels = _resampled(pixels.swapaxes(0, 1), margin).swapaxes(0, 1)
    # From 0..255 by way of 0..1, as TensorFlow makes bytes of such numbers.
    return np.floor(pixels * (255.5 / 255.0)).astype(np.uint8)


def _resampled(pixels: np.ndarray, margin: float) -> np.ndarray:
    """As many rows, evenly from a share `margin` of all to as much before the last; linearly."""
    last = len(pixels) - 1
    places = np.linspace(margin * last, (1.0 - margin) * last, len(pixels))
    before = np.minimum(places.astype(int), max(last - 1, 0))
    weights = (places - before)[:, None, None]
    return pixels[before] * (1.0 - weights) + pixels[np.minimum(before + 1, last)] * weights


@dataclass(frozen=True)
class LiberoProtocol:
    """How episodes are run."""

    steps: Mapping[str, int]  # of an episode, by family
    steps_per_chunk: int  # actions executed of each chunk
    seed: int  # of the simulator, which moves what the initial states do not list
    waiting_gripper: float  # what the gripper is told in the first ten steps; -1 opens it
    prepare: Prepare  # images for the policy
    size: int = 0  # pixels of a side that images are drawn in; 0 for the policy's own
    # Chunks whose mean is executed; None where the newest one is followed.
    execution: Execution | None = None
    episodes: int = 100  # of each family, where nobody says how many


def _steps(short: int, long: int) -> dict[str, int]:
    return dict.fromkeys(("spatial", "object", "goal"), short) | {"long": long}


PROTOCOLS = {
    # Of 25 chunks, and of 95 of the long tasks, 14 steps are executed.
    "la4vla": LiberoProtocol(_steps(350, 1330), 14, 42, 0.0, prepare_image),
    "instructvla": LiberoProtocol(
        {"spatial": 220, "object": 280, "goal": 300, "long": 520},
        1,
        0,
        -1.0,
        as_in_the_data,
        256,
        Execution(1, "cosine", 8, votes=False),
        500,
    ),
}
