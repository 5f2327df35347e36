"""What the arm will do while the next chunk is computed: the old chunk from a new observation.

Chunks are relative: deltas from the tool pose of their own observation. Real-time chunking needs
the targets of the current chunk in the frame that the model uses for the new one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vla.control.chunk import ActionChunk, ChunkTrajectory
from vla.core.rotations import difference, from_rotation_vector, multiply

# Steps over which a joined chunk returns to its own path.
FADE_STEPS = 4
# Cost of continuing at a step of the new chunk, in metres: per radian, for another gripper state,
# per step from the one that is due.
TURN_COST, GRIPPER_COST, STEP_COST = 0.1, 0.03, 0.002
# Steps ahead of the one that is due that a joined chunk may continue at.
MOST_AHEAD = 2
# By this much [m] the tool must be nearer to the path begun late than to the one begun in time.
PLAINLY_NEARER = 0.01

Pose = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class CommittedActions:
    """The old chunk from a new observation on."""

    # [K, 7]: deltas as of a chunk of that observation, for the K steps that guide the new chunk.
    actions: np.ndarray
    committed: int  # how many of the steps will have been executed before it arrives


def committed_actions(
    chunk: ActionChunk,
    stamp: float,
    position: np.ndarray,
    quaternion: np.ndarray,
    delay: float,
    soft_steps: int = 4,
    late: float = 0.0,
) -> CommittedActions | None:
    """The current chunk as seen from an observation; None where nothing of it is left.

    stamp [s], position [3] in metres, quaternion [4] x y z w: the new observation's tool pose, base
    frame. delay: from the observation until the arm no longer reads the old chunk [s]. soft_steps:
    steps after the committed ones that still guide the new chunk; more make a steadier arm that
    reacts later. late: how long after its observation the old chunk came [s]; if the arm stood
    still until then, it began the chunk that late, as the new observation shows.
    """
    trajectory, in_time = ChunkTrajectory(chunk, chunk.stamp + late), ChunkTrajectory(chunk)
    away = [_distance(path, stamp, position, quaternion) for path in (trajectory, in_time)]
    if away[0] + PLAINLY_NEARER >= away[1]:
        trajectory = in_time
    horizon, step = len(chunk.actions), chunk.time_step
    left = math.floor((trajectory.end - stamp) / step + 1e-6)
    if left < 1 or stamp < chunk.stamp:
        return None
    # Past its end the arm waits at the old chunk's last target, and the new one starts from there.
    committed = min(horizon - 1, math.ceil(delay / step - 1e-6))
    covered = max(committed, min(left, committed + soft_steps))
    actions = np.zeros((covered, chunk.actions.shape[1]))
    for index in range(covered):
        target = trajectory.target(stamp + (index + 1) * step)
        actions[index, :3] = target.position - position
        actions[index, 3:6] = difference(target.quaternion, quaternion)
        # The gripper is a decision, not interpolated: that of the old step in the middle of this
        # one.
        actions[index, 6] = trajectory.target(stamp + (index + 0.5) * step).gripper
        position, quaternion = target.position, target.quaternion
    return CommittedActions(actions, committed)


def _distance(
    trajectory: ChunkTrajectory, time: float, position: np.ndarray, quaternion: np.ndarray
) -> float:
    """Distance of a tool pose from a chunk's target [m]; turns count by TURN_COST."""
    target = trajectory.target(time)
    turned = np.linalg.norm(difference(target.quaternion, quaternion))
    return float(np.linalg.norm(target.position - position) + TURN_COST * turned)


def join(before: CommittedActions, actions: np.ndarray) -> np.ndarray:
    """A new chunk [H, 7] that begins with the committed steps and continues with its own.

    The guidance only comes near the committed steps; what the arm does must not depend on how near.
    After them the chunk continues from the step of its own path that is nearest to their end, with
    the gripper in the same state: if they keep the arm behind the chunk's plan, its later steps
    would come too early, and close the gripper beside the object. The remaining offset fades over
    FADE_STEPS.
    """
    count, own = before.committed, np.asarray(actions, dtype=np.float64)
    if count == 0:
        return own
    reached = _path(before.actions[:count])[-1]
    path = _path(own)
    place = _place(path, own[:, 6], reached, before.actions[count - 1, 6], count)
    joined = np.zeros_like(own)
    joined[:count] = before.actions[:count]
    rest = own[place : place + len(own) - count]
    joined[count : count + len(rest)] = rest
    joined[count + len(rest) :, 6] = own[-1, 6]
    fade = min(FADE_STEPS, len(own) - count)
    missing, turned = path[place][0] - reached[0], difference(path[place][1], reached[1])
    joined[count : count + fade, :3] += missing / fade
    joined[count : count + fade, 3:6] += turned / fade
    return joined


def _place(path: list[Pose], grippers: np.ndarray, reached: Pose, gripper: float, due: int) -> int:
    """The step of a chunk's own path that continues best from a pose and a gripper state."""
    costs = []
    for step in range(min(due + MOST_AHEAD, len(grippers) - 1) + 1):
        position, quaternion = path[step]
        costs.append(
            np.linalg.norm(position - reached[0])
            + TURN_COST * np.linalg.norm(difference(quaternion, reached[1]))
            + GRIPPER_COST * abs(grippers[max(step - 1, 0)] - gripper)
            + STEP_COST * abs(step - due)
        )
    return int(np.argmin(costs))


def _path(actions: np.ndarray) -> list[Pose]:
    """The poses [K + 1] that actions [K, 7] lead through from the origin."""
    poses = [(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))]
    for action in actions:
        position, quaternion = poses[-1]
        turn = from_rotation_vector(action[3:6])
        poses.append((position + action[:3], multiply(turn, quaternion)))
    return poses
