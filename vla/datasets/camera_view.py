"""Calibrated cameras: where a point of the robot's space is in their images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CameraView:
    """A calibrated camera, at rest or mounted on the tool."""

    position: np.ndarray  # [3] [m], in the base frame, or in the tool's for one on the tool
    rotation: np.ndarray  # [3, 3], likewise: x right, y up, looking along -z
    matrix: np.ndarray  # [3, 3], intrinsics
    size: int  # side of its square image [px]
    on_tool: bool = False

    def project(self, points: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Pixels [N, 2], right and down, of points [N, 3] in the base frame; NaN behind the camera.

        state [N, S]: of the robot at the image, tool position and two axes of the tool first.
        """
        if self.on_tool:
            axes = np.stack([state[:, 3:6], state[:, 6:9]], axis=2)
            third = np.cross(axes[:, :, 0], axes[:, :, 1])[:, :, None]
            tool = np.concatenate([axes, third], axis=2)  # [N, 3, 3]
            points = np.einsum("ni,nij->nj", points - state[:, :3], tool)
        local = (points - self.position) @ self.rotation
        depth = -local[:, 2:]
        focal = np.array([self.matrix[0, 0], -self.matrix[1, 1]])
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = self.matrix[:2, 2] + focal * local[:, :2] / depth
        return np.where(depth > 0, pixels, np.nan)
