"""How an episode follows the chunks of a policy, for every benchmark alike (RoboVLMs, II.D).

- "chunk": all that is left of a chunk when it arrives, then the next one; "chunk:3": three steps.
- "first": one step, then the next chunk.
- "ensemble": a chunk for every step, and the weighted mean of what the last ones say about it. The
  weights, "ensemble:uniform", "exponential" or "cosine", are those of vla.control.execution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.control.execution import WEIGHTS, ExecutionConfig, ensemble_weights, voted
from vla.core.shown import brief
from vla.envs.base import SuiteError


@dataclass(frozen=True)
class Execution:
    """How chunks are followed."""

    steps: int  # of each chunk, before the next is asked for; 0 for all that are left of it
    weights: str = ""  # of the mean over chunks, one of WEIGHTS; "" to follow the newest alone

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
            return replace(usual, mode="ensemble", weights=self.weights, max_chunk_age=age)
        return replace(usual, mode="first", max_chunk_age=age)


def parse_execution(text: str) -> Execution:
    """Reads "chunk", "chunk:3", "first", "ensemble" or "ensemble:uniform". Raises SuiteError."""
    mode, separator, detail = text.partition(":")
    if mode == "chunk" and not separator:
        return Execution(0)
    if mode == "chunk" and detail.isascii() and detail.isdigit() and 0 < len(detail) < 6:
        if int(detail) > 0:
            return Execution(int(detail))
    elif text == "first":
        return Execution(1)
    elif mode == "ensemble" and (not separator or detail in WEIGHTS):
        return Execution(1, detail or ExecutionConfig().weights)
    raise SuiteError(
        f"--execution takes chunk, chunk:STEPS, first, ensemble or ensemble:{'|'.join(WEIGHTS)}, "
        f"got {brief(text)}"
    )


class ChunkEnsemble:
    """What the last chunks say about the present step, for environments of one action a step."""

    def __init__(self, weights: str, contract: EmbodimentContract):
        """weights: one of WEIGHTS."""
        self._config = ExecutionConfig(mode="ensemble", weights=weights)
        self._grippers = [i for i, d in enumerate(contract.actions) if d.kind == "gripper"]
        self._kept: list[np.ndarray] = []  # what is left of each, this step first; oldest first

    def reset(self) -> None:
        """Another episode or instruction: forgets all chunks."""
        self._kept.clear()

    def action(self, chunk: np.ndarray) -> np.ndarray:
        """The action [A] of this step, for which the chunk [H, A] was made.

        The mean of what the last chunks say about it; each gripper value is one of theirs, see
        vla.control.execution.voted.
        """
        self._kept = [*self._kept, np.asarray(chunk, dtype=np.float64)]
        self._kept = self._kept[-self._config.ensemble_size :]
        said = np.stack([left[0] for left in self._kept])  # [K, A]
        action = mean_action(said, self._config, self._grippers)
        self._kept = [left[1:] for left in self._kept if len(left) > 1]
        return action


def mean_action(
    said: np.ndarray, config: ExecutionConfig, grippers: Sequence[int] = ()
) -> np.ndarray:
    """The weighted mean [A] of actions [K, A], oldest first; the gripper entries are voted on."""
    weights = ensemble_weights(list(said), config)
    mean = weights @ said
    for index in grippers:
        mean[index] = said[voted(weights, said[:, index].tolist()), index]
    return mean
