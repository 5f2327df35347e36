"""The computations of a policy's first part at each step of an episode, and its state.

Text is slow and changes seldom; a latent action is faster; a chunk is fastest. InstructVLA
refreshes the text every 20 steps and the latent action every other step (section 4.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vla.policies.base import Observation, PolicyFeatures


@dataclass
class Refresh:
    """How often things are recomputed, in steps; may be changed between steps."""

    # The text, where the robot thinks; 0 for once per instruction.
    language_every: int = 0
    # What it does: the latent action, or the chunk of a policy of one part.
    action_every: int = 1


@dataclass(frozen=True)
class ReasoningOutput:
    """The result of a step."""

    text: str | None
    action: np.ndarray  # latent action [Q, D], or chunk [H, A] of a policy of one part
    new_text: bool  # whether this step computed it
    new_action: bool  # whether this step computed it
    # Whether the text says that the robot can't do what was asked, so that the action is not to be
    # followed: as long as the instruction is in force.
    refused: bool = False


class Reasons(Protocol):
    """What a session asks of a first part, here or on a server; see parts.ReasoningPart."""

    features: PolicyFeatures

    def act(
        self, observation: Observation, instruction: str, response: str | None = None
    ) -> np.ndarray:
        """The action."""

    def think_and_act(self, observation: Observation, instruction: str) -> tuple[str, np.ndarray]:
        """The text, and the action on it."""

    def observe(self, observation: Observation, instruction: str) -> None:
        """Takes an observation without acting."""

    def reset(self) -> None:
        """Forgets the history."""


class ReasoningSession:
    """Text and action over the steps of an episode.

    They belong to one instruction and one mode; another one, or reset(), drops them.
    """

    def __init__(self, part: Reasons, refresh: Refresh | None = None):
        self.part = part
        self.refresh = refresh or Refresh()
        self.reset()

    def reset(self) -> None:
        """Forgets everything, as for a new episode."""
        self._of: tuple[str, bool] | None = None
        self._text: str | None = None
        self._action: np.ndarray | None = None
        self._text_age = self._action_age = 0
        self._refused = False
        self.part.reset()

    def step(
        self, observation: Observation, instruction: str, think: bool = False
    ) -> ReasoningOutput:
        """The text, if the robot thinks, and the action for one more step.

        Whether it refuses is decided by the first text: later on its own hand may hide what it is
        to see. What it refused is not computed again.
        """
        if self._of != (instruction, think):
            self.reset()
            self._of = (instruction, think)
        new_text = think and self._is_due(self._text, self._text_age, self.refresh.language_every)
        new_action = new_text or self._is_due(
            self._action, self._action_age, self.refresh.action_every
        )
        action = self._action
        if self._refused and action is not None:
            return ReasoningOutput(self._text, action, False, False, refused=True)
        if new_text:
            action = self._think(observation, instruction)
        elif action is None or new_action:
            action = self.part.act(observation, instruction, self._text)
        else:
            self.part.observe(observation, instruction)
        self._action = action
        self._text_age += 1
        self._action_age = 1 if new_action else self._action_age + 1
        return ReasoningOutput(self._text, action, new_text, new_action, self._refused)

    def _think(self, observation: Observation, instruction: str) -> np.ndarray:
        """Takes a new text, unless that refuses what was begun; the action on the text."""
        text, action = self.part.think_and_act(observation, instruction)
        refuses, first = self.part.features.refuses(text), self._text is None
        self._text_age = 0
        if refuses and not first:
            return self.part.act(observation, instruction, self._text)
        self._text, self._refused = text, refuses
        return action

    def look(self, observation: Observation, instruction: str, think: bool = False) -> None:
        """Takes an observation that is no step: one that belongs to the history all the same."""
        if self._of == (instruction, think):
            self.part.observe(observation, instruction)

    @staticmethod
    def _is_due(kept: object, age: int, every: int) -> bool:
        return kept is None or (every > 0 and age >= every)
