"""From actions of a contract to those that CALVIN takes."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

# What CALVIN's relative actions are in units of; they are at most one of them.
LONGEST_MOVE, LARGEST_TURN = 0.02, 0.05  # [m], [rad]
# Turns are converted between frames when they are this many times smaller, as published.
SHRINK = 0.01


def relative_action(action: np.ndarray, state: np.ndarray, frame: str = "world") -> np.ndarray:
    """CALVIN's relative action [7], within -1 to 1, the gripper -1 closed or 1 open.

    action [7]: a move [m], differences of roll, pitch and yaw [rad], gripper 1 open 0 closed.
    state: begins with the tool's position [m] and its roll, pitch and yaw [rad]. frame: that of the
    action: "world", or "tool", as RoboVLMs' `tcp_rel` has it.
    """
    scaled = np.concatenate([action[:3] / LONGEST_MOVE, action[3:6] / LARGEST_TURN])
    if frame == "tool":
        scaled = world_action(scaled, state[3:6])
    return np.append(np.clip(scaled, -1.0, 1.0), 1.0 if action[6] > 0.5 else -1.0)


def world_action(scaled: np.ndarray, euler: np.ndarray) -> np.ndarray:
    """A scaled move and turn [6] in the tool's frame as one in the world's.

    The inverse of how RoboVLMs (2412.14058) makes `tcp_rel`: it reads the Euler angles `euler` [3]
    of the tool in the order x, y, z about its own axes, and a turn as that of the old frame in the
    new one.
    """
    tool = Rotation.from_euler("XYZ", euler)
    turned = tool * Rotation.from_euler("XYZ", scaled[3:] * SHRINK).inv()
    difference = turned.as_euler("XYZ") - euler
    difference = (difference + np.pi) % (2.0 * np.pi) - np.pi
    return np.concatenate([tool.apply(scaled[:3]), difference / SHRINK])
