"""Which of the chunks that came is followed, and when: the execution modes. No ROS, no clock.

A chunk's step k is due at its observation's stamp + (k + 1) * time_step, so steps whose time has
passed while the model computed are skipped by themselves, however late each chunk comes. Where
nothing valid is left, target() is None: the arm then comes to rest, and never goes back.

- "chunk": a chunk is followed to the end, or for execute_steps, then the newest that has come.
- "first": each chunk replaces the one before as soon as it comes (RoboVLMs plans anew each step).
- "ensemble": the weighted mean of what all kept chunks say about the same moment (ACT's temporal
  ensembling; InstructVLA's and CogACT's cosine weights). The gripper is voted on, not averaged.
- "real_time": as "first"; that two chunks fit together is the model's work (arXiv 2506.07339).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vla.control.chunk import ActionChunk, ChunkError, ChunkTrajectory, ToolTarget

MODES = ("chunk", "first", "ensemble", "real_time")
WEIGHTS = ("uniform", "exponential", "cosine")
# Chunks kept at most, whatever their age: a bound on memory for a model that floods.
MOST_KEPT = 64


@dataclass(frozen=True)
class ExecutionConfig:
    """How chunks are executed.

    mode: one of MODES. max_chunk_age: oldest observation that an action may come from [s].
    execute_steps: steps of a chunk that mode "chunk" follows, from where it was taken over; 0 for
    all that are left. ensemble_size: newest chunks that mode "ensemble" takes together. weights:
    one of WEIGHTS. exponential_decay: weight exp(-decay * i) for the i-th oldest, as in ACT, whose
    oldest prediction weighs most. cosine_alpha: sharpness of the cosine weights.
    """

    mode: str = "first"
    max_chunk_age: float = 1.2
    execute_steps: int = 0
    ensemble_size: int = 8
    weights: str = "cosine"
    exponential_decay: float = 0.01
    cosine_alpha: float = 0.1

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"unknown execution mode '{self.mode}'; known: {', '.join(MODES)}")
        if self.weights not in WEIGHTS:
            raise ValueError(f"unknown weights '{self.weights}'; known: {', '.join(WEIGHTS)}")


class ChunkExecutor:
    """Chunks in, tool targets out."""

    def __init__(self, config: ExecutionConfig, time_step: float):
        """time_step: between the steps of every chunk [s]."""
        self.config = config
        self._time_step = time_step
        # Oldest observation first; modes other than "ensemble" keep the one followed and the next.
        self._kept: list[ChunkTrajectory] = []
        self._followed_until = -math.inf

    @property
    def newest(self) -> ActionChunk | None:
        """The chunk of the newest observation that was accepted; None without one."""
        return self._kept[-1].chunk if self._kept else None

    def accept(self, chunk: ActionChunk, now: float) -> None:
        """Takes a chunk; a refused one changes nothing.

        Raises ChunkError: "shape" or "non_finite" for what cannot be executed, "stale" for one from
        an observation older than max_chunk_age, or not newer than that of the chunk before, which
        came out of order or twice.
        """
        trajectory = ChunkTrajectory(chunk)
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
        self._keep(trajectory, now)

    def _keep(self, trajectory: ChunkTrajectory, now: float) -> None:
        mode = self.config.mode
        if mode == "ensemble":
            most = min(self.config.ensemble_size, MOST_KEPT)
            self._kept = [*self._kept, trajectory][-most:]
        elif mode == "chunk" and self._kept and now < self._followed_until:
            # The one followed is first; of those that wait, only the newest counts.
            self._kept = [self._kept[0], trajectory]
        else:
            self._follow(trajectory, now)

    def _follow(self, trajectory: ChunkTrajectory, now: float) -> None:
        self._kept = [trajectory]
        end = min(trajectory.end, trajectory.chunk.stamp + self.config.max_chunk_age)
        steps = self.config.execute_steps
        self._followed_until = min(end, now + steps * self._time_step) if steps else end

    def clear(self) -> None:
        """Another instruction, or none: drops everything."""
        self._kept = []
        self._followed_until = -math.inf

    def target(self, time: float, now: float) -> ToolTarget | None:
        """Where the tool should be at `time` [s], which may be ahead of `now`.

        None where no chunk that is young enough at `now` is left. `time` beyond a chunk's end reads
        as its end as long as `now` is not, so that the arm gets there.
        """
        valid = self._valid(now)
        if not valid:
            return None
        if self.config.mode != "ensemble":
            return valid[0].target(time)
        reaching = [entry for entry in valid if time <= entry.end] or [valid[-1]]
        return self._mean(reaching, time)

    def age(self, now: float) -> float:
        """Age of the oldest observation that has a part in the present target [s]; NaN without."""
        valid = self._valid(now)
        return now - valid[0].chunk.stamp if valid else math.nan

    def _valid(self, now: float) -> list[ChunkTrajectory]:
        """The chunks that count at `now`, oldest observation first."""
        if self.config.mode == "chunk" and len(self._kept) > 1 and now >= self._followed_until:
            self._follow(self._kept[-1], now)
        limit = self.config.max_chunk_age
        valid = [
            entry
            for entry in self._kept
            if now - entry.chunk.stamp <= limit and now <= entry.end + self._time_step
        ]
        return valid if self.config.mode == "ensemble" else valid[:1]

    def _mean(self, members: list[ChunkTrajectory], time: float) -> ToolTarget:
        targets = [entry.target(time) for entry in members]
        weights = self._weigh([entry.action(time) for entry in members])
        position = sum(w * t.position for w, t in zip(weights, targets, strict=True))
        newest = targets[-1].quaternion
        # Two quaternions of opposite sign are one orientation: all take the newest one's sign.
        quaternion = sum(
            w * math.copysign(1.0, float(t.quaternion @ newest)) * t.quaternion
            for w, t in zip(weights, targets, strict=True)
        )
        length = float(np.linalg.norm(quaternion))
        quaternion = quaternion / length if length > 1e-6 else newest
        for_open = sum(w for w, t in zip(weights, targets, strict=True) if t.gripper > 0.5)
        side = [t.gripper for t in targets if (t.gripper > 0.5) == (for_open > 0.5)]
        return ToolTarget(position, quaternion, side[-1])

    def _weigh(self, actions: list[np.ndarray]) -> np.ndarray:
        """Weights [K] that sum to 1, for the actions [K, D] of the members, oldest first."""
        count = len(actions)
        if self.config.weights == "uniform":
            logits = np.zeros(count)
        elif self.config.weights == "exponential":
            logits = -self.config.exponential_decay * np.arange(count)
        else:
            newest = actions[-1]
            scale = [np.linalg.norm(a) * np.linalg.norm(newest) + 1e-7 for a in actions]
            cosines = [float(a @ newest) / s for a, s in zip(actions, scale, strict=True)]
            logits = self.config.cosine_alpha * np.array(cosines)
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()
