"""Training batches: frames and conversations, drawn from mixtures and collated by the policy.

A batch depends on the seed, the step and the process alone, so an interrupted run resumes with the
same ones.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from vla.core.processes import usable_cores
from vla.datasets.frames import DatasetError
from vla.datasets.sample import Conversation, ConversationDataset, RobotDataset, RobotSample
from vla.datasets.windows import why_no_windows, window_indices
from vla.policies.collation import Batch, CollationOptions
from vla.policies.registry import policy_type
from vla.policies.robots import Robot
from vla.training.config import TrainConfig
from vla.training.objectives.base import Step
from vla.training.objectives.registry import objective_of

MOST_WORKERS = 8  # where nobody says how many
Data = TypeVar("Data", bound="RobotDataset | ConversationDataset")


@dataclass
class Mixture(Generic[Data]):
    """Data sets with the weight of one entry of each; entries are drawn in these proportions."""

    datasets: list[Data]
    weights: list[float]
    # Share of the frames drawn of each that is masked; empty for none.
    masked_shares: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.masked_shares = self.masked_shares or [0.0] * len(self.datasets)

    @property
    def shares(self) -> np.ndarray:
        """Of a data set's entries, times their weight, by data set; not normalised."""
        return np.array([len(d) * w for d, w in zip(self.datasets, self.weights, strict=True)])

    def add(self, dataset: Data, weight: float, masked_share: float = 0.0) -> None:
        """Takes one more data set."""
        self.datasets.append(dataset)
        self.weights.append(weight)
        self.masked_shares.append(masked_share)

    def draw(self, count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
        """Data set and index of so many entries."""
        shares = self.shares
        chosen = generator.choice(len(shares), size=count, p=shares / shares.sum())
        return [(int(c), int(generator.integers(len(self.datasets[c])))) for c in chosen]


def worker_count(given: int, device: str) -> int:
    """Processes that make batches; -1 for what suits a training process on this device.

    On a GPU as many as leave it a core for itself, of those that it shares with the other training
    processes of its machine. On a CPU none, since the model needs the cores.
    """
    if given >= 0:
        return given
    if device == "cpu":
        return 0
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(0, min(MOST_WORKERS, usable_cores() // sharing - 1))


class StepDataset(Dataset[Step]):
    """Makes the batches of a run; indexed by the step, so that a data loader can share the work.

    model: the policy's configuration. robots: with the statistics that normalise each one's frames.
    process: index of this process among those that train together. validation: takes other draws.
    """

    def __init__(
        self,
        robot: Mixture[RobotDataset] | None,
        conversations: Mixture[ConversationDataset] | None,
        tokenizer: Tokenizer | None,
        robots: list[Robot],
        model: Any,
        config: TrainConfig,
        process: int = 0,
        validation: bool = False,
    ):
        self.robot, self.conversations = robot, conversations
        self.config, self.objective = config, objective_of(config)
        options = CollationOptions(
            config.augmentation,
            config.prompts,
            self.objective.state_limit(),
            naming=config.naming_weight > 0,
            grounding=config.grounding_weight > 0,
            most_tokens=config.max_tokens,
        )
        kind = policy_type(model.TYPE)
        self.collator = kind.collator(model, tokenizer, options)
        self._needs_images = kind.needs_images(model)
        features = kind.features(model, robots[0].contract)
        self._window, self._history_step = features.window, features.history_step
        self._windows: dict[int, np.ndarray] = {}
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
        datasets, shares = self.robot.datasets, self.robot.masked_shares
        # Of draws of their own, so that runs of other shares see the same frames and words.
        draws = generator.spawn(1)[0].random(len(chosen))
        samples = [
            self._sample(datasets[d], d, index, generator, images=draw >= shares[d])
            for (d, index), draw in zip(chosen, draws, strict=True)
        ]
        stats = [self.stats[datasets[d].contract.name] for d, _ in chosen]
        return self.collator.robot_batch(samples, stats, generator)

    def _sample(
        self,
        dataset: RobotDataset,
        number: int,
        index: int,
        generator: np.random.Generator,
        images: bool = True,
    ) -> RobotSample:
        """A frame of a data set, with those before it where the policy has a history.

        images: False for a masked frame, whose history is masked, too.
        """
        sample = dataset.sample(index, generator, images)
        if not sample.images and self._needs_images:
            raise DatasetError(
                f"robot data {number + 1} has no images, but {self._needs_images}; give its twin "
                "with images, or take another policy"
            )
        if self._window == 1:
            return sample
        if number not in self._windows:
            timeline = dataset.timeline()
            if why := why_no_windows(timeline, self._history_step):
                raise DatasetError(f"robot data {number + 1}: {why}")
            self._windows[number] = window_indices(timeline, self._window, self._history_step)
        found = self._windows[number][index]
        past = [dataset.sample(int(i), generator, images) for i in found[found >= 0][:-1]]
        return replace(sample, past=tuple(past))

    def conversation_batch(self, generator: np.random.Generator) -> Batch | None:
        """Conversations, with images or without; None where the run asks for none."""
        if self.conversations is None or not self.config.conversation_batch_size:
            return None
        chosen = self.conversations.draw(self.config.conversation_batch_size, generator)
        # One after the other as they are collated, so that each one's draws stand together.
        datasets = self.conversations.datasets
        samples = (self._conversation(datasets[d], index, generator) for d, index in chosen)
        return self.collator.conversation_batch(samples, generator)

    def _conversation(
        self, dataset: ConversationDataset, index: int, generator: np.random.Generator
    ) -> Conversation:
        """A conversation, or the next one whose images leave room for its words."""
        for step in range(len(dataset)):
            talk = dataset.sample((index + step) % len(dataset), generator)
            if len(talk.images) <= self.collator.most_images:
                return talk
        raise DatasetError(
            f"{talk.source} and all others have more images than fit into {self.config.max_tokens} "
            "tokens beside some words; raise max_tokens"
        )
