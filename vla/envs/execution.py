"""How an episode follows the chunks of a policy, for every benchmark alike (RoboVLMs, II.D).

- "chunk": all that is left of a chunk when it arrives, then the next one; "chunk:3": three steps.
- "first": one step, then the next chunk.
- "ensemble": a chunk for every step, and the weighted mean of what the last ones say about it. The
  weights, "ensemble:uniform", "exponential" or "cosine", are those of vla.control.execution;
  "ensemble:cosine:7" takes the last seven.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from vla.contract.embodiment import EmbodimentContract
from vla.control.execution import (
    MOST_KEPT,
    WEIGHTS,
    ExecutionConfig,
    ensemble_weights,
    voted,
)
from vla.core.shown import brief
from vla.envs.base import SuiteError


@dataclass(frozen=True)
class Execution:
    """How chunks are followed."""

    steps: int  # of each chunk, before the next is asked for; 0 for all that are left of it
    weights: str = ""  # of the mean over chunks, one of WEIGHTS; "" to follow the newest alone
    size: int = 0  # chunks that the mean is of; 0 for as many as vla.control.execution takes
    # Whether a mean over chunks has the gripper value of one of them, and not the mean of all.
    votes: bool = True

    def steps_of(self, horizon: int, delay: int = 0) -> int:
        """Steps of each chunk of `horizon` that arrives `delay` steps after its observation.

        Raises SuiteError where a chunk has not so many.
        """
        left = horizon - delay
        if max(self.steps, 1) > left:
            raise SuiteError(
                f"--execution asks for {max(self.steps, 1)} steps of each chunk, but a chunk of "
                f"{horizon} has {max(left, 0)} left when it arrives {delay} steps late: ask for "
                "fewer"
            )
        return self.steps or left

    def of(self, usual: ExecutionConfig, horizon: int, time_step: float) -> ExecutionConfig:
        """The arm controller's configuration for that, from its usual one.

        Chunks are followed to their end, horizon * time_step [s]; when the next one comes is the
        environment's business, so the controller follows each as soon as it comes.
        """
        age = max(usual.max_chunk_age, (horizon + 1) * time_step)
        if self.weights:
            size = self.size or usual.ensemble_size
            return replace(
                usual, mode="ensemble", weights=self.weights, ensemble_size=size, max_chunk_age=age
            )
        return replace(usual, mode="first", max_chunk_age=age)


def parse_execution(text: str) -> Execution:
    """Reads "chunk", "chunk:3", "first", "ensemble", "ensemble:uniform" or "ensemble:cosine:7".

    Raises SuiteError.
    """
    mode, *details = text.split(":")
    count = _count(details[-1]) if details else 0
    if text == "chunk" or (mode == "chunk" and len(details) == 1 and count):
        return Execution(count)
    if text == "first":
        return Execution(1)
    if text == "ensemble":
        return Execution(1, ExecutionConfig().weights)
    is_counted = len(details) == 2 and 0 < count <= MOST_KEPT
    if mode == "ensemble" and details[0] in WEIGHTS and (len(details) == 1 or is_counted):
        return Execution(1, details[0], count)
    raise SuiteError(
        f"--execution takes chunk, chunk:STEPS, first, ensemble, ensemble:{'|'.join(WEIGHTS)} or "
        f"ensemble:WEIGHTS:CHUNKS with at most {MOST_KEPT} chunks, got {brief(text)}"
    )


def _count(text: str) -> int:
    """The number that a text of up to five digits is, and 0 for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


class ChunkEnsemble:
    """What the last chunks say about the present step, for environments of one action a step."""

    def __init__(
        self, execution: Execution, contract: EmbodimentContract, units: ArrayLike | None = None
    ):
        """execution: one with weights. units [A]: in which cosine weights compare; None for 1."""
        size = execution.size or ExecutionConfig().ensemble_size
        self._config = ExecutionConfig(
            mode="ensemble", weights=execution.weights, ensemble_size=size
        )
        grippers = [i for i, d in enumerate(contract.actions) if d.kind == "gripper"]
        self._voted = grippers if execution.votes else []
        self._units = np.ones(len(contract.actions)) if units is None else np.asarray(units)
        self._kept: list[np.ndarray] = []  # what is left of each, this step first; oldest first

    def reset(self) -> None:
        """Another episode or instruction: forgets all chunks."""
        self._kept.clear()

    def action(self, chunk: np.ndarray) -> np.ndarray:
        """The action [A] of this step, for which the chunk [H, A] was made.

        The mean of what the last chunks say about it; each gripper value is one of theirs, see
        vla.control.execution.voted, unless the execution says otherwise.
        """
        self._kept = [*self._kept, np.asarray(chunk, dtype=np.float64)]
        self._kept = self._kept[-self._config.ensemble_size :]
        said = np.stack([left[0] for left in self._kept])  # [K, A]
        action = self._mean(said)
        self._kept = [left[1:] for left in self._kept if len(left) > 1]
        return action

    def _mean(self, said: np.ndarray) -> np.ndarray:
        """The weighted mean [A] of actions [K, A], oldest first."""
        weights = ensemble_weights(list(said / self._units), self._config)
        mean = weights @ said
        for index in self._voted:
            mean[index] = said[voted(weights, said[:, index].tolist()), index]
        return mean
