"""The training loop: one process, exact resume, averaged weights, a line per step."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from vla.checkpoint import build_model, load_weights, open_checkpoint, save_checkpoint
from vla.contract import EmbodimentContract
from vla.data.frames import Shard
from vla.data.normalization import NormStats, measure, read_norm_stats, write_norm_stats
from vla.interrupts import deferred_interrupts
from vla.models.config import CheckpointError
from vla.models.presets import preset
from vla.models.tokenizer import load_tokenizer, train_tokenizer
from vla.models.vision_language_action import InstructVLA
from vla.training.batches import Batch, BatchMaker, corpus
from vla.training.config import TrainConfig, write_train_config
from vla.training.grounding import CameraView, grounding_loss

STATE_FILE = "training_state.pt"


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine down to final_rate_share of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    low = config.final_rate_share
    return config.learning_rate * (
        low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    )


def measure_statistics(shards: list[Shard], contract: EmbodimentContract) -> dict[str, NormStats]:
    """Normalisation statistics of states and actions over all frames."""
    states = np.concatenate([shard.state for shard in shards])
    actions = np.concatenate([shard.action[::4] for shard in shards])
    return {
        "state": measure(states, contract.state_names, smallest_span=0.04),
        "action": measure(actions, contract.action_names, ("gripper",), smallest_span=0.02),
    }


def _prepare_words_and_statistics(
    output: Path, shards: list[Shard], contract: EmbodimentContract, config: TrainConfig
) -> tuple[Tokenizer, dict[str, NormStats]]:
    """Tokenizer and statistics of a run: made once, then read, so that a resume keeps them."""
    names = {"state": contract.state_names, "action": contract.action_names}
    model = preset(config.preset)
    if not (output / "tokenizer.json").is_file():
        sentences = corpus(np.random.default_rng(config.seed), shards, model)
        tokenizer = train_tokenizer(sentences, model.backbone.vocabulary)
        tokenizer.save(str(output / "tokenizer.json"))
    if not (output / "norm_stats.json").is_file():
        write_norm_stats(measure_statistics(shards, contract), output / "norm_stats.json")
    return load_tokenizer(output), read_norm_stats(output / "norm_stats.json", names)


def _parameter_groups(model: InstructVLA, config: TrainConfig) -> list[dict]:
    """Weight decay for matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


class Trainer:
    """Model, averaged model and optimiser of a run, and the step that moves them."""

    def __init__(self, config: TrainConfig, contract: EmbodimentContract, device: str = "cpu"):
        torch.manual_seed(config.seed)
        self.config, self.device, self.step = config, device, 0
        self.model = build_model(preset(config.preset), contract).to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.model, config), lr=config.learning_rate, betas=(0.9, 0.98)
        )

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; the figures to log."""
        config = self.config
        rate = learning_rate(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        for name in ("ids", "mask", "labels", "query_start"):
            setattr(batch.text, name, getattr(batch.text, name).to(self.device))
        flow, text, scores = self.model.loss(
            batch.vlm_images.to(self.device),
            batch.text,
            batch.expert_images.to(self.device),
            batch.state.to(self.device),
            batch.actions.to(self.device),
            config.flow_samples,
            generator,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss = flow + config.text_weight * text
        grounding = torch.zeros(())
        if scores is not None:
            size = self.model.config.expert.image_size
            grounding = grounding_loss(scores, batch.places.to(self.device), size)
            loss = loss + config.grounding_weight * grounding
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
        self.optimizer.step()
        decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - decay
            )
        self.step += 1
        return {
            "loss/flow": flow.item(),
            "loss/text": text.item(),
            "loss/grounding": grounding.item(),
            "gradient_norm": norm.item(),
            "learning_rate": rate,
        }

    def save(self, path: Path) -> None:
        """Writes the whole state; an interruption leaves the older file."""
        state = {
            "step": self.step,
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = path.with_suffix(".part")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Continues a run. Raises CheckpointError where the run had another model."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        try:
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} is of another model than preset '{self.config.preset}'; "
                "give another output folder, or the preset that it was made with"
            ) from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def train(
    config: TrainConfig,
    contract: EmbodimentContract,
    shards: list[Shard],
    device: str = "cpu",
    views: dict[str, CameraView] | None = None,
    until: int | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Trains, or continues, a run and returns the folder of its exported checkpoint.

    until: step to end at, where another part of the run follows; by default the configuration's
    last. on_step(step, figures) is called after each step. Ctrl-C saves and ends it, with
    KeyboardInterrupt, once the step under way is done.
    """
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    source = open_checkpoint(config.initialize_from) if config.initialize_from else None
    if source is not None:
        contract.require_same(source.contract, "ours", f"that of {config.initialize_from}")
        for name in ("tokenizer.json", "norm_stats.json"):
            if not (output / name).is_file():
                shutil.copy(source.folder / name, output / name)
    write_train_config(config, output / "train.yaml")
    tokenizer, stats = _prepare_words_and_statistics(output, shards, contract, config)
    trainer = Trainer(config, contract, device)
    if (output / STATE_FILE).is_file():
        trainer.load(output / STATE_FILE)
    elif source is not None:
        load_weights(source, trainer.model, "", device)
        trainer.average.load_state_dict(trainer.model.state_dict())
    batches = BatchMaker(shards, tokenizer, stats, trainer.model.config, config, views)
    writer = SummaryWriter(str(output / "tensorboard"), purge_step=trainer.step)
    progress = tqdm(total=config.steps, initial=trainer.step, unit="step", mininterval=5)

    def save() -> None:
        _note_time(output, trainer.step, time.monotonic() - started)
        trainer.save(output / STATE_FILE)
        save_checkpoint(output / "checkpoint", trainer.average, contract, stats, tokenizer)

    last = config.steps if until is None else min(until, config.steps)
    started = time.monotonic() - _seconds_so_far(output, trainer.step)
    # A step that is cut in two leaves weights and averages that do not belong together.
    with deferred_interrupts() as interrupts:
        while trainer.step < last:
            figures = trainer.train_step(batches.make(trainer.step))
            progress.update()
            if trainer.step % config.log_every == 0:
                losses = {name: figures[f"loss/{name}"] for name in ("flow", "text", "grounding")}
                progress.set_postfix(losses, refresh=False)
                for name, value in figures.items():
                    writer.add_scalar(name, value, trainer.step)
            if trainer.step % config.save_every == 0 or trainer.step == last:
                save()
            if on_step is not None:
                on_step(trainer.step, figures)
            if interrupts:
                save()
                raise KeyboardInterrupt
    progress.close()
    writer.close()
    return output / "checkpoint"


def _note_time(output: Path, step: int, seconds: float) -> None:
    """Keeps the run's wall time, over all its parts."""
    (output / "time.json").write_text(json.dumps({"steps": step, "seconds": round(seconds)}) + "\n")


def _seconds_so_far(output: Path, step: int) -> float:
    path = output / "time.json"
    if step == 0 or not path.is_file():
        return 0.0
    return float(json.loads(path.read_text())["seconds"])
