"""Actions of a demonstration: how tool and fingers moved from one step to the next."""

from __future__ import annotations

import numpy as np

from vla.contract import EmbodimentContract
from vla.rotations import difference, matrix_to_euler, quaternion_to_matrix

# Fingers whose distance changes faster were told to move [m/s]; slower, a held object gives way.
FINGER_SPEED = 0.05


def step_motion(
    now: tuple[np.ndarray, np.ndarray], then: tuple[np.ndarray, np.ndarray], representation: str
) -> np.ndarray:
    """The motion [6] from one pose to another, as the contract's actions give it."""
    shift = then[0] - now[0]
    if representation == "delta":
        return np.concatenate([shift, difference(then[1], now[1])])
    before, after = (matrix_to_euler(quaternion_to_matrix(pose[1])) for pose in (now, then))
    turn = (after - before + np.pi) % (2 * np.pi) - np.pi
    return np.concatenate([shift, turn])


def gripper_commands(
    width: np.ndarray, next_width: np.ndarray, contract: EmbodimentContract
) -> np.ndarray:
    """What the fingers were told in each step [N], 1 open and 0 closed, by how they moved.

    width, next_width: [N], before and after the step [m]. Fingers that rest do what they were told
    last, so that a held object, which keeps them apart, does not look like an open gripper.
    """
    told = float(width[0] > contract.gripper_open_width / 2)
    least = FINGER_SPEED * contract.time_step
    commands = np.empty(len(width))
    for row, change in enumerate(next_width - width):
        if abs(change) > least:
            told = float(change > 0)
        commands[row] = told
    return commands
