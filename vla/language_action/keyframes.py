"""Keyframes: where the arm rests, and where the gripper opens or closes (LA4VLA, section 7.1).

The paper's numbers are not public. The defaults are ours; all times are in seconds, so that they
mean the same at any rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import median_filter

from vla.core.configuration import bounded
from vla.language_action.trajectory import ToolTrajectory, rotation_steps, smoothed

# A turn counts as the way that a point so far from the axis moves [m/rad].
METRES_PER_RADIAN = 0.1

Kind = Literal["static", "gripper_close", "gripper_open"]


@dataclass
class KeyframeConfig:
    """When the arm rests, and when the gripper has moved."""

    smoothing: float = bounded(0.6, 0, 60)  # window of the Savitzky-Golay filter [s]
    # An arm rests that is slower than this share of its 95th percentile ...
    static_share: float = bounded(0.15, 0, 1)
    static_window: float = bounded(0.33, 0, 60)  # ... in most of so long a time [s],
    static_frames: float = bounded(0.8, 0, 1)  # ... namely in this share of its frames.
    # Of the gripper's own range: means of so long a time [s] before and after lie on both sides.
    gripper_threshold: float = bounded(0.5, 0, 1)
    gripper_change: float = bounded(0.006, 0, 1)  # Or they differ by so much [m].
    gripper_window: float = bounded(0.33, 0, 60)
    gripper_gap: float = bounded(0.67, 0, 60)  # events that are closer count as one [s]
    # Fingers that move by less in all have no events [m].
    gripper_span: float = bounded(0.005, 0, 1)


@dataclass(frozen=True)
class Keyframe:
    """One moment."""

    time: float  # s
    kind: Kind

    def __str__(self) -> str:
        return f"- {self.time:.2f}s: {self.kind}"


def keyframes(trajectory: ToolTrajectory, config: KeyframeConfig | None = None) -> list[Keyframe]:
    """The keyframes of an episode in the order of time."""
    config = config or KeyframeConfig()
    found = [Keyframe(t, "static") for t in _static_times(trajectory, config)]
    return sorted(found + gripper_events(trajectory, config), key=lambda k: k.time)


def gripper_events(trajectory: ToolTrajectory, config: KeyframeConfig) -> list[Keyframe]:
    """When the fingers close and open; none where they move by less than `gripper_span`."""
    opening, times = without_outliers(trajectory.opening), trajectory.times
    low, high = float(opening.min()), float(opening.max())
    if high - low < config.gripper_span:
        return []
    side = max(1, round(config.gripper_window / trajectory.time_step))
    values = (opening - low) / (high - low)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    frames = np.arange(1, len(values))  # the first frame after a change
    starts, ends = np.maximum(frames - side, 0), np.minimum(frames + side, len(values))
    before = (sums[frames] - sums[starts]) / (frames - starts)
    after = (sums[ends] - sums[frames]) / (ends - frames)
    threshold = config.gripper_threshold
    # Of two objects, both may be on one side of the threshold.
    much = np.abs(after - before) * (high - low) >= config.gripper_change
    closes = (before > threshold) & (after <= threshold) | much & (after < before)
    opens = (before <= threshold) & (after > threshold) | much & (after > before)
    found: list[Keyframe] = []
    kinds: tuple[tuple[Kind, np.ndarray], ...] = (
        ("gripper_close", closes),
        ("gripper_open", opens),
    )
    for kind, flags in kinds:
        for first, last in _runs(flags):
            change = np.abs(after - before)[first : last + 1]
            found.append(Keyframe(float(times[frames[first + int(np.argmax(change))]]), kind))
    events: list[Keyframe] = []
    for event in sorted(found, key=lambda keyframe: keyframe.time):
        if not events or event.time - events[-1].time >= config.gripper_gap:
            events.append(event)
        elif events[-1].kind != event.kind:
            events.pop()  # Back again at once: nothing has happened.
    return events


def without_outliers(opening: np.ndarray) -> np.ndarray:
    """The opening [N] without readings that stand alone: the median of each three frames."""
    return median_filter(opening, 3, mode="nearest")


def motion_magnitude(trajectory: ToolTrajectory, smoothing: float) -> np.ndarray:
    """How much the arm moves at each frame [N], between 0 and 1 of the episode's range.

    Differences of the pose are smoothed, divided by the greatest magnitude of each channel, and
    their magnitudes averaged. The gripper is left out.
    """
    steps = np.diff(trajectory.times)[:, None]
    moved = np.diff(trajectory.positions, axis=0) / steps
    turned = METRES_PER_RADIAN * rotation_steps(trajectory.quaternions) / steps
    rates = smoothed(np.hstack([moved, turned]), trajectory.time_step, smoothing)  # [N - 1, 6]
    # Symmetric: zero stays zero. A channel that hardly moves counts as little as it moves.
    greatest = np.abs(rates).max(axis=0)
    scale = np.maximum(greatest, 0.05 * greatest.max() + 1e-9)
    magnitude = np.abs(rates / scale).mean(axis=1)
    return np.append(magnitude, magnitude[-1])


def _static_times(trajectory: ToolTrajectory, config: KeyframeConfig) -> list[float]:
    """Midpoints of the spans in which the arm rests [s]."""
    magnitude = motion_magnitude(trajectory, config.smoothing)
    slow = magnitude <= config.static_share * np.quantile(magnitude, 0.95)
    frames = max(1, round(config.static_window / trajectory.time_step)) | 1
    share = np.convolve(slow, np.ones(frames) / frames, mode="same")
    static = slow & (share >= config.static_frames - 1e-9)
    times = trajectory.times
    return [float(times[a] + times[b]) / 2 for a, b in _runs(static)]


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
