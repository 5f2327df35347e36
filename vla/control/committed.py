"""What the arm will do while the next chunk is computed: the old one, seen from a new observation.

Chunks are relative: deltas from the tool pose of their own observation. For real-time chunking the
targets of the chunk in execution are expressed in the terms that the model uses for the new one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vla.control.chunk import ActionChunk, ChunkTrajectory
from vla.rotations import difference, from_rotation_vector, multiply


@dataclass(frozen=True)
class CommittedActions:
    """The old chunk from a new observation on.

    actions [K, 7]: deltas as of a chunk of that observation, for the K steps that the new chunk is
    held or drawn to. committed: how many of them will have been read before it arrives.
    """

    actions: np.ndarray
    committed: int


def committed_actions(
    chunk: ActionChunk,
    stamp: float,
    position: np.ndarray,
    quaternion: np.ndarray,
    delay: float,
    soft_steps: int = 4,
) -> CommittedActions | None:
    """The chunk in execution as seen from an observation; None where nothing of it is left.

    stamp [s], position [3] in metres, quaternion [4] x y z w: the new observation's tool pose, base
    frame. delay: from the observation until the arm no longer reads the old chunk [s]. soft_steps:
    steps after the committed ones that the new chunk is still drawn to; more make a steadier arm
    that reacts later to what it sees.
    """
    trajectory = ChunkTrajectory(chunk)
    horizon, step = len(chunk.actions), chunk.time_step
    covered = min(horizon, math.floor((trajectory.end - stamp) / step + 1e-6))
    if covered < 1 or stamp < chunk.stamp:
        return None
    # Past its end the arm waits at the old chunk's last target, and the new one starts from there.
    committed = min(horizon - 1, math.ceil(delay / step - 1e-6))
    covered = max(committed, min(covered, committed + soft_steps))
    actions = np.zeros((covered, chunk.actions.shape[1]))
    for index in range(covered):
        target = trajectory.target(stamp + (index + 1) * step)
        actions[index, :3] = target.position - position
        actions[index, 3:6] = difference(target.quaternion, quaternion)
        # Of the step that is under way in the middle of this one.
        actions[index, 6] = trajectory.action(stamp + (index + 0.5) * step)[6]
        position, quaternion = target.position, target.quaternion
    return CommittedActions(actions, committed)


def join(
    before: CommittedActions, actions: np.ndarray, free: np.ndarray, fade_steps: int = 4
) -> np.ndarray:
    """A new chunk [H, 7] that begins with the committed steps and comes to where it should be.

    actions: the chunk that was drawn to the old one. free: what the model says to the same
    observation when it is not. Deltas add up, so that a chunk whose first steps are replaced would
    end elsewhere, by all that the new observation has corrected. What the free chunk's first steps
    lead to and the committed ones do not is made up for over `fade_steps` steps after them. The
    gripper's decisions are the old chunk's, then the new one's.
    """
    count = before.committed
    joined = np.array(actions, dtype=np.float64)
    joined[:count] = before.actions[:count]
    left = min(fade_steps, len(actions) - count)
    if count == 0 or left <= 0:
        return joined
    missing = free[:count, :3].sum(axis=0) - before.actions[:count, :3].sum(axis=0)
    turned = difference(_total_turn(free[:count]), _total_turn(before.actions[:count]))
    joined[count : count + left, :3] += missing / left
    joined[count : count + left, 3:6] += turned / left
    return joined


def _total_turn(actions: np.ndarray) -> np.ndarray:
    """The orientation [4] x y z w that the rotation vectors of actions [K, 7] lead to."""
    total = np.array([0.0, 0.0, 0.0, 1.0])
    for action in actions:
        total = multiply(from_rotation_vector(action[3:6]), total)
    return total
