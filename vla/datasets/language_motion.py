"""Language motion: the arm's motion in words, from its poses.

A label compares a frame with the second one after it (InstructVLA, section 3.3; thresholds and
scales as in its code). It is what a model says before it acts in motion prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from vla.contract.dimensions import STATE_LAYOUTS
from vla.core.rotations import quaternion_to_matrix
from vla.core.shown import listed

STOP = "stop"
_WORDS = {
    "x": ("backward", "forward"),
    "y": ("right", "left"),
    "z": ("down", "up"),
    "pitch": ("tilt down", "tilt up"),
    "yaw": ("rotate clockwise", "rotate counterclockwise"),
    "gripper": ("open gripper", "close gripper"),
}


@dataclass(frozen=True)
class MotionThresholds:
    """When a motion is worth a word."""

    window: int = 2  # frames between the two that are compared
    # Longer displacements are scaled down to this sum of |x|, |y|, |z| [m], so only their main
    # directions are named.
    largest_step: float = 0.06
    least: float = 0.02  # of a feature
    pitch_scale: float = 3.0  # angles [rad] are divided by this to be features
    yaw_scale: float = 5.0


def motion_words(
    displacement: np.ndarray,
    rotation: np.ndarray,
    gripper_closing: float,
    thresholds: MotionThresholds = MotionThresholds(),
) -> str:
    """The sentence for one motion in the base frame (x forward, y left, z up).

    displacement: [3] in metres. rotation [3, 3]: from the first orientation to the second.
    gripper_closing: 1 for from open to closed, -1 for the other way. Roll is not named.
    """
    total = np.abs(displacement).sum()
    if total > thresholds.largest_step:
        displacement = displacement * (thresholds.largest_step / total)
    pitch = np.arcsin(np.clip(-rotation[2, 0], -1.0, 1.0))
    yaw = np.arctan2(rotation[1, 0], rotation[0, 0])
    features = {
        "x": displacement[0],
        "y": displacement[1],
        "z": displacement[2],
        "pitch": -pitch / thresholds.pitch_scale,
        "yaw": yaw / thresholds.yaw_scale,
        "gripper": gripper_closing,
    }
    said = {
        name: _WORDS[name][int(value > 0)]
        for name, value in features.items()
        if abs(value) > thresholds.least
    }
    moves = " ".join(said[name] for name in "xyz" if name in said)
    rest = [said[name] for name in ("pitch", "yaw", "gripper") if name in said]
    return ", ".join(([f"move {moves}"] if moves else []) + rest) or STOP


def language_motion(
    positions: np.ndarray,
    quaternions: np.ndarray,
    gripper_closed: np.ndarray,
    thresholds: MotionThresholds = MotionThresholds(),
) -> list[str]:
    """Labels of the N frames of an episode; the last `window` frames are labelled "stop".

    positions [N, 3] in metres and quaternions [N, 4], x y z w, in the base frame; gripper_closed
    [N], 1 closed and 0 open. Raises ValueError for unlike lengths or values that are not finite.
    """
    lengths = {len(positions), len(quaternions), len(gripper_closed)}
    if len(lengths) > 1:
        raise ValueError(f"poses and gripper values have unlike lengths {sorted(lengths)}")
    if not all(np.isfinite(values).all() for values in (positions, quaternions, gripper_closed)):
        raise ValueError("poses hold NaN or infinity; leave this episode out, or fix its poses")
    rotations = [quaternion_to_matrix(quaternion) for quaternion in quaternions]
    labels = []
    for start in range(len(positions)):
        end = start + thresholds.window
        if end >= len(positions):
            labels.append(STOP)
            continue
        labels.append(
            motion_words(
                positions[end] - positions[start],
                rotations[end] @ rotations[start].T,
                float(gripper_closed[end] - gripper_closed[start]),
                thresholds,
            )
        )
    return labels


def poses_of_states(states: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Tool positions [N, 3] in metres and quaternions [N, 4], x y z w, in the base frame.

    states [N, S]: columns by names, one of vla.contract.dimensions.STATE_LAYOUTS. Raises ValueError
    for other names, and where an orientation is none: a quaternion or a column of a rotation matrix
    without length.
    """
    if names not in STATE_LAYOUTS:
        raise ValueError(f"the state {listed(names)} has no pose of a tool")
    states = np.asarray(states, dtype=np.float64)
    column = {name: states[:, index] for index, name in enumerate(names)}

    def columns(*chosen: str) -> np.ndarray:
        return np.column_stack([column[name] for name in chosen])

    if "qx" in column:
        rotations = Rotation.from_quat(columns("qx", "qy", "qz", "qw"))
    elif "roll" in column:
        # Turns about the axes of the base, in this order.
        rotations = Rotation.from_euler("xyz", columns("roll", "pitch", "yaw"))
    else:
        first, second = columns("r11", "r21", "r31"), columns("r12", "r22", "r32")
        if not np.linalg.norm(np.cross(first, second), axis=1).min() > 0.1:
            raise ValueError("a state's rotation columns are no orientation")
        matrices = np.stack([first, second, np.cross(first, second)], axis=2)
        rotations = Rotation.from_matrix(matrices)
    return columns("x", "y", "z"), rotations.as_quat()
