"""Which chunk is followed, and when: the execution modes. No ROS, no clock.

A chunk's step k is due at its observation's stamp + (k + 1) * time_step, so steps whose time passed
while the model computed are skipped, however late the chunk comes. A chunk that finds the arm as
still as its observation did starts at its start. Without a valid chunk target() is None: the arm
comes to rest, and never goes back.

- "chunk": a chunk is followed to the end, or for execute_steps, then the newest one. The arm slows
  down at each end, since it reads ahead; switching before it does succeeded less often.
- "first": each chunk replaces the one before on arrival (RoboVLMs re-plans at each step).
- "ensemble": the weighted mean of all kept chunks at each moment (ACT's temporal ensembling;
  InstructVLA's and CogACT's cosine weights). The gripper is voted on, not averaged.
- "real_time": as "first"; the model makes consecutive chunks fit together (arXiv 2506.07339).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.control.chunk import ActionChunk, ChunkError, ChunkTrajectory, ToolTarget

MODES = ("chunk", "first", "ensemble", "real_time")
WEIGHTS = ("uniform", "exponential", "cosine")
# Chunks kept at most: bounds the memory when a model floods.
MOST_KEPT = 64


@dataclass(frozen=True)
class ExecutionConfig:
    """How chunks are executed. Raises ValueError for values out of range."""

    mode: str = "first"  # one of MODES
    # Oldest observation whose chunk is accepted, and how long a chunk is followed from the start of
    # its path [s].
    max_chunk_age: float = 1.2
    # Steps of a chunk that mode "chunk" follows, from where it was taken over; 0 for all that are
    # left.
    execute_steps: int = 0
    ensemble_size: int = 8  # newest chunks that mode "ensemble" combines
    weights: str = "cosine"  # one of WEIGHTS
    # Weight exp(-decay * i) for the i-th oldest, as in ACT, where the oldest prediction weighs
    # most; below 0 the newest does.
    exponential_decay: float = 0.01
    # Sharpness of the cosine weights, exp(alpha * cosine) of a member's action and the newest
    # member's, as in InstructVLA and CogACT.
    cosine_alpha: float = 0.1

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"unknown execution mode '{self.mode}'; known: {', '.join(MODES)}")
        if self.weights not in WEIGHTS:
            raise ValueError(f"unknown weights '{self.weights}'; known: {', '.join(WEIGHTS)}")
        if not self.max_chunk_age > 0:
            raise ValueError(f"max_chunk_age must be positive, not {self.max_chunk_age}")
        if self.execute_steps < 0 or self.ensemble_size < 1:
            raise ValueError(
                f"execute_steps {self.execute_steps} must not be negative, and ensemble_size "
                f"{self.ensemble_size} at least 1"
            )
        if not (math.isfinite(self.exponential_decay) and math.isfinite(self.cosine_alpha)):
            raise ValueError("exponential_decay and cosine_alpha must be finite")


def start_of(chunk: ActionChunk, now: float, still_since: float) -> float:
    """When the path of a chunk that arrives `now` begins [s]; still_since as in accept()."""
    return max(chunk.stamp, now) if still_since <= chunk.stamp else chunk.stamp


def ensemble_weights(actions: Sequence[np.ndarray], config: ExecutionConfig) -> np.ndarray:
    """Weights [K] that sum to 1, for what K chunks say about one moment, [D] each, oldest first."""
    count = len(actions)
    if config.weights == "uniform":
        logits: np.ndarray = np.zeros(count)
    elif config.weights == "exponential":
        logits = -config.exponential_decay * np.arange(count)
    else:
        newest = actions[-1]
        scale = [np.linalg.norm(a) * np.linalg.norm(newest) + 1e-7 for a in actions]
        cosines = [float(a @ newest) / s for a, s in zip(actions, scale, strict=True)]
        logits = config.cosine_alpha * np.array(cosines)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def voted(weights: np.ndarray, grippers: Sequence[float]) -> int:
    """Whose gripper value of K, 1 open and 0 closed, oldest first, is taken: no mean of the two.

    The newest of the side with more weight; where both have the same, the newest decides.
    """
    opens = np.array(grippers) > 0.5
    vote = float(weights @ np.where(opens, 1.0, -1.0))
    winner = opens[-1] if abs(vote) < 1e-9 else vote > 0
    return int(np.flatnonzero(opens == winner)[-1])


class ChunkExecutor:
    """Chunks in, tool targets out."""

    def __init__(self, config: ExecutionConfig, time_step: float):
        """time_step: between the steps of every chunk [s]."""
        self.config = config
        self._time_step = time_step
        # Oldest observation first. Mode "chunk" keeps the current one and the newest that waits,
        # "ensemble" as many as it combines, the others one.
        self._kept: list[ChunkTrajectory] = []
        # When the current chunk is over; it is followed further if none waits.
        self._over_at = -math.inf
        # The chunks behind the last target.
        self._members: list[ChunkTrajectory] = []

    @property
    def newest(self) -> ActionChunk | None:
        """The chunk of the newest observation that was accepted; None without one."""
        return self._kept[-1].chunk if self._kept else None

    def accept(self, chunk: ActionChunk, now: float, still_since: float = math.inf) -> None:
        """Takes a chunk; a refused one changes nothing.

        still_since: since when the arm has been at rest without a chunk to follow [s], infinite
        while it moves. A chunk observed after that is followed from its start. Raises ChunkError:
        "shape" or "non_finite" for one that cannot be executed, "stale" for an observation older
        than max_chunk_age, or not newer than that of the chunk before.
        """
        trajectory = ChunkTrajectory(chunk, start_of(chunk, now, still_since))
        if abs(chunk.time_step - self._time_step) > 1e-6:
            raise ChunkError(
                "shape", f"time_step is {chunk.time_step}, the contract's {self._time_step}"
            )
        age = now - chunk.stamp
        if age > self.config.max_chunk_age:
            raise ChunkError(
                "stale",
                f"its observation is {age:.2f} s old, limit {self.config.max_chunk_age:g}: the "
                "model is too slow, or the clocks of the machines differ",
            )
        if self.newest is not None and chunk.stamp <= self.newest.stamp:
            raise ChunkError("stale", "a chunk of a newer observation, or the same, came before it")
        if self.config.mode == "ensemble":
            most = min(self.config.ensemble_size, MOST_KEPT)
            self._kept = [*self._kept, trajectory][-most:]
        elif self.config.mode == "chunk":
            self._kept = [*self._kept[:1], trajectory]
        else:
            self._kept = [trajectory]

    def clear(self) -> None:
        """Drops everything, as for another instruction."""
        self._kept, self._members = [], []
        self._over_at = -math.inf

    def target(self, time: float, now: float) -> ToolTarget | None:
        """Where the tool should be at `time` [s], which may be ahead of `now`.

        None where no chunk is young enough at `now`. Beyond the end of all chunks, `time` reads as
        the last end as long as `now` does not, so that the arm gets there.
        """
        if self.config.mode == "chunk":
            self._move_on(now)
        self._members = [entry for entry in self._kept if self._counts(entry, now)]
        if self.config.mode != "ensemble":
            self._members = self._members[:1]
        elif self._members:
            last = max(self._members, key=lambda entry: entry.end)
            self._members = [entry for entry in self._members if time <= entry.end] or [last]
        return self._mean(time) if self._members else None

    def age(self, now: float) -> float:
        """Age of the oldest observation behind the last target [s]; NaN without one."""
        return now - self._members[0].chunk.stamp if self._members else math.nan

    def _counts(self, entry: ChunkTrajectory, now: float) -> bool:
        """Whether a chunk is young enough at `now`, and not over."""
        age = now - entry.start
        return age <= self.config.max_chunk_age and now <= entry.end + self._time_step

    def _move_on(self, now: float) -> None:
        """Mode "chunk": switches to the newest chunk when the current one is over."""
        begins = self._over_at == -math.inf
        if not self._kept or (len(self._kept) == 1 and not begins):
            return
        if now >= self._over_at or not self._counts(self._kept[0], now):
            self._kept = self._kept[-1:]
            self._over_at = self._kept[0].end
            if steps := self.config.execute_steps:
                self._over_at = min(self._over_at, now + steps * self._time_step)

    def _mean(self, time: float) -> ToolTarget:
        """The members' weighted mean, with the gripper value of one of them."""
        targets = [entry.target(time) for entry in self._members]
        if len(targets) == 1:
            return targets[0]
        weights = ensemble_weights([entry.action(time) for entry in self._members], self.config)
        position = sum(w * t.position for w, t in zip(weights, targets, strict=True))
        newest = targets[-1].quaternion
        # Two quaternions of opposite sign are one orientation: all take the newest one's sign.
        quaternion = sum(
            w * math.copysign(1.0, float(t.quaternion @ newest)) * t.quaternion
            for w, t in zip(weights, targets, strict=True)
        )
        length = float(np.linalg.norm(quaternion))
        quaternion = quaternion / length if length > 1e-6 else newest
        winner = voted(weights, [t.gripper for t in targets])
        return ToolTarget(position, quaternion, targets[winner].gripper)
