"""What a run learns from: its data sets, what is kept out for validation, words and statistics."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from vla.contract.embodiment import EmbodimentContract, dimension_kinds
from vla.contract.normalization import (
    SMALLEST_SPANS,
    NormStats,
    clipped_share,
    measure_all,
    write_norm_stats,
)
from vla.datasets.sample import Conversation, ConversationDataset, RobotDataset, RobotSample
from vla.datasets.windows import Timeline
from vla.policies.backbones.pretrained import load_tokenizer_of
from vla.policies.checkpoint import Checkpoint
from vla.policies.config import CheckpointError
from vla.policies.registry import policy_type
from vla.policies.robots import NORM_STATS, Robot, read_robots, read_stats, robot_folder
from vla.policies.tokenizer import load_tokenizer, train_tokenizer
from vla.training.batches import Data, Mixture
from vla.training.config import TrainConfig

logger = logging.getLogger(__name__)

TOKENIZER_SAMPLES = 4000
# Share of new values outside of kept bounds that is worth a word; the data that gave the bounds
# have 0.02 there.
NOTABLE_SHARE = 0.04


@dataclass
class ConversationSlice:
    """Conversations `start` to `stop` of a data set."""

    dataset: ConversationDataset
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def sample(self, index: int, generator: np.random.Generator) -> Conversation:
        """One conversation of the part."""
        return self.dataset.sample(self.start + index, generator)


@dataclass
class RobotSlice:
    """Frames `start` to `stop` of a data set."""

    dataset: RobotDataset
    start: int
    stop: int

    def __post_init__(self):
        self.contract = self.dataset.contract

    def __len__(self) -> int:
        return self.stop - self.start

    def sample(
        self, index: int, generator: np.random.Generator, images: bool = True
    ) -> RobotSample:
        """One frame of the part."""
        return self.dataset.sample(self.start + index, generator, images)

    def states(self) -> np.ndarray:
        """States [N, S] of its frames."""
        return self.dataset.states()[self.start : self.stop]

    def actions(self) -> np.ndarray:
        """Actions [N, A] of its frames."""
        return self.dataset.actions()[self.start : self.stop]

    def timeline(self) -> Timeline:
        """Of its frames."""
        return self.dataset.timeline().part(self.start, self.stop)


@dataclass
class TrainingData:
    """Mixtures to train on and to validate on; None where there is nothing of a kind."""

    robot: Mixture[RobotDataset] | None = None
    conversations: Mixture[ConversationDataset] | None = None
    held_out_robot: Mixture[RobotDataset] | None = None
    held_out_conversations: Mixture[ConversationDataset] | None = None
    # Of the data that an adapter must not forget, measured apart.
    held_out_replay: Mixture[RobotDataset] | None = None


def split(
    datasets: list[Data],
    weights: list[float],
    share: float,
    part: Callable[[Data, int, int], Data],
    masked_shares: Sequence[float] = (),
) -> tuple[Mixture[Data] | None, Mixture[Data] | None]:
    """A mixture of the data sets without their last entries, and one of these alone.

    share: of each data set that is kept out; 0 keeps nothing out. part: RobotSlice or
    ConversationSlice. masked_shares: of both mixtures, see there.
    """
    if not datasets:
        return None, None
    kept, held = [], []
    for dataset in datasets:
        end = len(dataset) - round(share * len(dataset))
        kept.append(part(dataset, 0, end))
        held.append(part(dataset, end, len(dataset)))
    # A mixture each has its own weights: corrections join the one that is trained on.
    out = Mixture(held, list(weights), list(masked_shares)) if all(map(len, held)) else None
    return Mixture(kept, list(weights), list(masked_shares)), out


def measure_statistics(
    robot: Mixture[RobotDataset], contract: EmbodimentContract
) -> dict[str, NormStats]:
    """Normalisation statistics of states and actions over all frames of the contract's robot."""
    own = _data_of(robot, contract)
    if not own:
        raise CheckpointError(f"there are no frames of the run's own robot, '{contract.name}'")
    kinds = dimension_kinds(contract)
    names = {"state": contract.state_names, "action": contract.action_names}
    return {
        vector: measure_all(
            (_values(dataset, vector) for dataset in own),
            names[vector],
            kinds[vector],
            SMALLEST_SPANS[vector],
        )
        for vector in names
    }


def _data_of(robot: Mixture[RobotDataset], contract: EmbodimentContract) -> list[RobotDataset]:
    return [dataset for dataset in robot.datasets if dataset.contract.name == contract.name]


def _values(dataset: RobotDataset, vector: str) -> np.ndarray:
    return dataset.states() if vector == "state" else dataset.actions()


def clipped_shares(
    robot: Mixture[RobotDataset], contract: EmbodimentContract, stats: dict[str, NormStats]
) -> dict[str, float]:
    """Shares of the values of the contract's robot that kept statistics cut off.

    By dimension, such as "action/x"; see clipped_share.
    """
    own = _data_of(robot, contract)
    frames = sum(map(len, own))
    shares = {}
    for vector, entry in stats.items():
        total = np.zeros(len(entry.names))
        for dataset in own:
            total += len(dataset) * clipped_share(entry, _values(dataset, vector))
        for name, share in zip(entry.names, total / max(frames, 1), strict=True):
            shares[f"{vector}/{name}"] = float(share)
    return shares


def warn_of_clipping(
    robot: Mixture[RobotDataset],
    contract: EmbodimentContract,
    stats: dict[str, NormStats],
    source: str | Path,
) -> None:
    """Logs one sentence where the statistics that a run keeps do not suit its data."""
    shares = clipped_shares(robot, contract, stats)
    if notable := {name: share for name, share in shares.items() if share > NOTABLE_SHARE}:
        shown = ", ".join(f"{share:.0%} of {name}" for name, share in notable.items())
        logger.warning(
            "new data of '%s' lie outside of the bounds of %s, which are kept, and are cut there: "
            "%s; a policy that starts from scratch has bounds of its own",
            contract.name,
            source,
            shown,
        )


def prepare_robots(
    output: Path, data: TrainingData, contract: EmbodimentContract, start: Checkpoint | None
) -> list[Robot]:
    """The robots of a run, its own first, with statistics: made once, then read by each resume.

    A robot that the start acts for has the statistics that it has there. Raises ContractError where
    its contract has changed since.
    """
    known, origin = {}, ""
    if start is not None:
        known = {robot.contract.name: robot for robot in read_robots(start.folder)}
        origin = str(start.folder)
    contracts = {contract.name: contract}
    for dataset in data.robot.datasets if data.robot is not None else ():
        first = contracts.setdefault(dataset.contract.name, dataset.contract)
        first.require_same(dataset.contract, "one data set", "another")
    robots = []
    for index, own in enumerate(contracts.values()):
        before = known[own.name].stats if own.name in known else {}
        if before:
            own.require_same(known[own.name].contract, "ours", f"that of {origin}")
        folder = robot_folder(output, index, own)
        if not read_stats(folder, own) and data.robot is not None:
            folder.mkdir(parents=True, exist_ok=True)
            stats = before or measure_statistics(data.robot, own)
            if before:
                warn_of_clipping(data.robot, own, before, origin)
            write_norm_stats(stats, folder / NORM_STATS)
        robots.append(Robot(own, read_stats(folder, own)))
    return robots


def prepare_tokenizer(
    output: Path,
    data: TrainingData,
    config: TrainConfig,
    model: Any,
    start: Checkpoint | None,
) -> Tokenizer:
    """The tokenizer of a run: that of its start, or made once, then read by each resume."""
    path = output / "tokenizer.json"
    if path.is_file():
        return load_tokenizer(output)
    if start is not None:
        shutil.copy(start.folder / path.name, path)
    elif config.backbone:
        load_tokenizer_of(config.backbone_source).save(str(path))
    else:
        sentences = corpus(data, model, np.random.default_rng(config.seed))
        train_tokenizer(sentences, policy_type(model.TYPE).vocabulary(model)).save(str(path))
    return load_tokenizer(output)


def corpus(data: TrainingData, model: Any, generator: np.random.Generator) -> list[str]:
    """Sentences that a tokenizer that is learned from scratch should know."""
    kind, sentences = policy_type(model.TYPE), []
    if (robot := data.robot) is not None:
        for dataset, index in robot.draw(TOKENIZER_SAMPLES, generator):
            frame = robot.datasets[dataset].sample(index, generator, images=False)
            sentences += kind.corpus(model, frame, generator)
    if (talks := data.conversations) is not None:
        for dataset, index in talks.draw(TOKENIZER_SAMPLES, generator):
            talk = talks.datasets[dataset].sample(index, generator)
            sentences += [text for turn in talk.turns for text in turn if text]
    return sentences
