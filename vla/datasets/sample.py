"""Training samples: one frame of one robot episode, or one conversation, from any source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.datasets.windows import Timeline

Pair = tuple[str, str]


@dataclass(frozen=True)
class Annotation:
    """VLA-IT annotation of an episode (InstructVLA, section 3.3).

    caption: of the scene, without the robot. The others are questions with answers: about the
    scene; the command in other words, with the robot's reply; a situation that implies the command,
    with the reply.
    """

    caption: str = ""
    question_answers: tuple[Pair, ...] = ()
    command_rewrites: tuple[Pair, ...] = ()
    contexts: tuple[Pair, ...] = ()


@dataclass
class RobotSample:
    """One frame and the actions from it on.

    images: uint8 [H, W, 3] by the contract's camera names. state [S] and actions [H, A]: float32,
    in the contract's units, not normalised. motion: language motion label. answer: what the robot
    says that it is going to do. places: pixels [E, 2] by camera, where the gripper acts next, NaN
    where the image does not show it. source: data set, episode and frame, for error messages. None
    stands for what is not known. steps: of the chunk that are before the episode's end. past: the
    frames before it, oldest first, for a policy with a history.
    """

    images: dict[str, np.ndarray]
    state: np.ndarray
    actions: np.ndarray
    instruction: str
    motion: str | None = None
    annotation: Annotation | None = None
    answer: str | None = None
    places: dict[str, np.ndarray] | None = None
    source: str = ""
    steps: int | None = None
    past: tuple[RobotSample, ...] = ()


@dataclass
class Conversation:
    """Questions and answers, about an image uint8 [H, W, 3] where there is one.

    things: pixels (right, down) of what the image shows, by name, where it is known.
    """

    image: np.ndarray | None
    turns: tuple[Pair, ...]
    things: dict[str, tuple[float, float]] = field(default_factory=dict)
    source: str = ""


class RobotDataset(Protocol):
    """Frames of episodes of one robot, that of the contract, in the order of episodes and time."""

    contract: EmbodimentContract

    def __len__(self) -> int:
        """Frames."""

    def sample(self, index: int, generator: np.random.Generator) -> RobotSample:
        """One frame; what is drawn at random in it comes from the generator."""

    def states(self) -> np.ndarray:
        """States [N, S] of all frames."""

    def actions(self) -> np.ndarray:
        """Actions [N, A] of all frames, the first of each chunk."""

    def timeline(self) -> Timeline:
        """When the frames were taken. Raises DatasetError where that is not known."""


class ConversationDataset(Protocol):
    """Conversations."""

    def __len__(self) -> int:
        """Conversations."""

    def sample(self, index: int, generator: np.random.Generator) -> Conversation:
        """One conversation; what is drawn at random in it comes from the generator."""
