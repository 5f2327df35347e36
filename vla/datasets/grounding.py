"""Grounding labels: where in each image the gripper will act next.

The next places where the gripper closes and opens are known from the demonstration. Projected by a
calibrated camera they are image points, and the expert's first keypoints are trained to find them.
Without this, vision is slow to start: a policy gains nothing from an image before it knows both
what the words mean and where that is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from vla.datasets.camera_view import CameraView
from vla.datasets.frames import Shard

# The first keypoints: where the gripper closes next, and where it opens next.
EVENTS = ("close", "open")


def next_places(shard: Shard) -> np.ndarray:
    """Tool position [N, E, 3] at each frame's next closing and opening; NaN where none follows."""
    command = shard.action[:, 0, 6] > 0.5
    places = np.full((len(shard), len(EVENTS), 3), np.nan)
    following = np.full((len(EVENTS), 3), np.nan)
    for row in range(len(shard) - 2, -1, -1):
        if shard.episode[row] != shard.episode[row + 1]:
            following[:] = np.nan
        elif command[row] != command[row + 1]:
            event = EVENTS.index("open" if command[row + 1] else "close")
            following[event] = shard.state[row + 1, :3]
        places[row] = following
    return places


def place_pixels(shard: Shard, views: list[CameraView | None]) -> np.ndarray:
    """Pixels [N, C, E, 2] of the next places in each view; NaN where it does not show them.

    Only shards of a tool with a gripper have such places; without a view none is looked for.
    """
    pixels = np.full((len(shard), len(views), len(EVENTS), 2), np.nan)
    if not any(views):
        return pixels
    places, state = next_places(shard), np.asarray(shard.state, dtype=np.float64)
    for camera, view in enumerate(views):
        if view is None:
            continue
        for event in range(len(EVENTS)):
            seen = view.project(places[:, event], state)
            inside = ((seen > -0.5) & (seen < view.size - 0.5)).all(axis=1, keepdims=True)
            pixels[:, camera, event] = np.where(inside, seen, np.nan)
    return pixels


def grounding_loss(scores: torch.Tensor, pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Cross-entropy of the first keypoints' scores [A, C, K, cells] and pixels [A, C, E, 2].

    A place between cells is shared among the four next to it, so that the keypoint's expectation
    lies on the place itself. size: side of the square image [px]. 0 where all pixels are NaN.
    """
    scores = scores[:, :, : len(EVENTS)]
    side = round(scores.shape[-1] ** 0.5)
    known = pixels.isfinite().all(dim=-1)  # [A, C, E]
    if not known.any():
        return scores.sum() * 0.0
    places = ((pixels[known] + 0.5) * (side / size) - 0.5).clamp(0, side - 1)  # [P, 2]
    grid = torch.arange(side, device=pixels.device, dtype=pixels.dtype)
    columns, rows = (1.0 - (places[:, :, None] - grid).abs()).clamp(min=0).unbind(dim=1)
    shares = (rows[:, :, None] * columns[:, None]).flatten(1)  # [P, cells]
    return F.cross_entropy(scores[known], shares)
