"""What a run would hold and load, counted on the meta device, without any weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from vla.contract.embodiment import EmbodimentContract
from vla.core.shown import shown_path
from vla.policies.checkpoint import build_model, stored_shapes
from vla.policies.registry import policy_type
from vla.policies.robots import checkpoint_folder
from vla.training.config import TrainConfig
from vla.training.loop import model_config, open_start
from vla.training.objectives.registry import objective_of
from vla.training.precision import frozen_matrices
from vla.training.start import choose_trained

GPUS = (1, 8, 64)
# Bytes of a parameter in training, which computes in bf16 by autocast and keeps float32.
WEIGHT, GRADIENT, ADAM = 4, 4, 8
# Of a frozen matrix less, where it is held in bfloat16 (vla.training.precision).
HALVED = 2
_COLUMNS = ("weights", "gradients", "optimiser", "average")


@dataclass(frozen=True)
class Footprint:
    """A run's parameters."""

    parts: dict[str, int]  # by part
    published: dict[str, int]  # sums of them, as the system's paper counts
    total: int
    trained: int
    averaged: int  # of the trained ones, those of which an average is kept
    halved: int  # of the frozen ones, those held in bfloat16 if the start is stored in it

    def bytes_per_gpu(self, gpus: int, sharded: bool) -> dict[str, float]:
        """Bytes on each of so many GPUs of weights, gradients, AdamW's moments and the average.

        sharded: by FSDP2, else each GPU holds all of it.
        """
        sizes = (
            WEIGHT * self.total - (0 if sharded else HALVED * self.halved),
            GRADIENT * self.trained,
            ADAM * self.trained,
            WEIGHT * self.averaged,
        )
        return {
            name: size / (gpus if sharded else 1)
            for name, size in zip(_COLUMNS, sizes, strict=True)
        }

    def text(self) -> str:
        """The counts, and a table of gigabytes."""
        lines = [f"{name:<34} {size:>13,}" for name, size in self.parts.items()]
        lines += [f"{'total':<34} {self.total:>13,}", f"{'trained':<34} {self.trained:>13,}"]
        lines += [f"{name:<34} {size:>13,}" for name, size in self.published.items()]
        lines.append(f"{'GB on each GPU':<14}" + "".join(f"{n:>11}" for n in (*_COLUMNS, "total")))
        for gpus in GPUS:
            for name, sharded in (("DDP", False), ("FSDP2", True))[: 1 if gpus == 1 else 2]:
                title = "1 GPU" if gpus == 1 else f"{gpus} GPUs, {name}"
                sizes = [*self.bytes_per_gpu(gpus, sharded).values()]
                figures = "".join(f"{size / 1e9:>11.2f}" for size in (*sizes, sum(sizes)))
                lines.append(f"{title:<14}{figures}")
        return "\n".join(lines)


def as_far_as_here(config: TrainConfig) -> TrainConfig:
    """The configuration without a start that is not on this machine, so that its preset counts."""
    if config.initialize_from and not checkpoint_folder(config.initialize_from).is_dir():
        config = replace(config, initialize_from="")
    if config.backbone and not checkpoint_folder(config.backbone_source).is_dir():
        config = replace(config, backbone="")
    return config


def footprint(config: TrainConfig, contract: EmbodimentContract) -> Footprint:
    """Counts a run's parameters. Raises CheckpointError where its model can't be built."""
    here = as_far_as_here(config)
    built = model_config(here, open_start(here))
    kind, objective = policy_type(built.TYPE), objective_of(config)
    with torch.device("meta"):
        model = build_model(built, contract)
        parts = kind.parameter_counts(model)
        published = kind.published_counts(model, parts)
        choose_trained(objective, kind, model)
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    trained = sum(sizes.values())
    total = sum(p.numel() for p in model.parameters())
    averaged = trained if config.ema_decay else 0
    # What is drawn at random is not exact in bfloat16.
    halves = config.precision == "bf16" and (config.initialize_from or config.backbone)
    halved = sum(p.numel() for p in frozen_matrices(model).values()) if halves else 0
    return Footprint(parts, published, total, trained, averaged, halved)


def loads_text(config: TrainConfig, contract: EmbodimentContract) -> str:
    """What a run would load, and whether that is on this machine."""
    here, lines = as_far_as_here(config), []
    if (start := open_start(here)) is not None:
        shapes = stored_shapes(start)
        lines.append(f"initialize_from {shown_path(start.folder)}: {len(shapes):,} tensors")
    elif config.initialize_from:
        lines.append(
            f"initialize_from {shown_path(config.initialize_from)}: not on this machine, counted "
            f"with the sizes of preset {config.preset}"
        )
    elif config.backbone:
        where = "" if here.backbone else ", counted with the sizes of preset " + config.preset
        lines.append(f"backbone {config.backbone}: {shown_path(config.backbone_source)}{where}")
    if config.vision_source:
        built = model_config(here, start)
        path = policy_type(built.TYPE).vision_path(built)
        with torch.device("meta"):
            wanted = build_model(built, contract).get_submodule(path).state_dict()
        size = sum(value.numel() for value in wanted.values())
        lines.append(
            f"vision_source {shown_path(config.vision_source)}: {len(wanted)} tensors, {size:,} "
            f"parameters, to {path}"
        )
    return "\n".join(lines or ["nothing: all weights are random"])
