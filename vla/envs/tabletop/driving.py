"""A checkpoint as what drives the simulated arm: chunks from what its cameras see."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla.policies.instructvla.inference import ActionModel, Reasoner


class Policy:
    """Both halves of a checkpoint in one process."""

    def __init__(self, reasoner: Reasoner, action_model: ActionModel):
        self.reasoner, self.action_model = reasoner, action_model
        self.contract, self.checkpoint_id = action_model.contract, action_model.checkpoint_id
        self.reset("")

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: str = "cpu", adapter: str | Path = ""
    ) -> Policy:
        """Loads a checkpoint folder and, unless it is "", an adapter's folder into it."""
        return cls(
            Reasoner.from_pretrained(path, device, adapter),
            ActionModel.from_pretrained(path, device, adapter),
        )

    def reset(self, instruction: str, seed: int | None = None, think: bool = False) -> None:
        """An episode begins."""
        self._instruction, self._seed, self._think = instruction, seed, think
        self.said: str | None = None

    def chunk(self, images: dict[str, np.ndarray], state: np.ndarray, time: float) -> np.ndarray:
        """Actions [H, A] for now."""
        if self._think and self.said is None:
            self.said = self.reasoner.think(images, self._instruction)
        latent = self.reasoner.latent_action(images, self._instruction, self.said)
        seed, self._seed = self._seed, None
        return self.action_model.action_chunk(images, state, latent, seed)
