"""Action chunks: un-normalised deltas, read as tool targets over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vla.core.rotations import difference, from_rotation_vector, multiply

# A step longer than this multiple of what the tool's limits allow is refused. A slightly long one
# is followed as fast as allowed.
LONGEST_STEP = 10.0
# Distance of the observed tool from the arm's [m, rad], beyond what it can have moved since: the
# robot's tool frame may differ a little from ours, and the arm may not follow well.
REFERENCE_DISTANCE, REFERENCE_ANGLE = 0.2, 1.0
# Gripper values are 0 to 1; models overshoot a little, but not this far.
WIDEST_GRIPPER = 10.0


class ChunkError(ValueError):
    """A chunk that must not be executed; the message says why.

    reason: "non_finite", "shape", "impossible", "stale" or "wrong_instruction".
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ActionChunk:
    """A horizon of actions computed from one observation."""

    stamp: float  # of the observation [s]
    time_step: float  # between actions [s]
    # [H, 7]: metres and rotation vector (base frame) from the previous step's target, and the
    # gripper, 1 open, 0 closed.
    actions: np.ndarray
    reference_position: np.ndarray  # [3] [m]: the observed tool, where the first action starts
    reference_quaternion: np.ndarray  # [4], x y z w: likewise
    instruction_id: int = 0
    # Of the observation behind the latent action [s], NaN where it is not known.
    latent_stamp: float = math.nan


@dataclass(frozen=True)
class ToolTarget:
    """Where the tool centre point should be, in the base frame."""

    position: np.ndarray  # [3] [m]
    quaternion: np.ndarray  # [4], x y z w
    gripper: float  # 0 closed .. 1 open


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


def check_steps(chunk: ActionChunk, linear_speed: float, angular_speed: float) -> None:
    """Raises ChunkError for steps far beyond the tool's limits [m/s, rad/s]."""
    with np.errstate(over="ignore"):
        steps = np.linalg.norm(chunk.actions[:, :3], axis=1)
        turns = np.linalg.norm(chunk.actions[:, 3:6], axis=1)
    for what, unit, values, speed in (
        ("moves the tool by", "m", steps, linear_speed),
        ("turns the tool by", "rad", turns, angular_speed),
    ):
        step = int(np.argmax(values))
        most = LONGEST_STEP * speed * chunk.time_step
        if not values[step] <= most:
            raise ChunkError(
                "impossible",
                f"step {step + 1} of the action chunk {what} {values[step]:.3g} {unit} in "
                f"{chunk.time_step:g} s, the most that is taken is {most:.3g}: are its actions in "
                "the contract's units, and is the checkpoint made for this robot?",
            )
    if np.abs(chunk.actions[:, 6]).max() > WIDEST_GRIPPER:
        worst = chunk.actions[np.argmax(np.abs(chunk.actions[:, 6])), 6]
        raise ChunkError(
            "impossible",
            f"the action chunk has the gripper value {worst:.3g}, which should be between 0 "
            "(closed) and 1 (open): is the checkpoint made for this robot?",
        )


def check_reference(
    chunk: ActionChunk, position: np.ndarray, quaternion: np.ndarray, distance: float, angle: float
) -> None:
    """Raises ChunkError for a chunk that starts where the tool cannot have been.

    position [3], quaternion [4]: of the tool now, base frame. distance [m], angle [rad]: what it
    can have moved since the observation.
    """
    with np.errstate(over="ignore"):
        away = float(np.linalg.norm(chunk.reference_position - position))
    turned = float(np.linalg.norm(difference(chunk.reference_quaternion, quaternion)))
    for value, most, unit in (
        (away, distance + REFERENCE_DISTANCE, "m"),
        (turned, angle + REFERENCE_ANGLE, "rad"),
    ):
        if not value <= most:
            raise ChunkError(
                "impossible",
                f"the action chunk starts {value:.3g} {unit} from where the tool is, the most that "
                f"is taken is {most:.3g}: do end_effector_pose and the robot model have the same "
                "frames and units, and is a bag being replayed?",
            )


class ChunkTrajectory:
    """A chunk as a path of tool targets; step k is due at start + (k + 1) * time_step."""

    def __init__(self, chunk: ActionChunk, start: float | None = None):
        """start: when the path begins [s], by default at the observation's stamp."""
        check_chunk(chunk)
        self.chunk = chunk
        self.start = chunk.stamp if start is None else start
        steps = chunk.actions[:, :3].cumsum(axis=0)
        self._positions = np.vstack([np.zeros(3), steps]) + chunk.reference_position  # [H + 1, 3]
        self._quaternions = [np.asarray(chunk.reference_quaternion, dtype=np.float64)]  # H + 1
        for delta in chunk.actions[:, 3:6]:
            self._quaternions.append(multiply(from_rotation_vector(delta), self._quaternions[-1]))

    @property
    def end(self) -> float:
        """When the last step is due [s]."""
        return self.start + len(self.chunk.actions) * self.chunk.time_step

    def poses(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions [H + 1, 3] [m] and quaternions [H + 1, 4] of the tool: the start, each step."""
        return self._positions.copy(), np.array(self._quaternions)

    def target(self, time: float) -> ToolTarget:
        """The target due at `time` [s], interpolated; outside the chunk its first or last."""
        horizon = len(self.chunk.actions)
        phase = float(np.clip((time - self.start) / self.chunk.time_step, 0.0, horizon))
        index = min(int(phase), horizon - 1)
        fraction = phase - index
        position = (1 - fraction) * self._positions[index] + fraction * self._positions[index + 1]
        turn = from_rotation_vector(self.chunk.actions[index, 3:6] * fraction)
        # The gripper is a decision, not a path: the current step's value holds, unblended.
        return ToolTarget(
            position,
            multiply(turn, self._quaternions[index]),
            float(self.chunk.actions[index, 6]),
        )

    def action(self, time: float) -> np.ndarray:
        """The action [7] around `time` [s], interpolated between the middles of steps.

        Outside the chunk the nearest. For comparing chunks; the arm follows target().
        """
        actions, last = self.chunk.actions, len(self.chunk.actions) - 1
        phase = (time - self.start) / self.chunk.time_step - 0.5
        phase = min(max(phase, 0.0), float(last))
        index = min(int(phase), max(last - 1, 0))
        fraction = phase - index
        return (1 - fraction) * actions[index] + fraction * actions[min(index + 1, last)]
