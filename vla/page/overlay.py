"""The predicted path of the tool in the pixels of a camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vla.control.chunk import ActionChunk, ChunkError, check_chunk
from vla.core.rotations import quaternion_to_matrix
from vla.core.shown import brief, listed
from vla.datasets.camera_view import CameraView

# Optical frames (REP-103: x right, y down, z forward) seen from those of CameraView.
_FROM_OPTICAL = np.diag([1.0, -1.0, -1.0])


class CalibrationError(ValueError):
    """Where a camera is cannot be read; one sentence says what to correct."""


def read_views(
    given: Mapping[str, Any], cameras: Sequence[str], base: str, tool: str
) -> dict[str, CameraView]:
    """Where cameras are, from the parameters `cameras.NAME.frame` and `cameras.NAME.pose`.

    given: their values by what follows `cameras.`; a pose is position [m] and quaternion x y z w of
    the optical frame in `frame`. base, tool: the frames that are known. Intrinsics are still
    missing, see with_intrinsics(). Raises CalibrationError, which says what to correct.
    """
    views = {}
    for name in sorted({key.rpartition(".")[0] for key in given}):
        if name not in cameras:
            raise CalibrationError(
                f"the contract has no camera {brief(name)}; it has: {listed(cameras)}"
            )
        frame, pose = given.get(f"{name}.frame"), given.get(f"{name}.pose")
        if frame not in (base, tool):
            raise CalibrationError(
                f"cameras.{name}.frame must be '{base}' or '{tool}', got {brief(frame)}"
            )
        if len(numbers := _numbers(pose)) != 7 or abs(np.linalg.norm(numbers[3:]) - 1.0) > 1e-2:
            raise CalibrationError(
                f"cameras.{name}.pose must be x y z and a quaternion x y z w of unit length, got "
                f"{brief(pose)}"
            )
        rotation = quaternion_to_matrix(numbers[3:]) @ _FROM_OPTICAL
        views[name] = CameraView(numbers[:3], rotation, np.eye(3), 0, frame == tool)
    return views


def _numbers(values: Any) -> np.ndarray:
    """Finite numbers [N]; none where the values are something else."""
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.empty(0)
    return numbers if numbers.ndim == 1 and np.isfinite(numbers).all() else np.empty(0)


def with_intrinsics(view: CameraView, matrix: np.ndarray, width: int) -> CameraView:
    """A view with its intrinsics [3, 3], for images of that width [px]."""
    return replace(view, matrix=matrix, size=width)


def tool_path(chunk: ActionChunk, now: float) -> np.ndarray:
    """Targets [N, 4] of the tool that are still due: position in the base frame [m], and opening.

    now: by the clock of the chunk's stamp [s]. Raises ChunkError for a chunk that is no such path.
    """
    check_chunk(chunk)
    positions = chunk.reference_position + np.cumsum(chunk.actions[:, :3], axis=0)
    due = chunk.stamp + chunk.time_step * np.arange(1, len(positions) + 1)
    path = np.column_stack([positions, chunk.actions[:, 6].clip(0.0, 1.0)])
    return path[due >= now]


def drawn_path(
    path: np.ndarray, view: CameraView, tool: tuple[np.ndarray, np.ndarray], height: int
) -> list[list[float]]:
    """The path as shares of the image: right, down and opening of each point that is before it.

    path [N, 4]: see tool_path(). tool: position [3] and quaternion [4] of the tool at the image.
    height: of the image that the view's matrix is for [px].
    """
    position, quaternion = tool
    axes = quaternion_to_matrix(quaternion)
    state = np.concatenate([position, axes[:, 0], axes[:, 1]])
    pixels = view.project(path[:, :3], np.tile(state, (len(path), 1)))
    shares = (pixels + 0.5) / (view.size, height)
    seen = np.isfinite(shares).all(axis=1) & (np.abs(shares) < 10.0).all(axis=1)
    rows = np.column_stack([shares, path[:, 3]])[seen]
    return [[round(float(value), 4) for value in row] for row in rows]


def path_in_view(
    chunk: ActionChunk | None,
    view: CameraView | None,
    tool: tuple[np.ndarray, np.ndarray] | None,
    now: float,
    height: int,
) -> list[list[float]]:
    """drawn_path() of a chunk, empty where anything that it needs is not known."""
    if chunk is None or view is None or tool is None:
        return []
    try:
        path = tool_path(chunk, now)
    except ChunkError:
        return []
    return drawn_path(path, view, tool, height) if len(path) else []
