"""Detects a camera that repeats one image, however fresh its stamps. No ROS.

A real camera's noise makes every image different, and even a simulated one changes when the arm in
view moves. So a camera is frozen when its pixels have not changed at all although the arm has moved
since they first came. The arm holds while a camera is frozen, so a false detection must end by
itself:

- Joints that jump, as no arm can, are no motion. The distance counts again from there.
- An arm that is back where it was when the image came first is what the image shows.
- Once the joints have been still for a while, the same image gets one more try. A camera that is
  really frozen is detected again after the same short distance, and then for good.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

# Joints that moved faster between two images were relocated, or are not the arm's [rad/s]; less
# than this is no jump at any rate of images [rad].
JUMP_SPEED = 4.0
JUMP = 0.1
# Joints that moved by less than STILL in REST are at rest [rad], [s].
STILL = 0.005
REST = 2.0


@dataclass
class _Seen:
    """An image: where the joints were when it came first, or after they were put elsewhere."""

    checksum: int
    joint_positions: np.ndarray
    tries: int = 1


@dataclass
class _Rest:
    """Where the joints have stayed since a time [s]."""

    joint_positions: np.ndarray
    since: float


class FrozenImages:
    """Takes one camera's images, and says whether it is frozen."""

    def __init__(self, motion: float):
        """motion: motion of any joint that must show in the image [rad]."""
        self._motion = motion
        self._seen: _Seen | None = None
        self._rest: _Rest | None = None
        self._last: tuple[float, np.ndarray] | None = None

    def is_frozen(
        self, pixels: bytes | memoryview, joint_positions: np.ndarray, time: float
    ) -> bool:
        """Takes one image with the joints [n] of its time; True when the camera is frozen.

        time: of the image [s]; one that goes back starts over.
        """
        checksum = zlib.crc32(pixels)
        joints = np.array(joint_positions, dtype=np.float64)
        jumped = self._has_jumped(joints, time)
        if self._rest is None or jumped or _way(joints, self._rest.joint_positions) > STILL:
            self._rest = _Rest(joints, time)
        if self._seen is None or checksum != self._seen.checksum:
            self._seen = _Seen(checksum, joints)
            return False
        if jumped:
            self._seen.joint_positions = joints
        frozen = _way(joints, self._seen.joint_positions) > self._motion
        if frozen and self._seen.tries > 0 and time - self._rest.since > REST:
            self._seen = _Seen(checksum, joints, self._seen.tries - 1)
            return False
        return frozen

    def _has_jumped(self, joints: np.ndarray, time: float) -> bool:
        """Whether the joints went since the last image as no arm does."""
        before, self._last = self._last, (time, joints)
        if before is None:
            return False
        seconds = time - before[0]
        return seconds < 0.0 or _way(joints, before[1]) > JUMP + JUMP_SPEED * seconds


def _way(joints: np.ndarray, others: np.ndarray) -> float:
    return float(np.abs(joints - others).max())
