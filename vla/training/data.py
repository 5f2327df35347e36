"""What a run learns from: its data sets, what is kept out for validation, words and statistics."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from vla.checkpoint import open_checkpoint
from vla.contract import EmbodimentContract
from vla.data.normalization import NormStats, measure, read_norm_stats, write_norm_stats
from vla.data.sample import Conversation, ConversationDataset, RobotDataset, RobotSample
from vla.models.backbones.pretrained import load_tokenizer_of
from vla.models.config import InstructVLAConfig
from vla.models.tokenizer import load_tokenizer, train_tokenizer
from vla.training.batches import Mixture
from vla.training.config import PromptSampling, TrainConfig
from vla.training.prompts import sample_row

TOKENIZER_SAMPLES = 4000


@dataclass
class Part:
    """Entries `start` to `stop` of a data set."""

    dataset: RobotDataset | ConversationDataset
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def sample(self, index: int, generator: np.random.Generator) -> RobotSample | Conversation:
        """One entry of the part."""
        return self.dataset.sample(self.start + index, generator)

    def states(self) -> np.ndarray:
        """States [N, S] of its frames."""
        return self.dataset.states()[self.start : self.stop]

    def actions(self) -> np.ndarray:
        """Actions [N, A] of its frames."""
        return self.dataset.actions()[self.start : self.stop]


@dataclass
class TrainingData:
    """Mixtures to train on and to validate on; None where there is nothing of a kind."""

    robot: Mixture | None = None
    conversations: Mixture | None = None
    held_out_robot: Mixture | None = None
    held_out_conversations: Mixture | None = None


def split(
    datasets: list[RobotDataset] | list[ConversationDataset], weights: list[float], share: float
) -> tuple[Mixture | None, Mixture | None]:
    """A mixture of the data sets without their last entries, and one of these alone.

    share: of each data set that is kept out; 0 keeps nothing out.
    """
    if not datasets:
        return None, None
    ends = [len(dataset) - round(share * len(dataset)) for dataset in datasets]
    kept = [Part(dataset, 0, end) for dataset, end in zip(datasets, ends, strict=True)]
    held = [Part(d, end, len(d)) for d, end in zip(datasets, ends, strict=True)]
    if not all(map(len, held)):
        return Mixture(kept, list(weights)), None
    # A mixture each has its own: corrections join the one that is trained on.
    return Mixture(kept, list(weights)), Mixture(held, list(weights))


def measure_statistics(robot: Mixture, contract: EmbodimentContract) -> dict[str, NormStats]:
    """Normalisation statistics of states and actions over all frames."""
    states = np.concatenate([dataset.states() for dataset in robot.datasets])
    actions = np.concatenate([dataset.actions() for dataset in robot.datasets])
    return {
        "state": measure(states, contract.state_names, smallest_span=0.04),
        "action": measure(actions, contract.action_names, ("gripper",), smallest_span=0.02),
    }


def prepare_words_and_statistics(
    output: Path,
    data: TrainingData,
    contract: EmbodimentContract,
    config: TrainConfig,
    model: InstructVLAConfig,
) -> tuple[Tokenizer, dict[str, NormStats]]:
    """Tokenizer and statistics of a run: made once, then read, so that a resume keeps them.

    A run that starts from a checkpoint has that one's.
    """
    names = {"state": contract.state_names, "action": contract.action_names}
    if config.initialize_from:
        source = open_checkpoint(config.initialize_from)
        if source.stats:
            contract.require_same(source.contract, "ours", f"that of {config.initialize_from}")
        for name in ("tokenizer.json", "norm_stats.json"):
            if (source.folder / name).is_file() and not (output / name).is_file():
                shutil.copy(source.folder / name, output / name)
    elif config.backbone and not (output / "tokenizer.json").is_file():
        load_tokenizer_of(config.backbone_source).save(str(output / "tokenizer.json"))
    if not (output / "tokenizer.json").is_file():
        sentences = corpus(data, model, np.random.default_rng(config.seed))
        train_tokenizer(sentences, model.backbone.vocabulary).save(str(output / "tokenizer.json"))
    statistics = output / "norm_stats.json"
    if not statistics.is_file() and data.robot is not None:
        write_norm_stats(measure_statistics(data.robot, contract), statistics)
    stats = read_norm_stats(statistics, names) if statistics.is_file() else {}
    return load_tokenizer(output), stats


def corpus(
    data: TrainingData, model: InstructVLAConfig, generator: np.random.Generator
) -> list[str]:
    """Sentences that a tokenizer that is learnt from scratch should know."""
    sentences: list[str] = []
    for mixture in (data.robot, data.conversations):
        if mixture is None:
            continue
        for dataset, index in mixture.draw(TOKENIZER_SAMPLES, generator):
            entry = mixture.datasets[dataset].sample(index, generator)
            if isinstance(entry, RobotSample):
                sampling = PromptSampling(think=0.5)
                turns = sample_row(entry, model.prompts, sampling, 1, generator).turns
            else:
                turns = entry.turns
            sentences += [text for turn in turns for text in turn if text]
    return sentences
