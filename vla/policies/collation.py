"""From samples to the batches that a policy learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from vla.contract.normalization import NormStats
from vla.datasets.grounding import EVENTS
from vla.datasets.sample import Conversation, RobotSample
from vla.policies.augment import Augmentation, ImageTransform
from vla.policies.config import BackboneConfig, bounded

# Tokens of a conversation that images leave to its words.
TEXT_ROOM = 128
MOST_IMAGES = 1000


@dataclass
class PromptSampling:
    """Shares of prompts for a robot frame (InstructVLA, section 3.3 and its code).

    The rest asks for the action alone.
    """

    # Share of frames with a motion label that is to be said before acting, where nothing else is
    # asked.
    motion: float = bounded(0.2, 0, 1)
    # Shares of annotated frames: that answer a question about the scene and then act; that are
    # given a situation and answer first; that are given the instruction in other words and answer
    # first.
    question: float = bounded(0.2, 0, 1)
    context: float = bounded(0.2, 0, 1)
    rewrite: float = bounded(0.2, 0, 1)
    # Share of these situations and other words that are acted on without an answer.
    unanswered: float = bounded(0.0, 0, 1)
    # Share of frames that answer their own instruction first.
    think: float = bounded(0.0, 0, 1)
    # Share of frames with an impossible instruction that refuse it in text, and then act on their
    # own one.
    impossible: float = bounded(0.0, 0, 1)


@dataclass
class CollationOptions:
    """How a training configuration turns samples into batches."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    prompts: PromptSampling = field(default_factory=PromptSampling)
    state_limit: float = 1.0  # where normalised states are cut
    naming: bool = False  # with labels of what each image token shows
    grounding: bool = False  # with labels of where in the images the gripper acts next
    most_tokens: int = 0  # of a conversation, see vla.policies.sequence.cut_row_ids; 0 for any


def moved_places(sample: RobotSample, cameras: Sequence[str], change: ImageTransform) -> np.ndarray:
    """Pixels [C, E, 2] of the gripper's next actions in the changed images; NaN where unknown."""
    places = np.full((len(cameras), len(EVENTS), 2), np.nan)
    for index, name in enumerate(cameras):
        if sample.places is not None and name in sample.places:
            places[index] = change.move(sample.places[name], sample.images[name].shape[0])
    return places


def moved_things(
    things: Mapping[str, tuple[float, float]],
    image: np.ndarray,
    size: int,
    change: ImageTransform | None,
) -> dict[str, tuple[float, float]]:
    """Where things at pixels of an image [H, W, 3] are in it once it is a square, and changed."""
    height, width = image.shape[:2]
    scale = np.array([size / width, size / height])
    squared = {name: (np.array(at) + 0.5) * scale - 0.5 for name, at in things.items()}
    return {
        name: tuple(at if change is None else change.move(at, size)) for name, at in squared.items()
    }


def stacked(images: Sequence[torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    """uint8 images [N, *shape]; N is 0 where there are none, as in a batch of masked samples."""
    return torch.stack([*images]) if images else torch.zeros(0, *shape, dtype=torch.uint8)


def image_places(backbone: BackboneConfig, options: CollationOptions) -> int:
    """For how many images, or tiles, a conversation has room beside some words."""
    if not options.most_tokens:
        return MOST_IMAGES
    return max(0, (options.most_tokens - TEXT_ROOM) // backbone.image_tokens)


class Batch(Protocol):
    """The input of a policy's losses."""

    def to(self, device: str | torch.device) -> Any:
        """The batch on another device."""


@runtime_checkable
class SeeingBatch(Batch, Protocol):
    """The input of a policy that looks at images, where a batch may lack them.

    Processes that train one model run the same modules in each step. Where some of them have images
    and others none, these take a blank one.
    """

    @property
    def sees(self) -> bool:
        """Whether it has images."""

    def with_blank(self) -> Any:
        """The batch, which has no images, with a black one that belongs to no row.

        It changes no loss; what sees gets zeros for its gradients.
        """


class Collator(Protocol):
    """Makes batches for one kind of policy. All draws come from the generator."""

    most_images: int  # of a conversation that it takes

    def robot_batch(
        self,
        samples: Sequence[RobotSample],
        stats: Sequence[dict[str, NormStats]],
        generator: np.random.Generator,
    ) -> Batch:
        """Frames with instructions, states and actions. stats: that normalise each sample.

        A sample without images is masked: nothing in the batch stands for what it would show.
        """

    def conversation_batch(
        self, samples: Iterable[Conversation], generator: np.random.Generator
    ) -> Batch:
        """Conversations, with images or without; their words are cut where they are too long."""
