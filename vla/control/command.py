"""What the controller asks of the robot in one cycle, whichever backend carries it out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StoppingMotion:
    """How the arm comes to rest from a command, within its limits.

    times [K]: seconds after the command's own time, increasing, the last one when the arm is at
    rest. positions, velocities [K, n]: radians and radians per second. K is 0 for an arm at rest.
    """

    times: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray


@dataclass(frozen=True)
class ArmCommand:
    """One cycle's command; it has passed the safety stage.

    joint_positions, joint_velocities, joint_accelerations [n]: to be reached one control period
    from now [rad, rad/s, rad/s^2]. tool_position [3] in metres, tool_quaternion [4] x y z w: the
    tool at these joints, base frame. tool_velocity [6]: m/s and rad/s there, base frame.
    gripper_width: metres between the fingers. stop: how to come to rest if no further command
    follows. executing: a chunk is being followed (False: the arm stops or holds). limited: the
    safety stage changed the motion. chunk_age: of the observation behind it [s], NaN without one.
    """

    joint_positions: np.ndarray
    joint_velocities: np.ndarray
    joint_accelerations: np.ndarray
    tool_position: np.ndarray
    tool_quaternion: np.ndarray
    tool_velocity: np.ndarray
    gripper_width: float
    stop: StoppingMotion
    executing: bool
    limited: bool
    chunk_age: float
