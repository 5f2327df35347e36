"""Training batches: frames and conversations, augmented and put into words.

A batch depends on the seed, the step and the process alone, so an interrupted run resumes with the
same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from vla.datasets.grounding import EVENTS
from vla.datasets.sample import Conversation, ConversationDataset, RobotDataset, RobotSample
from vla.policies.images import fit_images
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.sequence import Row, collate
from vla.policies.instructvla.vision_language_action import Batch
from vla.policies.plain_text import TextTokenizer
from vla.policies.robots import Robot
from vla.training.augment import change_image, draw_change
from vla.training.config import TrainConfig
from vla.training.naming import name_cells
from vla.training.objectives.base import Step
from vla.training.objectives.registry import objective_of
from vla.training.prompts import sample_row


@dataclass
class Mixture:
    """Data sets with the weight of one entry of each; entries are drawn in these proportions."""

    datasets: Sequence[RobotDataset] | Sequence[ConversationDataset]
    weights: Sequence[float]

    def draw(self, count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
        """Data set and index of so many entries."""
        shares = np.array([len(d) * w for d, w in zip(self.datasets, self.weights, strict=True)])
        chosen = generator.choice(len(shares), size=count, p=shares / shares.sum())
        return [(int(c), int(generator.integers(len(self.datasets[c])))) for c in chosen]


class BatchMaker:
    """Makes the batches of a run; indexed by the step, so that a data loader can share the work.

    robots: with the statistics that normalise each one's frames. process: index of this process
    among those that train together. validation: takes other draws.
    """

    def __init__(
        self,
        robot: Mixture | None,
        conversations: Mixture | None,
        tokenizer: Tokenizer,
        robots: list[Robot],
        model: InstructVLAConfig,
        config: TrainConfig,
        process: int = 0,
        validation: bool = False,
    ):
        self.robot, self.conversations = robot, conversations
        self.tokenizer, self.model, self.config = tokenizer, model, config
        self.objective, self.text = objective_of(config), TextTokenizer(tokenizer)
        self.stats = {robot.contract.name: robot.stats for robot in robots}
        self._seed = [config.seed, process, int(validation)]

    def __getitem__(self, step: int) -> Step:
        """The batches of that step, those that the run has data for."""
        generator = np.random.default_rng([*self._seed, step])
        batches = self.objective.batches(self, generator)
        return {name: batch for name, batch in batches.items() if batch is not None}

    def robot_batch(self, generator: np.random.Generator) -> Batch | None:
        """Frames with their instructions, states and actions; None where the run asks for none."""
        if self.robot is None or not self.config.batch_size:
            return None
        chosen = self.robot.draw(self.config.batch_size, generator)
        samples = [self.robot.datasets[d].sample(index, generator) for d, index in chosen]
        vlm_images, expert_images, rows, places = [], [], [], []
        cameras = self.model.expert_cameras
        for sample in samples:
            change = draw_change(self.config.augmentation, generator)
            names = dict.fromkeys((*self.model.vlm_cameras, *cameras))
            images = {name: change_image(sample.images[name], change) for name in names}
            vlm_images += [images[name] for name in self.model.vlm_cameras]
            expert_images.append(torch.stack([images[name] for name in cameras]))
            places.append(_moved_places(sample, cameras, change))
            rows.append(
                sample_row(
                    sample,
                    self.model.prompts,
                    self.config.prompts,
                    len(self.model.vlm_cameras),
                    generator,
                )
            )
        stats = [self.stats[self.robot.datasets[d].contract.name] for d, _ in chosen]
        pairs = list(zip(stats, samples, strict=True))
        limit = self.objective.state_limit()
        state = np.stack([own["state"].normalize(sample.state, limit) for own, sample in pairs])
        noise = generator.normal(0.0, self.config.augmentation.state_noise, state.shape)
        actions = np.stack([own["action"].normalize(sample.actions) for own, sample in pairs])
        grounded = np.stack(places).astype(np.float32) if self.config.grounding_weight else None
        return Batch(
            vlm_images=torch.stack(vlm_images),
            text=collate(self.text, self.model.backbone, rows, self.model.num_queries),
            expert_images=torch.stack(expert_images),
            state=torch.from_numpy((state + noise).astype(np.float32)),
            actions=torch.from_numpy(actions.astype(np.float32)),
            places=None if grounded is None else torch.from_numpy(grounded),
        )

    def conversation_batch(self, generator: np.random.Generator) -> Batch | None:
        """Conversations, with an image or without; None where the run asks for none."""
        if self.conversations is None or not self.config.conversation_batch_size:
            return None
        chosen = self.conversations.draw(self.config.conversation_batch_size, generator)
        size = self.model.backbone.image_size
        images, rows, things = [], [], []
        for dataset, index in chosen:
            entry: Conversation = self.conversations.datasets[dataset].sample(index, generator)
            if entry.image is not None:
                change = draw_change(self.config.augmentation, generator)
                height, width = entry.image.shape[:2]
                images.append(change_image(_square(entry.image, size), change))
                scale = np.array([size / width, size / height])
                things.append(
                    {
                        name: tuple(change.move((np.array(pixel) + 0.5) * scale - 0.5, size))
                        for name, pixel in entry.things.items()
                    }
                )
            rows.append(Row(entry.turns, acts=False, images=int(entry.image is not None)))
        empty = torch.zeros(0, 3, size, size, dtype=torch.uint8)
        named = None
        if self.config.naming_weight:
            named = name_cells(self.text, things, size, self.model.backbone.image_tokens)
        return Batch(
            vlm_images=torch.stack(images) if images else empty,
            text=collate(self.text, self.model.backbone, rows, self.model.num_queries),
            word_ids=None if named is None else named.words,
            word_labels=None if named is None else named.labels,
        )


def _square(image: np.ndarray, size: int) -> np.ndarray:
    """An image [H, W, 3] as [size, size, 3], squeezed where it is not square, as in InstructVLA."""
    if image.shape[:2] == (size, size):
        return image
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return fit_images(pixels[None], size)[0].permute(1, 2, 0).numpy()


def _moved_places(sample: RobotSample, cameras: tuple[str, ...], change) -> np.ndarray:
    """Pixels [C, E, 2] of a sample's next places in the changed images; NaN where unknown."""
    places = np.full((len(cameras), len(EVENTS), 2), np.nan)
    for index, name in enumerate(cameras):
        if sample.places is not None and name in sample.places:
            places[index] = change.move(sample.places[name], sample.images[name].shape[0])
    return places
