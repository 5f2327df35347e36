"""One episode of inference: what is thought anew at each step, and what is kept from the last.

Text is slow and changes seldom; a latent action is quicker; a chunk is quickest. InstructVLA
refreshes the text every 20 steps and the latent action every other step (section 4.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla.policies.instructvla.inference import Images, Reasoner


@dataclass
class Refresh:
    """How often things are computed anew, in steps; may be changed between steps.

    language_every: the text, where the robot thinks; 0 for once per instruction. latent_every: the
    latent action.
    """

    language_every: int = 20
    latent_every: int = 1


@dataclass(frozen=True)
class Thought:
    """What a step ends with. new_text, new_latent: whether this step computed it."""

    text: str | None
    latent: np.ndarray
    new_text: bool
    new_latent: bool


class ReasoningSession:
    """Text and latent action over the steps of an episode.

    What is kept belongs to one instruction and one mode; another one, or reset(), drops it.
    """

    def __init__(self, reasoner: Reasoner, refresh: Refresh | None = None):
        self.reasoner = reasoner
        self.refresh = refresh or Refresh()
        self.reset()

    def reset(self) -> None:
        """Forgets everything, as a new episode needs it."""
        self._of: tuple[str, bool] | None = None
        self._text: str | None = None
        self._latent: np.ndarray | None = None
        self._text_age = self._latent_age = 0

    def step(self, images: Images, instruction: str, think: bool = False) -> Thought:
        """The text, if the robot thinks, and the latent action [Q, D] for one more step."""
        if self._of != (instruction, think):
            self.reset()
            self._of = (instruction, think)
        new_text = think and self._is_due(self._text, self._text_age, self.refresh.language_every)
        new_latent = new_text or self._is_due(
            self._latent, self._latent_age, self.refresh.latent_every
        )
        if new_text:
            self._text, self._latent = self.reasoner.think_and_act(images, instruction)
            self._text_age = 0
        elif new_latent:
            self._latent = self.reasoner.latent_action(images, instruction, self._text)
        self._text_age += 1
        self._latent_age = 1 if new_latent else self._latent_age + 1
        return Thought(self._text, self._latent, new_text, new_latent)

    @staticmethod
    def _is_due(kept: object, age: int, every: int) -> bool:
        return kept is None or (every > 0 and age >= every)
