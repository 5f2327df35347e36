"""A run's state on disk, to go on from: model, optimiser, averaged weights, step."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.tensor import DTensor

from vla.core.files import checked_entries, checked_number, read_json, require_regular
from vla.core.shown import shown_path
from vla.core.text import one_line
from vla.policies.config import CheckpointError

if TYPE_CHECKING:
    from vla.training.loop import Trainer

FOLDER = "training_state"


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor that may be sharded over many."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def save_state(trainer: Trainer, output: Path) -> None:
    """Writes the state into a folder of its own and removes the one before.

    A crash at any moment leaves one that is whole.
    """
    temporary = output / f"{FOLDER}.part"
    target = output / f"{FOLDER}-{trainer.step:07d}"
    accelerator = trainer.accelerator
    if accelerator.is_main_process and temporary.exists():
        shutil.rmtree(temporary)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))
    rank = accelerator.process_index
    torch.save([local(value) for value in trainer.average], temporary / f"average-{rank}.pt")
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    facts = {"step": trainer.step, "processes": accelerator.num_processes}
    (temporary / "step.json").write_text(json.dumps(facts) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    os.rename(temporary, target)
    for older in output.glob(f"{FOLDER}-*"):
        if older != target:
            shutil.rmtree(older)


def load_state(trainer: Trainer, output: Path) -> None:
    """Goes on from the newest state in a folder, if there is one.

    Raises CheckpointError where it is of another model or number of processes.
    """
    folders = sorted(output.glob(f"{FOLDER}-*"))
    if not folders:
        return
    folder = folders[-1]
    facts = _facts(folder / "step.json")
    if facts["processes"] != trainer.accelerator.num_processes:
        raise CheckpointError(
            f"{folder} was saved by {facts['processes']} processes, this run has "
            f"{trainer.accelerator.num_processes}; start as many"
        )
    try:
        trainer.accelerator.load_state(str(folder))
    # Of pickle, zip files, safetensors and torch alike; that of shards is no Exception.
    except (Exception, CheckpointException) as error:
        raise CheckpointError(
            f"{shown_path(folder)} is damaged, or of another model than this configuration's; give "
            "another output folder, or the preset, stage and lora that it was made with"
        ) from error
    average = _average(folder / f"average-{trainer.accelerator.process_index}.pt")
    if len(average) != len(trainer.average):
        raise CheckpointError(
            f"{folder} was saved {'with' if average else 'without'} averaged weights; give another "
            "output folder, or the ema_decay that it was made with"
        )
    for value, saved in zip(trainer.average, average, strict=True):
        if local(value).shape != saved.shape or not saved.isfinite().all():
            raise CheckpointError(
                f"{shown_path(folder)}: an averaged weight has another shape, or is not finite; "
                "give another output folder"
            )
        local(value).copy_(saved)
    trainer.step = facts["step"]


def _facts(path: Path) -> dict[str, int]:
    """What step.json says, whole numbers by name."""
    values, where = read_json(path, CheckpointError), shown_path(path)
    known = ("step", "processes")
    checked_entries(values, where, CheckpointError, known)
    return {
        name: checked_number(values.get(name), f"{where}: {name}", CheckpointError, 0, 1e12, True)
        for name in known
    }


def _average(path: Path) -> list[torch.Tensor]:
    require_regular(path, CheckpointError)
    try:
        average = torch.load(path, weights_only=True)
    except Exception as error:  # Of pickle, zip files and torch alike
        raise CheckpointError(
            f"{shown_path(path)} cannot be read: {one_line(error)}; give another output folder"
        ) from error
    if not isinstance(average, list) or not all(isinstance(v, torch.Tensor) for v in average):
        raise CheckpointError(f"{shown_path(path)} is no list of weights; give another folder")
    return average
