"""Notices a camera that sends one image again and again, however fresh its stamps. No ROS.

A real camera's noise makes every image another one, and even a simulated one changes when the arm
in view moves. So a camera is frozen when its pixels have not changed at all while the arm has moved
far enough to be seen.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np


@dataclass
class _Seen:
    checksum: int
    joint_positions: np.ndarray
    moved: float = 0.0


class FrozenImages:
    """One camera's images in, whether it is frozen out."""

    def __init__(self, motion: float):
        """motion: way of any joint that must show in the image [rad]."""
        self._motion = motion
        self._seen: _Seen | None = None

    def is_frozen(self, pixels: bytes | memoryview, joint_positions: np.ndarray) -> bool:
        """Takes one image with the joints [n] of its time; True when the camera is frozen."""
        checksum = zlib.crc32(pixels)
        if self._seen is None or checksum != self._seen.checksum:
            self._seen = _Seen(checksum, np.array(joint_positions, dtype=np.float64))
            return False
        way = float(np.abs(joint_positions - self._seen.joint_positions).max())
        # An arm that has come back to where it was has moved all the same.
        self._seen.moved = max(self._seen.moved, way)
        return self._seen.moved > self._motion
