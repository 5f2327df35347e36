"""Few-shot fine-tuning: an adapter from ten to fifty demonstrations, and what it cost the rest.

New frames and frames of the base's own data are trained on in turn (replay), so that old skills and
language stay. Whole episodes of the new data are held out; the adapter that does best on them is
kept, and the run ends when it has not improved for a while.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.core.files import read_json, read_yaml
from vla.core.replacing import replace_text, replacing
from vla.core.shown import brief, shown_path
from vla.datasets.frames import DatasetError
from vla.datasets.sample import ConversationDataset, EpisodeDataset, RobotDataset
from vla.policies.adapters import CARD, DESCRIPTION, save_adapter
from vla.policies.checkpoint import Checkpoint, open_checkpoint
from vla.policies.config import CheckpointError, bounded, from_dict
from vla.training.batches import Mixture
from vla.training.config import TrainConfig, train_config
from vla.training.data import (
    NOTABLE_SHARE,
    ConversationSlice,
    RobotSlice,
    TrainingData,
    clipped_shares,
    split,
)
from vla.training.effort import read_effort
from vla.training.loop import Trainer, train
from vla.training.objectives.adapt import Adapt

HISTORY = "validations.json"
CANDIDATES = "candidates"
ADAPTER = "adapter"
# What decides which adapter is kept: the flow loss on held-out episodes of the new data.
JUDGED_BY = "validation/robot/flow"
REPLAY_HELD_OUT = 0.03


@dataclass
class FinetuneConfig:
    """How an adapter is trained."""

    replay_share: float = bounded(0.5, 0, 0.99)  # of frames that are the base's own data
    # Share of the new episodes that are validated on, at least one.
    held_out_share: float = bounded(0.1, 0, 0.9)
    patience: int = bounded(5, 1, 1e6)  # validations without improvement that end the run
    # The run. Its robot and conversations are the replay; its steps are chosen by the number of
    # episodes where they are 0.
    train: TrainConfig = field(default_factory=lambda: TrainConfig(stage=Adapt.name, steps=0))


def read_finetune_config(path: str | Path) -> FinetuneConfig:
    """Reads a YAML file. Raises CheckpointError that names an unknown or unreadable entry."""
    values, where = read_yaml(path, CheckpointError), shown_path(path)
    values = {} if values is None else values
    if not (isinstance(values, dict) and isinstance(values.get("train"), dict)):
        return from_dict(FinetuneConfig, values, where)
    train = {"steps": 0, "stage": Adapt.name} | values.pop("train")
    run = train_config(train, f"{where}: train")
    return replace(from_dict(FinetuneConfig, values, where), train=run)


def steps_for(episodes: int) -> int:
    """Optimiser steps for so many demonstrations to train on: 540 for 18, 1350 for 45.

    The most that pays; early stopping ends a run that needs fewer.
    """
    return int(np.clip(30 * episodes, 200, 3000))


def few_shot_data(
    new: Sequence[EpisodeDataset], replay: TrainingData, config: FinetuneConfig
) -> tuple[TrainingData, dict[str, int]]:
    """The new episodes with the replay beside them, and the counts that a report names.

    new: the last episodes of each are held out. replay: kept and
    held-out parts of the base's data, either may be missing. Raises DatasetError where there are
    fewer than two episodes.
    """
    kept: list[RobotDataset] = []
    held: list[RobotDataset] = []
    episodes = held_episodes = 0
    for dataset in new:
        ends = dataset.episode_ends
        out = max(1, round(config.held_out_share * len(ends)))
        if len(ends) < 2:
            raise DatasetError(
                f"{len(ends)} episode in the data: give two or more, one is held out to validate on"
            )
        border = int(ends[-1 - out])
        kept.append(RobotSlice(dataset, 0, border))
        held.append(RobotSlice(dataset, border, len(dataset)))
        episodes += len(ends) - out
        held_episodes += out
    frames, weights = sum(map(len, kept)), [1.0] * len(kept)
    counts = {"episodes": episodes, "held_out_episodes": held_episodes, "frames": frames}
    robot, share = Mixture(kept, weights), config.replay_share
    if replay.robot is not None and share > 0:
        factor = share / (1 - share) * frames / float(replay.robot.shares.sum())
        robot = Mixture(
            [*kept, *replay.robot.datasets],
            [*weights, *(factor * weight for weight in replay.robot.weights)],
            [0.0] * len(kept) + replay.robot.masked_shares,
        )
    data = TrainingData(
        robot=robot,
        conversations=replay.conversations,
        held_out_robot=Mixture(held, [1.0] * len(held)),
        held_out_conversations=replay.held_out_conversations,
        held_out_replay=replay.held_out_robot,
    )
    return data, counts


def replay_data(
    robot: list[RobotDataset],
    robot_weights: list[float],
    masked_shares: list[float],
    talks: list[ConversationDataset],
    talk_weights: list[float],
) -> TrainingData:
    """The base's own data; a few per cent of its end are held out to see what is forgotten."""
    robot_kept, robot_held = split(robot, robot_weights, REPLAY_HELD_OUT, RobotSlice, masked_shares)
    talks_kept, talks_held = split(talks, talk_weights, REPLAY_HELD_OUT, ConversationSlice)
    return TrainingData(robot_kept, talks_kept, robot_held, talks_held)


class _Best:
    """Keeps the best adapter so far, and says when the run should end.

    Each validation leaves a candidate and a line in the history before the state is saved, so that
    a run that is killed between the two finds the same again.
    """

    def __init__(self, output: Path, config: FinetuneConfig, base: Checkpoint, about: dict):
        self.output, self.config, self.base, self.about = output, config, base, about

    def history(self, up_to: int | None = None) -> list[dict]:
        path = self.output / HISTORY
        entries = read_json(path, CheckpointError, finite=False) if path.exists() else []
        if not isinstance(entries, list) or not all(map(_is_validation, entries)):
            raise CheckpointError(
                f"{shown_path(path)} is no list of validations, got {brief(entries)}; give another "
                "output folder"
            )
        return [entry for entry in entries if up_to is None or entry["step"] <= up_to]

    def best(self, entries: list[dict]) -> dict:
        return min(entries, key=lambda entry: entry[JUDGED_BY])

    def __call__(self, trainer: Trainer, figures: dict[str, float]) -> bool:
        weights = trainer.weights()
        if not trainer.accelerator.is_main_process:
            return self._is_over(self.history(trainer.step))
        entries = self.history(trainer.step - 1)
        if entries:
            for folder in (self.output / CANDIDATES).glob("step-*"):
                if folder.name != _name(self.best(entries)["step"]):
                    shutil.rmtree(folder)
        figures = {k: v for k, v in figures.items() if k.startswith(("validation/", "replay/"))}
        entries.append({"step": trainer.step, **figures})
        about = self.about | {"step": trainer.step, "figures": figures}
        folder = self.output / CANDIDATES / _name(trainer.step)
        save_adapter(folder, weights, self.base, self.config.train.adapter, about, "")
        replace_text(self.output / HISTORY, json.dumps(entries, indent=1) + "\n")
        return self._is_over(entries)

    def _is_over(self, entries: list[dict]) -> bool:
        best = self.best(entries)["step"]
        return sum(entry["step"] > best for entry in entries) >= self.config.patience


def _is_validation(entry: object) -> bool:
    return isinstance(entry, dict) and all(
        type(entry.get(name)) in (int, float) for name in ("step", JUDGED_BY)
    )


def _name(step: int) -> str:
    return f"step-{step:06d}"


def finetune(
    config: FinetuneConfig,
    contract: EmbodimentContract,
    new: Sequence[EpisodeDataset],
    replay: TrainingData,
    device: str = "cpu",
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> dict:
    """Trains an adapter, or continues, and returns the report; the adapter is in OUTPUT/adapter.

    config.train.initialize_from: the base, whose statistics are kept. Raises DatasetError,
    ContractError or CheckpointError; KeyboardInterrupt after saving.
    """
    data, counts = few_shot_data(new, replay, config)
    run = config.train
    steps = run.steps or steps_for(counts["episodes"])
    run = replace(run, steps=steps, save_every=run.validate_every)
    base, output = open_checkpoint(run.initialize_from), Path(run.output)
    if not base.stats:
        raise CheckpointError(f"{base.folder} has not learned to act; train it on robot data")
    output.mkdir(parents=True, exist_ok=True)
    keeper = _Best(output, replace(config, train=run), base, {"data": counts})
    train(run, contract, data, device, on_step=on_step, on_validation=keeper)
    entries = keeper.history()
    before, best = entries[0], keeper.best(entries)
    report = {
        "base": base.checkpoint_id,
        "contract": base.contract.contract_id,
        "data": counts,
        "replay_share": config.replay_share if replay.robot is not None else 0.0,
        "adapter": asdict(run.adapter),
        "steps": entries[-1]["step"],
        "best_step": best["step"],
        "seconds": round(read_effort(output).seconds),
        "clipped": clipped(new, base),
        "before": {name: value for name, value in before.items() if name != "step"},
        "after": {name: value for name, value in best.items() if name != "step"},
    }
    if best["step"] == 0:
        raise CheckpointError(
            "no adapter was better on the held-out episodes than none at all: give more "
            "demonstrations, or look whether the held-out ones show the same task"
        )
    _keep(output, best["step"], card(report, base))
    replace_text(output / "finetune.json", json.dumps(report, indent=2) + "\n")
    return report


def _keep(output: Path, step: int, text: str) -> None:
    """Copies the best candidate to where it is looked for, its description last."""
    source, target = output / CANDIDATES / _name(step), output / ADAPTER
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir(), key=lambda path: path.name == DESCRIPTION):
        with replacing(target / path.name) as new:
            shutil.copy(path, new)
    replace_text(target / CARD, text)


def clipped(new: Sequence[RobotDataset], base: Checkpoint) -> dict[str, float]:
    """Shares of the new frames' values outside of the base's bounds.

    Such actions are cut, and can't be acted out; states are cut at adapter.state_limit. Only shares
    that statistics of these frames themselves would not have are named.
    """
    robot = Mixture(list(new), [1.0] * len(new))
    shares = clipped_shares(robot, base.contract, base.stats)
    return {name: round(share, 4) for name, share in shares.items() if share > NOTABLE_SHARE}


def card(report: dict, base: Checkpoint) -> str:
    """The adapter's README.md."""
    data, rows = report["data"], []
    for name, value in report["after"].items():
        rows.append(f"| {name} | {report['before'].get(name, float('nan')):.4f} | {value:.4f} |")
    return "\n".join(
        [
            "# An adapter of a vla_ros policy",
            "",
            f"It changes the checkpoint `{report['base']}` and means nothing without it. Robot: "
            f"{base.contract.name}, contract `{report['contract']}`.",
            "",
            f"Trained on {data['episodes']} demonstrations ({data['frames']} frames), "
            f"{report['replay_share']:.0%} replay; the best of {report['steps']} steps on "
            f"{data['held_out_episodes']} held-out demonstrations is that of step "
            f"{report['best_step']}. {report['seconds']} s.",
            "",
            "| figure | before | after |",
            "|---|---|---|",
            *rows,
            "",
            "`vla adapter load FOLDER` loads it into a running robot, `vla eval --adapter FOLDER` "
            "measures it.",
            "",
        ]
    )
