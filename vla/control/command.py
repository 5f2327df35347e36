"""The controller's command of one cycle, for any backend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StoppingMotion:
    """How the arm comes to rest from a command, within its limits; K is 0 for an arm at rest."""

    # [K], seconds after the command's own time, increasing; at the last the arm is at rest.
    times: np.ndarray
    positions: np.ndarray  # [K, n] [rad]
    velocities: np.ndarray  # [K, n] [rad/s]


@dataclass(frozen=True)
class ArmCommand:
    """One cycle's command, after the safety stage. Joints are to be reached one period from now."""

    joint_positions: np.ndarray  # [n] [rad]
    joint_velocities: np.ndarray  # [n] [rad/s]
    joint_accelerations: np.ndarray  # [n] [rad/s^2]
    tool_position: np.ndarray  # [3] [m], of the tool at these joints, base frame
    tool_quaternion: np.ndarray  # [4], x y z w, likewise
    tool_velocity: np.ndarray  # [6] [m/s, rad/s], likewise
    gripper_width: float  # [m], between the fingers
    stop: StoppingMotion  # how to come to rest if no further command follows
    executing: bool  # a chunk is being followed; False: the arm stops or holds
    limited: bool  # the safety stage changed the motion
    chunk_age: float  # of the observation behind the chunk [s], NaN without a chunk
