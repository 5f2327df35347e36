"""Where frames are in each other, by time, as TF tells it. No ROS.

Of each frame the transform from its one parent is known at some stamps, or for all time. Between
two stamps it is interpolated, and never extrapolated. The newest pose between two frames is the one
at the latest time at which everything between them is known, as tf2's lookup at time 0 gives it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import numpy as np

from vla.core.rotations import difference, from_rotation_vector, multiply, quaternion_to_matrix
from vla.core.shown import brief, listed
from vla.observations.resampling import HISTORY, LARGEST_DISORDER

# Characters of the list of known frames in an error.
SHOWN = 300


class TransformError(ValueError):
    """A transform that cannot be used, or two frames without a way between them."""


@dataclass(frozen=True)
class Transform:
    """Where a frame is in another."""

    parent: str  # the frame in which the place is given
    child: str  # the frame whose place it is
    position: np.ndarray  # [3] of the child's origin in the parent [m]
    quaternion: np.ndarray  # [4] of the child in the parent, x y z w

    def then(self, following: Transform) -> Transform:
        """Where the child of `following`, whose parent is this child, is in this parent."""
        turned = quaternion_to_matrix(self.quaternion) @ following.position
        return Transform(
            self.parent,
            following.child,
            self.position + turned,
            multiply(self.quaternion, following.quaternion),
        )

    def inverse(self) -> Transform:
        """Where the parent is in the child."""
        x, y, z, w = self.quaternion
        back = np.array([-x, -y, -z, w])
        position = quaternion_to_matrix(back) @ -self.position
        return Transform(self.child, self.parent, position, back)


@dataclass
class _Link:
    """A frame's transforms from its parent, in the order of their stamps."""

    parent: str
    is_static: bool  # one transform, for all times
    stamps: list[int] = field(default_factory=list)  # [ns]
    values: list[Transform] = field(default_factory=list)  # of the stamps

    def add(self, stamp: int, value: Transform) -> None:
        if self.is_static:
            self.stamps, self.values = [stamp], [value]
            return
        if self.stamps and stamp < self.stamps[-1] - LARGEST_DISORDER:
            # The clock was set back, or the simulation restarted.
            self.stamps, self.values = [], []
        place = bisect_right(self.stamps, stamp)
        self.stamps.insert(place, stamp)
        self.values.insert(place, value)
        if (old := bisect_left(self.stamps, self.stamps[-1] - HISTORY)) > 0:
            del self.stamps[:old]
            del self.values[:old]

    def at(self, stamp: int) -> Transform | None:
        """The transform at a time [ns]; None before the first and after the last."""
        if self.is_static:
            return self.values[0]
        after = bisect_left(self.stamps, stamp)
        if after == len(self.stamps) or (after == 0 and self.stamps[0] != stamp):
            return None
        later = self.values[after]
        if self.stamps[after] == stamp:
            return later
        earlier, begin = self.values[after - 1], self.stamps[after - 1]
        share = (stamp - begin) / (self.stamps[after] - begin)
        turn = difference(later.quaternion, earlier.quaternion)
        return Transform(
            self.parent,
            later.child,
            (1 - share) * earlier.position + share * later.position,
            multiply(from_rotation_vector(share * turn), earlier.quaternion),
        )


class TransformBuffer:
    """The transforms of the last two seconds, by frame."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}

    def add(self, transform: Transform, stamp: int, is_static: bool = False) -> None:
        """Takes a transform of a time [ns], or of all times. A frame keeps its newest parent.

        Raises TransformError where it is not finite, its quaternion not of unit length, or where a
        frame is its own parent.
        """
        parent, child = transform.parent, transform.child
        if fault := _fault(transform):
            raise TransformError(f"the transform from {brief(parent)} to {brief(child)} {fault}")
        link = self._links.get(child)
        if link is None or link.parent != parent or link.is_static != is_static:
            link = self._links[child] = _Link(parent, is_static)
        link.add(stamp, transform)

    def moving_between(self, target: str, source: str) -> tuple[str, ...]:
        """The frames on the way between two whose transforms change with time.

        Raises TransformError where a frame is not known, or there is no way.
        """
        down, up = self._way(target, source)
        return tuple(child for child in (*down, *up) if not self._links[child].is_static)

    def newest(self, target: str, source: str) -> tuple[int, Transform] | None:
        """Stamp [ns] and place of the frame `source` in `target` at the latest common time.

        None where what is between them has no common time yet. Raises TransformError as
        moving_between() does, and for frames between which nothing moves, which have no time.
        """
        down, up = self._way(target, source)
        moving = [self._links[c] for c in (*down, *up) if not self._links[c].is_static]
        if not moving:
            raise TransformError(f"nothing moves between '{target}' and '{source}'")
        stamp = min(link.stamps[-1] for link in moving)
        steps = []
        for child in reversed(up):
            if (step := self._links[child].at(stamp)) is None:
                return None
            steps.append(step.inverse())
        for child in down:
            if (step := self._links[child].at(stamp)) is None:
                return None
            steps.append(step)
        place = steps[0]
        for step in steps[1:]:
            place = place.then(step)
        return stamp, place

    def _way(self, target: str, source: str) -> tuple[list[str], list[str]]:
        """The frames whose transforms lead down to `source`, and those that lead up to `target`.

        Both in the order from the frame that the two share.
        """
        ways = []
        for frame in (source, target):
            way: list[str] = []
            while (link := self._links.get(frame)) is not None and frame not in way:
                way.append(frame)
                frame = link.parent
            ways.append((frame, way[::-1]))
        (root, down), (other_root, up) = ways
        if root != other_root or (not down and not up):
            known = sorted({*self._links, *(link.parent for link in self._links.values())})
            raise TransformError(
                f"no way from '{target}' to '{source}'; frames known: {listed(known, SHOWN)}"
            )
        while down and up and down[0] == up[0]:
            down, up = down[1:], up[1:]
        return down, up


def _fault(transform: Transform) -> str:
    """What is wrong with it, for people; "" where nothing is."""
    position, quaternion = transform.position, transform.quaternion
    if not transform.parent or not transform.child or transform.parent == transform.child:
        return "does not name two frames"
    if not (np.isfinite(position).all() and np.isfinite(quaternion).all()):
        return f"is not finite: {position.tolist()} {quaternion.tolist()}"
    if abs(np.linalg.norm(quaternion) - 1.0) > 1e-2:
        return f"has a quaternion that is not of unit length: {quaternion.tolist()}"
    return ""
