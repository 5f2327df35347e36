"""Actions of a demonstration: the motion of tool and fingers from one step to the next."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from vla.contract.embodiment import EmbodimentContract
from vla.core.rotations import difference, matrix_to_euler, quaternion_to_matrix
from vla.datasets.language_motion import poses_of_states

# Fingers that move faster were commanded to [m/s]; slower, a held object yields.
FINGER_SPEED = 0.05


def step_motion(
    now: tuple[np.ndarray, np.ndarray], then: tuple[np.ndarray, np.ndarray], representation: str
) -> np.ndarray:
    """The motion [6] from one pose to another, as the contract's actions give it."""
    shift = then[0] - now[0]
    if representation == "delta":
        return np.concatenate([shift, difference(then[1], now[1])])
    before, after = (matrix_to_euler(quaternion_to_matrix(pose[1])) for pose in (now, then))
    return np.concatenate([shift, _turned(after - before)])


def gripper_commands(
    width: np.ndarray, next_width: np.ndarray, contract: EmbodimentContract
) -> np.ndarray:
    """The command to the fingers in each step [N], 1 open and 0 closed, from their motion.

    width, next_width: [N], before and after the step [m]. Resting fingers keep the last command, so
    that a held object, which keeps them apart, does not look like an open gripper.
    """
    told = float(width[0] > contract.gripper_open_width / 2)
    least = FINGER_SPEED * contract.time_step
    commands = np.empty(len(width))
    for row, change in enumerate(next_width - width):
        if abs(change) > least:
            told = float(change > 0)
        commands[row] = told
    return commands


def joined_steps(actions: np.ndarray, every: int, representation: str) -> np.ndarray:
    """Actions [N, 7] of several steps joined into one, [N // every, 7].

    Shifts add up, turns are composed (rotation vectors in the base frame; differences of Euler
    angles add up), the gripper is that of the last step. Steps left over at the end are dropped.
    """
    count = len(actions) // every
    grouped = np.asarray(actions, dtype=np.float64)[: count * every].reshape(count, every, -1)
    joined = grouped.sum(axis=1)
    joined[:, 6:] = grouped[:, -1, 6:]
    if representation == "delta" and count:
        turn = Rotation.from_rotvec(grouped[:, 0, 3:6])
        for step in range(1, every):
            turn = Rotation.from_rotvec(grouped[:, step, 3:6]) * turn
        joined[:, 3:6] = turn.as_rotvec()
    return joined


def state_motions(
    states: np.ndarray, names: tuple[str, ...], representation: str, every: int = 1
) -> np.ndarray:
    """Motions [N - every, 6] from each state [N, S] to the one `every` steps later.

    names: of the states' columns, one of vla.contract.dimensions.STATE_LAYOUTS. Raises ValueError
    for an invalid orientation.
    """
    positions, quaternions = poses_of_states(states, names)
    shifts = positions[every:] - positions[:-every]
    if representation == "delta":
        turns = Rotation.from_quat(quaternions)
        return np.hstack([shifts, (turns[every:] * turns[:-every].inv()).as_rotvec()])
    angles = _euler_angles(states, names, quaternions)
    return np.hstack([shifts, _turned(angles[every:] - angles[:-every])])


def pose_offsets(
    poses: np.ndarray, states: np.ndarray, names: tuple[str, ...], representation: str
) -> np.ndarray:
    """Motions [N, 6] from each state [N, S] to the pose [N, 6] of the same row.

    poses: x, y, z [m], roll, pitch, yaw [rad] in the base frame. names: as in state_motions. As
    LA4VLA has it, but for angles, which are wrapped here. Raises ValueError for an invalid
    orientation.
    """
    positions, quaternions = poses_of_states(states, names)
    shifts, angles = poses[:, :3] - positions, np.asarray(poses[:, 3:], dtype=np.float64)
    if representation == "delta":
        turns = Rotation.from_euler("xyz", angles) * Rotation.from_quat(quaternions).inv()
        return np.hstack([shifts, turns.as_rotvec()])
    return np.hstack([shifts, _turned(angles - _euler_angles(states, names, quaternions))])


def _euler_angles(
    states: np.ndarray, names: tuple[str, ...], quaternions: np.ndarray
) -> np.ndarray:
    """Roll, pitch and yaw [N, 3] of states, as they have them where they do."""
    if "roll" in names:
        column = names.index("roll")
        return np.asarray(states, dtype=np.float64)[:, column : column + 3]
    return Rotation.from_quat(quaternions).as_euler("xyz")


def _turned(differences: np.ndarray) -> np.ndarray:
    """Differences of angles [rad], the short way round."""
    return (differences + np.pi) % (2 * np.pi) - np.pi
