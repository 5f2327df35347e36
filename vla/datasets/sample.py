"""Training samples: one frame of one robot episode, or one conversation, from any source."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.datasets.windows import Timeline

Pair = tuple[str, str]


@dataclass(frozen=True)
class Annotation:
    """VLA-IT annotation of an episode (InstructVLA, section 3.3); pairs of question and answer."""

    caption: str = ""  # of the scene, without the robot
    question_answers: tuple[Pair, ...] = ()  # about the scene
    command_rewrites: tuple[Pair, ...] = ()  # the command in other words, with the robot's reply
    contexts: tuple[Pair, ...] = ()  # a situation that implies the command, with the reply


@dataclass
class RobotSample:
    """One frame and the actions from it on; None stands for what is not known."""

    # uint8 [H, W, 3], by the contract's camera names; none at all of a sample without vision.
    images: dict[str, np.ndarray]
    state: np.ndarray  # [S] float32, in the contract's units
    actions: np.ndarray  # [H, A] float32, likewise
    instruction: str
    motion: str | None = None  # language motion label
    annotation: Annotation | None = None
    answer: str | None = None  # what the robot says that it is going to do
    # An instruction that can't be followed in this scene, and the answer that says so.
    impossible: Pair | None = None
    # Pixels [E, 2] by camera where the gripper acts next, NaN where the image does not show it.
    places: dict[str, np.ndarray] | None = None
    source: str = ""  # data set, episode and frame, for error messages
    steps: int | None = None  # of the chunk, before the episode's end
    # The frames before it, oldest first, for a policy with a history.
    past: tuple[RobotSample, ...] = ()


@dataclass
class Conversation:
    """Questions and answers, about images where there are some."""

    images: tuple[np.ndarray, ...]  # uint8 [H, W, 3] each, of any sizes
    turns: tuple[Pair, ...]
    # What the first image shows: pixel (right, down) by name.
    things: dict[str, tuple[float, float]] = field(default_factory=dict)
    source: str = ""
    # Each turn stands alone with the images: no answer is a hint for the next one.
    apart: bool = False

    def separated(self) -> list[Conversation]:
        """Itself, or where its turns stand apart, a conversation of each."""
        if not self.apart:
            return [self]
        return [replace(self, turns=(turn,), apart=False) for turn in self.turns]


class RobotDataset(Protocol):
    """Frames of episodes of one robot, that of the contract, in the order of episodes and time."""

    contract: EmbodimentContract

    def __len__(self) -> int:
        """Frames."""

    def sample(
        self, index: int, generator: np.random.Generator, images: bool = True
    ) -> RobotSample:
        """One frame; random draws come from the generator, the same with images and without.

        images: False leaves them out, and decodes none.
        """

    def states(self) -> np.ndarray:
        """States [N, S] of all frames."""

    def actions(self) -> np.ndarray:
        """Actions [N, A] of all frames, the first of each chunk."""

    def timeline(self) -> Timeline:
        """When the frames were taken. Raises DatasetError where that is not known."""


class EpisodeDataset(RobotDataset, Protocol):
    """Frames of which it is known where episodes end, and what each is about.

    Where tasks are families, `episode_instructions()` may give the instruction of each episode.
    `episode_scenes()` may give its scene, equal for episodes of one scene, "" where not known.
    """

    @property
    def episode_ends(self) -> np.ndarray:
        """Frames [E] up to and with each episode, in order."""

    def episode_tasks(self) -> list[str]:
        """The task of each episode: its family where it has one, or its first instruction."""


class ConversationDataset(Protocol):
    """Conversations."""

    def __len__(self) -> int:
        """Conversations."""

    def sample(self, index: int, generator: np.random.Generator) -> Conversation:
        """One conversation; random draws come from the generator."""
