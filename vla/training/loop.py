"""The training loop: exact resume, validation, averaged weights, one process or many.

Accelerate places the model: on one device, or sharded over many with FSDP2. A batch, and all noise,
depend on the seed and the step alone, so a run that goes on sees what it would have seen.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from vla.contract.embodiment import EmbodimentContract
from vla.core.interrupts import deferred_interrupts
from vla.core.shown import listed
from vla.policies.backbones import KINDS
from vla.policies.backbones.remote_code import allow_remote_code
from vla.policies.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from vla.policies.collation import Batch, SeeingBatch
from vla.policies.config import CheckpointError, with_entries
from vla.policies.registry import policy_type, preset
from vla.training.batches import StepDataset, worker_count
from vla.training.config import TrainConfig, write_train_config
from vla.training.config_check import require_readable_masks, require_suited
from vla.training.data import TrainingData, prepare_robots, prepare_tokenizer
from vla.training.effort import Effort, counted, read_effort, write_effort
from vla.training.figures import StepFigures, read, unread
from vla.training.objectives.base import Step
from vla.training.objectives.registry import objective_of
from vla.training.parameters import (
    compile_layers,
    layer_classes,
    parameter_groups,
    share_weights,
    start_moments,
)
from vla.training.precision import halve_frozen, usable_precision
from vla.training.saved_state import load_state, save_state
from vla.training.sources import require_cameras
from vla.training.start import choose_trained, started_model, waiting_model
from vla.training.subsets import note_chosen


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then constant, or a cosine down to final_rate_share of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    low = config.final_rate_share
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (low + (1 - low) * falling)


def in_steps(config: TrainConfig, data: TrainingData, device: str) -> TrainConfig:
    """The configuration with its epochs counted in steps of all processes together.

    Raises CheckpointError where there are epochs, but no robot data to count them by.
    """
    if not (config.epochs or config.warmup_epochs):
        return config
    per_step = config.batch_size * PartialState(cpu=device == "cpu").num_processes
    if data.robot is None or not per_step:
        raise CheckpointError(
            "epochs and warmup_epochs count frames of robot data, of which there are none; give "
            "steps and warmup_steps"
        )
    per_epoch = sum(map(len, data.robot.datasets)) / per_step
    steps = max(1, round(config.epochs * per_epoch)) if config.epochs else config.steps
    warmup = round(config.warmup_epochs * per_epoch) or config.warmup_steps
    return replace(config, steps=steps, warmup_steps=warmup, epochs=0.0, warmup_epochs=0.0)


def open_start(config: TrainConfig) -> Checkpoint | None:
    """The checkpoint that a run starts from. Raises CheckpointError where it can't be read."""
    return open_checkpoint(config.initialize_from) if config.initialize_from else None


def model_config(config: TrainConfig, start: Checkpoint | None) -> Any:
    """The model that a run trains: that of its start or preset, with the entries that differ.

    Raises CheckpointError where the stage does not suit the policy, or the released backbone can't
    be read.
    """
    base = preset(config.preset) if start is None else start.config
    require_suited(config, base)
    base = with_entries(base, config.model, "model")
    if start is None and config.backbone:
        released = KINDS.get(config.backbone)
        if config.allow_remote_code and released is not None and released.own_code:
            allow_remote_code(config.backbone_source)
        base = policy_type(base.TYPE).with_backbone(base, config.backbone, config.backbone_source)
    built = objective_of(config).model_config(copy.deepcopy(base))
    policy_type(built.TYPE).check_config(built, "model")
    require_readable_masks(config, built)
    if config.vision_source and not policy_type(built.TYPE).vision_path(built):
        raise CheckpointError(
            "vision_source is for a policy whose action expert has a DINOv2 (model: {expert: "
            "{vision: dinov2, ...}}); leave it out, or take another preset"
        )
    return built


class Trainer:
    """Model, averaged weights and optimiser of a run, and the step that moves them.

    start: what open_start gives. average: the trained parameters' average, in their order; empty
    without ema_decay.
    """

    def __init__(
        self,
        config: TrainConfig,
        contract: EmbodimentContract,
        start: Checkpoint | None,
        device: str = "cpu",
    ):
        set_seed(config.seed)
        self.config, self.objective, self.step = config, objective_of(config), 0
        precision = usable_precision(config.precision, device)
        # A batch of conversations leaves the action expert without a gradient.
        self.accelerator = Accelerator(
            mixed_precision=precision,
            cpu=device == "cpu",
            step_scheduler_with_optimizer=False,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        if precision != config.precision:
            self.accelerator.print(
                f"precision {config.precision}: this processor has no fast one; training in float32"
            )
        built = model_config(config, start)
        kind = self.kind = policy_type(built.TYPE)
        # The first process alone reads the start: one copy of the model for all.
        if self.accelerator.is_main_process:
            model = started_model(config, built, contract, start, self.accelerator.print)
        else:
            model = waiting_model(built, contract)
        choose_trained(self.objective, kind, model)
        halve_frozen(self.accelerator, model)
        if config.checkpoint_activations:
            kind.checkpoint_activations(model)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay),
            lr=config.learning_rate,
            betas=config.betas,
            fused=True if self.accelerator.device.type == "cuda" else None,
        )
        # Where Accelerate asks how to shard.
        vars(model)["_no_split_modules"] = layer_classes(model)
        weights = {name: value.detach() for name, value in model.named_parameters()}
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        share_weights(self.plain_model, weights)
        if config.compile_layers:
            compile_layers(self.accelerator, self.plain_model)
        start_moments(self.optimizer)
        self.average: list[torch.Tensor] = []
        if config.ema_decay:
            self.average = [p.detach().clone() for p in self._trained()]

    @property
    def plain_model(self) -> torch.nn.Module:
        """The model without what Accelerate puts around it."""
        return self.accelerator.unwrap_model(self.model)

    def _trained(self) -> list[torch.Tensor]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def train_step(self, batches: Step) -> StepFigures:
        """An optimiser step on each of the batches in turn; figures to log."""
        config = self.config
        rate = learning_rate(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Dropout and noise of a step are the same whatever came before.
        seed = config.seed * 1_000_003 + self.step * self.accelerator.num_processes
        torch.manual_seed(seed + self.accelerator.process_index)
        self.objective.set_mode(self.kind, self.plain_model)
        figures: StepFigures = {"learning_rate": rate}
        for name, batch in batches.items():
            losses = self._move(batch)
            figures |= {f"{name}/{key}": value for key, value in losses.items()}
        if self.average:
            decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self._trained(), 1 - decay)
        self.step += 1
        return figures

    def _move(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        # On a CPU the plain attention trains these sizes faster than the flash kernel, whose
        # backward pass took 40% of a step.
        plain = self.accelerator.device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            loss, figures = self._losses(batch)
            if not isinstance(loss, torch.Tensor):
                raise CheckpointError(
                    f"stage '{self.config.stage}' minimises {listed(self.objective.loss_weights())}"
                    f", but the policy gives {listed(figures)}; take another stage"
                )
            self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self._trained(), self.config.gradient_clip)
        self.optimizer.step()
        return figures | {"gradient_norm": unread(norm)}

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What is minimised, and all losses as figures."""
        batch = self._matched(batch.to(self.accelerator.device))
        with self.accelerator.autocast():
            losses = self.model(batch, self.config.flow_samples)
        weights = self.objective.loss_weights()
        total = sum(weight * losses[name] for name, weight in weights.items() if name in losses)
        return total, {name: unread(loss) for name, loss in losses.items()}

    def _matched(self, batch: Batch) -> Batch:
        """The batch, with a blank image where it has none and that of another process has one.

        So all processes run the same modules, and what one waits for the others send.
        """
        if self.accelerator.num_processes == 1 or not isinstance(batch, SeeingBatch):
            return batch
        sees = torch.tensor([int(batch.sees)], device=self.accelerator.device)
        some_see = bool(self.accelerator.gather(sees).any())
        return batch.with_blank() if some_see and not batch.sees else batch

    @torch.no_grad()
    def validate(self, batches: StepDataset, title: str = "validation") -> dict[str, float]:
        """Mean figures of the weights that would be exported, on the same batches each time.

        title: what the figures' names begin with.
        """
        trained = self._trained()
        current = [parameter.detach().clone() for parameter in trained] if self.average else []
        if self.average:
            torch._foreach_copy_(trained, self.average)
        self.model.eval()
        rows: dict[str, list[float]] = {}
        for index in range(self.config.validation_batches):
            torch.manual_seed(index)
            for name, batch in batches[index].items():
                for key, value in self._losses(batch)[1].items():
                    rows.setdefault(f"{title}/{name}/{key}", []).append(value.item())
        if self.average:
            torch._foreach_copy_(trained, current)
        return {name: sum(values) / len(values) for name, values in rows.items()}

    def weights(self) -> dict[str, torch.Tensor]:
        """What is exported, averaged where averages are kept; all processes gather."""
        state = dict(self.accelerator.get_state_dict(self.model))
        names = [name for name, p in self.plain_model.named_parameters() if p.requires_grad]
        for name, value in zip(names, self.average, strict=False):
            state[name] = value.full_tensor() if isinstance(value, DTensor) else value
        return self.objective.exported(self.kind, state, names)


def train(
    config: TrainConfig,
    contract: EmbodimentContract,
    data: TrainingData,
    device: str = "cpu",
    until: int | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    on_validation: Callable[[Trainer, dict[str, float]], bool] | None = None,
) -> Path:
    """Trains, or continues, a run and returns the folder of its exported checkpoint.

    until: step to end at, where another part of the run follows; by default the configuration's
    last. on_step(step, figures) is called after each step; on_validation(trainer, figures) before
    the first step and after each validation, and what it returns true ends the run. Ctrl-C saves
    and ends it, with KeyboardInterrupt, once the step under way is done. An objective that exports
    no checkpoint leaves none: vla.training.finetune keeps the best of its adapters.
    """
    config, output = in_steps(config, data, device), Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    if data.robot is not None:
        note_chosen(output, data.robot.datasets)
    start = open_start(config)
    model = model_config(config, start)
    write_train_config(config, output / "train.yaml")
    # Made by one process; the others of its machine then read the whole files.
    with PartialState(cpu=device == "cpu").main_process_first():
        robots = prepare_robots(output, data, contract, start)
        kind = policy_type(model.TYPE)
        for robot in robots:
            kind.check_robot(model, robot.contract)
            require_cameras(kind.features(model, robot.contract).cameras, robot.contract)
        features = kind.features(model, contract)
        tokenizer = None
        if features.reads_words:
            tokenizer = prepare_tokenizer(output, data, config, model, start)
    trainer = Trainer(config, contract, start, device)
    load_state(trainer, output)
    process = trainer.accelerator.process_index
    arguments = (tokenizer, robots, model, config, process)
    batches = StepDataset(data.robot, data.conversations, *arguments)
    held_out = StepDataset(data.held_out_robot, data.held_out_conversations, *arguments, True)
    replay = None
    if data.held_out_replay is not None:
        replay = StepDataset(data.held_out_replay, None, *arguments, True)
    last = config.steps if until is None else min(until, config.steps)
    loader: DataLoader[Step] = DataLoader(
        batches,
        batch_size=None,
        sampler=range(trainer.step, last),
        num_workers=worker_count(config.workers, trainer.accelerator.device.type),
        persistent_workers=False,
    )
    main = trainer.accelerator.is_main_process
    writer = SummaryWriter(str(output / "tensorboard"), purge_step=trainer.step) if main else None
    progress = tqdm(
        total=config.steps, initial=trainer.step, unit="step", mininterval=5, disable=not main
    )
    effort = read_effort(output) if trainer.step else Effort()
    started = time.monotonic() - effort.seconds

    def save() -> None:
        if main:
            taken = replace(effort, seconds=time.monotonic() - started)
            write_effort(output, trainer.step, taken)
        save_state(trainer, output)
        if not trainer.objective.exports_checkpoint:
            return
        weights = trainer.weights()
        if main:
            folder = output / "checkpoint"
            dtype = torch.float16 if config.precision == "no" else torch.bfloat16
            save_checkpoint(folder, model, weights, robots, tokenizer, dtype)

    def log(figures: dict[str, float]) -> None:
        if writer is not None:
            for name, value in figures.items():
                writer.add_scalar(name, value, trainer.step)

    def validate() -> dict[str, float]:
        figures = trainer.validate(held_out)
        return figures | (trainer.validate(replay, "replay") if replay is not None else {})

    if on_validation is not None and trainer.step == 0:
        on_validation(trainer, validate())
    # A step that is cut in two leaves weights and averages that do not belong together.
    with deferred_interrupts() as interrupts:
        ended, unseen = False, []
        for batch in loader:
            unseen.append(trainer.train_step(batch))
            progress.update()
            due = config.validate_every and trainer.step % config.validate_every == 0
            saves = trainer.step % config.save_every == 0 or trainer.step == last
            is_logged = due or trainer.step % config.log_every == 0
            if not (is_logged or saves or interrupts or on_step is not None):
                continue
            first = trainer.step - len(unseen) + 1
            for step, figures in enumerate(read(unseen), start=first):
                processes = trainer.accelerator.num_processes
                effort = counted(effort, config, batch, figures, processes)
                if not all(map(math.isfinite, figures.values())):
                    raise CheckpointError(
                        f"step {step}: a loss is not finite ({figures}); the last save in {output} "
                        "is whole. Lower learning_rate, or look for bad values in the data"
                    )
            unseen = []
            if due and (data.held_out_robot or data.held_out_conversations):
                figures |= validate()
                ended = on_validation is not None and on_validation(trainer, figures)
            if is_logged:
                shown = {name: value for name, value in figures.items() if "/" in name}
                progress.set_postfix(
                    {k: f"{v:.3g}" for k, v in shown.items() if "norm" not in k}, refresh=False
                )
                log(figures)
            if saves or ended:
                save()
            if on_step is not None:
                on_step(trainer.step, figures)
            if interrupts:
                save()
                raise KeyboardInterrupt
            if ended:
                break
    progress.close()
    if writer is not None:
        writer.close()
    # All of them may read next what the first process has just written.
    trainer.accelerator.wait_for_everyone()
    return output / "checkpoint"
