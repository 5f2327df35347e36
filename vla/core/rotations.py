"""Rotations as x y z w quaternions, fast enough for the control loop.

They wrap MuJoCo's functions (w x y z), which cost a microsecond where a general rotation library
costs fifty.
"""

from __future__ import annotations

import mujoco
import numpy as np


def _wxyz(quaternion: np.ndarray) -> np.ndarray:
    x, y, z, w = quaternion
    return np.array([w, x, y, z])


def _xyzw(quaternion: np.ndarray) -> np.ndarray:
    w, x, y, z = quaternion
    return np.array([x, y, z, w])


def matrix_to_quaternion(matrix: np.ndarray) -> np.ndarray:
    """Quaternion [4] of a rotation matrix, given as [3, 3] or flat [9]."""
    result = np.empty(4)
    mujoco.mju_mat2Quat(result, np.asarray(matrix, dtype=np.float64).reshape(9))
    return _xyzw(result)


def quaternion_to_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] of a quaternion [4]."""
    result = np.empty(9)
    mujoco.mju_quat2Mat(result, _wxyz(quaternion))
    return result.reshape(3, 3)


def rotation_vector(quaternion: np.ndarray) -> np.ndarray:
    """Axis times angle [3] in radians, the angle at most pi."""
    result = np.empty(3)
    mujoco.mju_quat2Vel(result, _wxyz(quaternion), 1.0)
    return result


def from_rotation_vector(vector: np.ndarray) -> np.ndarray:
    """Quaternion [4] of axis times angle [3] in radians."""
    angle = float(np.sqrt(vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2))
    if angle < 1e-12:
        return np.array([0.0, 0.0, 0.0, 1.0])
    result = np.empty(4)
    mujoco.mju_axisAngle2Quat(result, np.asarray(vector, dtype=np.float64) / angle, angle)
    return _xyzw(result)


def multiply(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Quaternion [4] that turns by `second`, then by `first`, both in the base frame."""
    result = np.empty(4)
    mujoco.mju_mulQuat(result, _wxyz(first), _wxyz(second))
    return _xyzw(result)


def difference(target: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Rotation vector [3], in the base frame, that turns `origin` into `target`."""
    x, y, z, w = origin
    return rotation_vector(multiply(target, np.array([-x, -y, -z, w])))


def matrix_to_euler(matrix: np.ndarray) -> np.ndarray:
    """Roll, pitch and yaw [3] of a rotation matrix [3, 3]: turns about the fixed x, y and z axes.

    Where the pitch is a quarter turn, roll is taken to be 0.
    """
    pitch = np.arcsin(np.clip(-matrix[2, 0], -1.0, 1.0))
    if abs(matrix[2, 0]) > 1.0 - 1e-9:
        return np.array([0.0, pitch, np.arctan2(-matrix[0, 1], matrix[1, 1])])
    roll = np.arctan2(matrix[2, 1], matrix[2, 2])
    return np.array([roll, pitch, np.arctan2(matrix[1, 0], matrix[0, 0])])
