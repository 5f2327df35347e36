"""What segmentation reads of an episode: the tool's path and the fingers, and no image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.signal import savgol_filter
from scipy.spatial.transform import Rotation

from vla.contract.dimensions import STATE_LAYOUTS
from vla.contract.embodiment import EmbodimentContract
from vla.core.shown import listed
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.language_motion import poses_of_states
from vla.datasets.sample import EpisodeDataset

# Frames of an episode, at least: fewer show no motion.
FEWEST_FRAMES = 5


@dataclass(frozen=True)
class ToolTrajectory:
    """N frames of one episode, in the base frame (x forward, y left, z up)."""

    times: np.ndarray  # [N] s, from 0, increasing
    positions: np.ndarray  # [N, 3] m, of the tool
    quaternions: np.ndarray  # [N, 4], x y z w, of the tool, whose z axis points to what it grips
    opening: np.ndarray  # [N] m, between the fingers
    # Bool [N]: whether the fingers hold something, and whether the tool pushes, pulls or presses
    # something that does not follow it freely. None where nobody measured it.
    held: np.ndarray | None = None
    contact: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.times)

    @property
    def time_step(self) -> float:
        """The median time between two frames [s]."""
        return float(np.median(np.diff(self.times)))


def trajectories(dataset: EpisodeDataset) -> Iterator[ToolTrajectory | ValueError]:
    """The episodes of a data set in its order, and why one can't be used in its place.

    Raises DatasetError where the data set doesn't tell when its frames were taken, and where its
    contract has no tool with a gripper.
    """
    contract = dataset.contract
    if contract.state_names not in STATE_LAYOUTS:
        raise DatasetError(
            f"contract '{contract.name}' has the state {listed(contract.state_names)}, without the "
            "pose of a tool and its gripper; use a contract that has them"
        )
    states, times, start = dataset.states(), dataset.timeline().times, 0
    for end in map(int, dataset.episode_ends):
        try:
            yield trajectory_of(states[start:end], times[start:end], contract)
        except ValueError as error:
            yield error
        start = end


def trajectory_of(
    states: np.ndarray, times: np.ndarray, contract: EmbodimentContract
) -> ToolTrajectory:
    """One episode from its states [N, S] and stamps [N] in seconds.

    Raises ValueError for states without a pose or a gripper, values that are not finite, times that
    don't increase, and an episode that is too short.
    """
    if len(states) < FEWEST_FRAMES:
        raise ValueError(f"{len(states)} frames are too few to cut: at least {FEWEST_FRAMES}")
    if not (np.isfinite(states).all() and np.isfinite(times).all()):
        raise ValueError("its states or times hold NaN or infinity; leave it out, or fix it")
    if (np.diff(times) <= 0).any():
        raise ValueError("its times don't increase; leave it out, or fix them")
    try:
        positions, quaternions = poses_of_states(states, contract.state_names)
    except ValueError as error:
        reason = one_line(error).rstrip(".")
        raise ValueError(f"it has frames without a pose ({reason}); leave it out") from error
    opening = opening_of_states(states, contract)
    return ToolTrajectory(times - times[0], positions, quaternions, opening)


def opening_of_states(states: np.ndarray, contract: EmbodimentContract) -> np.ndarray:
    """How far the fingers are apart [N] in metres. Raises ValueError for states without it."""
    width = contract.gripper_open_width
    for name, of_values in (
        ("gripper_width", lambda values: values),
        ("gripper_open", lambda values: values * width),
        ("gripper_closed", lambda values: (1 - values) * width),
    ):
        if name in contract.state_names:
            return of_values(states[:, contract.state_names.index(name)].astype(np.float64))
    raise ValueError(f"the state {listed(contract.state_names)} has no gripper")


def smoothed(values: np.ndarray, time_step: float, window: float) -> np.ndarray:
    """Values [N, D] after a Savitzky-Golay filter of order 2.

    window: its length [s]; less than three frames leave the values as they are, and no more than
    the episode has are taken.
    """
    frames = min(round(window / time_step) | 1, (len(values) - 1) | 1)  # odd, as the filter's is
    return values if frames < 3 else savgol_filter(values, frames, 2, axis=0, mode="nearest")


def rotation_steps(quaternions: np.ndarray) -> np.ndarray:
    """Rotation vectors [N - 1, 3] in the base frame from each orientation to the next."""
    turns = Rotation.from_quat(quaternions)
    return (turns[1:] * turns[:-1].inv()).as_rotvec()


def tool_axes(quaternions: np.ndarray) -> np.ndarray:
    """The tool's z axis [N, 3] in the base frame: where the fingers point."""
    return Rotation.from_quat(quaternions).apply((0.0, 0.0, 1.0))
