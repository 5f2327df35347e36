"""Action chunks: un-normalised deltas, read as tool targets over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vla.rotations import from_rotation_vector, multiply


class ChunkError(ValueError):
    """A chunk that must not be executed.

    reason: "non_finite", "shape", "stale" or "wrong_instruction"; the message says it in words.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ActionChunk:
    """A horizon of actions computed from one observation.

    stamp: of the observation [s]. time_step: between actions [s]. actions: [H, 7], metres and
    rotation vector (base frame) from the previous step's target, gripper 1 open 0 closed.
    reference_position [3] and reference_quaternion [4] (x y z w): the observed tool pose, from
    which the first action counts. latent_stamp: of the observation behind the latent action [s],
    NaN where it is not known.
    """

    stamp: float
    time_step: float
    actions: np.ndarray
    reference_position: np.ndarray
    reference_quaternion: np.ndarray
    instruction_id: int = 0
    latent_stamp: float = math.nan


@dataclass(frozen=True)
class ToolTarget:
    """Where the tool centre point should be: position [3], quaternion [4] x y z w, gripper 0..1."""

    position: np.ndarray
    quaternion: np.ndarray
    gripper: float


def check_chunk(chunk: ActionChunk) -> None:
    """Raises ChunkError when the chunk has another shape or holds NaN or infinity."""
    if chunk.actions.ndim != 2 or chunk.actions.shape[1] != 7 or len(chunk.actions) == 0:
        raise ChunkError("shape", f"expected actions [H, 7], got {list(chunk.actions.shape)}")
    reference = (chunk.reference_position, chunk.reference_quaternion)
    if [np.shape(part) for part in reference] != [(3,), (4,)]:
        raise ChunkError("shape", "expected a reference position [3] and quaternion [4]")
    parts = (chunk.actions, chunk.stamp, *reference)
    if not all(np.isfinite(part).all() for part in parts):
        raise ChunkError("non_finite", "the action chunk holds NaN or infinity")
    if not (np.isfinite(chunk.time_step) and chunk.time_step > 0):
        raise ChunkError("shape", f"time_step must be positive, got {chunk.time_step}")
    if abs(np.linalg.norm(chunk.reference_quaternion) - 1.0) > 1e-2:
        raise ChunkError("shape", "the reference quaternion is not of unit length")


class ChunkTrajectory:
    """A chunk as a path of tool targets; step k is due at stamp + (k + 1) * time_step."""

    def __init__(self, chunk: ActionChunk):
        check_chunk(chunk)
        self.chunk = chunk
        steps = chunk.actions[:, :3].cumsum(axis=0)
        self._positions = np.vstack([np.zeros(3), steps]) + chunk.reference_position  # [H + 1, 3]
        self._quaternions = [np.asarray(chunk.reference_quaternion, dtype=np.float64)]  # H + 1
        for delta in chunk.actions[:, 3:6]:
            self._quaternions.append(multiply(from_rotation_vector(delta), self._quaternions[-1]))

    @property
    def end(self) -> float:
        """When the last step is due [s]."""
        return self.chunk.stamp + len(self.chunk.actions) * self.chunk.time_step

    def target(self, time: float) -> ToolTarget:
        """The target due at `time` [s], interpolated; outside the chunk its first or last."""
        horizon = len(self.chunk.actions)
        phase = float(np.clip((time - self.chunk.stamp) / self.chunk.time_step, 0.0, horizon))
        index = min(int(phase), horizon - 1)
        fraction = phase - index
        position = (1 - fraction) * self._positions[index] + fraction * self._positions[index + 1]
        turn = from_rotation_vector(self.chunk.actions[index, 3:6] * fraction)
        # The gripper is a decision, not a path: the value of the step under way holds, unblended.
        return ToolTarget(
            position,
            multiply(turn, self._quaternions[index]),
            float(self.chunk.actions[index, 6]),
        )

    def action(self, time: float) -> np.ndarray:
        """The action [7] around `time` [s]: a step's in its middle, in between interpolated.

        Outside the chunk the nearest. For comparing chunks; the arm follows target().
        """
        actions, last = self.chunk.actions, len(self.chunk.actions) - 1
        phase = (time - self.chunk.stamp) / self.chunk.time_step - 0.5
        phase = min(max(phase, 0.0), float(last))
        index = min(int(phase), max(last - 1, 0))
        fraction = phase - index
        return (1 - fraction) * actions[index] + fraction * actions[min(index + 1, last)]
