"""Grounding labels: where in the image the gripper is going to act next.

The next place where the gripper opens or closes is known from the demonstration itself. Seen by a
calibrated camera it is a cell of the feature map, and naming that cell is what the expert's first
keypoint is trained for. Without it, looking is slow to start: a policy gains nothing from an image
before it knows both what the words mean and where that is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from vla.data.frames import Shard

NO_CELL = -1


@dataclass(frozen=True)
class CameraView:
    """A calibrated camera at rest.

    position [3] in metres and rotation [3, 3] of the camera in the base frame (x right, y up,
    looking along -z); matrix [3, 3]: its intrinsics; size: side of its square image [px].
    """

    position: np.ndarray
    rotation: np.ndarray
    matrix: np.ndarray
    size: int

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels [N, 2], right and down, of points [N, 3] in the base frame; NaN behind it."""
        local = (points - self.position) @ self.rotation
        depth = -local[:, 2:]
        focal = np.array([self.matrix[0, 0], -self.matrix[1, 1]])
        pixels = self.matrix[:2, 2] + focal * local[:, :2] / depth
        return np.where(depth > 0, pixels, np.nan)


def next_interactions(shard: Shard) -> np.ndarray:
    """Tool position [N, 3] at each frame's next change of the gripper's command, NaN after it."""
    command = shard.action[:, 0, 6] > 0.5
    positions = np.full((len(shard), 3), np.nan)
    following = np.full(3, np.nan)
    for row in range(len(shard) - 2, -1, -1):
        if shard.episode[row] != shard.episode[row + 1]:
            following = np.full(3, np.nan)
        elif command[row] != command[row + 1]:
            following = np.asarray(shard.state[row + 1, :3], dtype=np.float64)
        positions[row] = following
    return positions


def cells(positions: np.ndarray, view: CameraView, side: int) -> np.ndarray:
    """Index [N] of the cell, of side x side, that shows each position; NO_CELL where none does."""
    known = np.isfinite(positions).all(axis=1)
    pixels = view.project(np.where(known[:, None], positions, 0.0))
    known &= np.isfinite(pixels).all(axis=1)
    column, row = np.floor(np.nan_to_num(pixels) * side / view.size).T
    inside = known & (column >= 0) & (column < side) & (row >= 0) & (row < side)
    return np.where(inside, row * side + column, NO_CELL).astype(np.int64)


def grounding_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the first keypoint's scores [A, cells] and cells [A]; 0 without labels."""
    known = labels != NO_CELL
    if not known.any():
        return scores.sum() * 0.0
    return F.cross_entropy(scores[known], labels[known])
