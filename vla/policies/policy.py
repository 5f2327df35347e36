"""A whole checkpoint in one process, for evaluation, corrections and `vla eval`.

policy = Policy.from_pretrained("checkpoints/nano")
policy.reset("pick up the red can", seed=0)
actions = policy.chunk(images, state)          # [H, A], as often as the environment asks
policy.answer(images, "what is on the table ?")
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vla.policies.base import Images, Observation
from vla.policies.camera_images import blank_images
from vla.policies.checkpoint import open_checkpoint
from vla.policies.parts import ActionPart, ReasoningPart, action_part, reasoning_part
from vla.policies.runtimes import PRECISIONS


class Policy:
    """The one or two parts of a policy, and their state during an episode."""

    def __init__(self, reasoning: ReasoningPart, action: ActionPart | None, latent_every: int = 1):
        """action: None for a policy of one part. latent_every: chunks per latent action."""
        self.reasoning, self.action, self.latent_every = reasoning, action, latent_every
        self.contract, self.features = reasoning.contract, reasoning.features
        self.reset("")

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "cpu",
        adapter: str | Path = "",
        latent_every: int = 1,
        dtype: str = "auto",
        compile: str = "none",
    ) -> Policy:
        """Loads a checkpoint folder and, unless it is "", an adapter's folder into it.

        dtype, compile: see ReasoningPart.from_pretrained. Raises CheckpointError, one sentence.
        """
        given = open_checkpoint(path), device, adapter, dtype, compile
        reasoning, action = reasoning_part(*given), action_part(*given)
        return cls(reasoning, action if isinstance(action, ActionPart) else None, latent_every)

    def warm_up(self) -> Iterator[str]:
        """Compiles what from_pretrained() was asked to, and says which pass is done."""
        for part in (self.reasoning, self.action):
            if part is not None:
                yield from part.warm_up()

    def use_runtime(self, runtime: str) -> str:
        """Has a runtime of vla.policies.runtimes compute chunks; returns why it can't, or ""."""
        if self.action is None:
            asked = runtime in PRECISIONS
            return "a policy of one part has no export, so it runs eagerly" if asked else ""
        self.action.exports_guided = False  # Evaluation guides none.
        self.action.use_runtime(runtime)
        return self.action.runtime_problem

    def act_once(self) -> None:
        """One inference on black images, to measure how long it takes."""
        self.reset("", seed=0)
        images = blank_images((camera.name for camera in self.contract.cameras), self.contract)
        self.chunk(images, np.zeros(len(self.contract.state_names)))
        self.reset("")

    @property
    def window(self) -> int:
        """Observations that it reads at once; from 2 on it needs observe() between chunks."""
        return self.features.window

    @property
    def refused(self) -> bool:
        """Whether it said that it can't do what was asked: then nobody should follow its chunks."""
        return self.features.refuses(self.said)

    @property
    def checkpoint_id(self) -> str:
        """Of the weights as they are, the adapter's included."""
        return self.reasoning.checkpoint_id

    def reset(self, instruction: str, seed: int | None = None, think: bool = False) -> None:
        """An episode begins.

        seed: of its random draws; None continues with the generators. think: say first what to do,
        and act on that.
        """
        self._instruction, self._seed, self._think = instruction, seed, think
        self.said: str | None = None  # what it said, once it has thought
        self._latent: np.ndarray | None = None
        self._chunks = 0
        self.reasoning.reset()

    def chunk(self, images: Images, state: np.ndarray, time: float = 0.0) -> np.ndarray:
        """Actions float32 [H, A] for now, in the contract's units.

        images: uint8 [H, W, 3] by camera name. state [S], not normalised. time: of the observation
        [s]; a policy with a history needs it, and observe() between two chunks.
        """
        observation = Observation(images, state, time)
        if self._think and self.said is None:
            self.said = self.reasoning.think(images, self._instruction)
        seed = self._seed if self._chunks == 0 else None
        latent = None if self._chunks % self.latent_every == 0 else self._latent
        self._chunks += 1
        if latent is None:
            latent = self.reasoning.act(observation, self._instruction, self.said, seed)
        if self.action is None:
            return latent  # a policy of one part acts in chunks
        self._latent = latent
        return self.action.action_chunk(images, state, latent, seed)

    def head_input(self) -> np.ndarray | None:
        """What entered the action head for the last chunk, float32 [T, D]; None if it isn't shown.

        The latent action of a policy of two parts; of one part, what that part says.
        """
        return self.reasoning.head_input() if self.action is None else self._latent

    def observe(self, images: Images, state: np.ndarray, time: float) -> None:
        """Takes an observation without a chunk, for a policy with a history."""
        if self.features.window > 1:
            self.reasoning.observe(Observation(images, state, time), self._instruction)

    def is_due(self, time: float) -> bool:
        """Whether observe() would read an observation of that time [s]."""
        return self.features.window > 1 and self.reasoning.is_due(time)

    def answer(self, images: Images, question: str) -> str:
        """The answer to a question about the scene. Raises NotImplementedError without text."""
        return self.reasoning.ask(images, question)
