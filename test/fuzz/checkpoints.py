"""Checkpoints and adapters: one file of a folder mutated, replaced, or no file at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random

import numpy as np
from tiny_adapter import save_tiny_adapter
from tiny_checkpoint import save_tiny_checkpoint

from fuzz.mutation import mutate_bytes, mutate_text, mutate_tree
from fuzz.report import Report
from vla.policies.instructvla.inference import ActionModel, Reasoner


def fuzz_checkpoints(report: Report, count: int, seed: int) -> None:
    """Loads `count` folders, every third an adapter's; what loads must also give finite actions."""
    random = Random(seed)
    checkpoint = save_tiny_checkpoint(report.folder / "checkpoint")
    adapter = save_tiny_adapter(checkpoint, report.folder / "adapter")
    for number in range(count):
        source = adapter if number % 3 == 2 else checkpoint
        folder = report.folder / f"mutated_{source.name}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        file = random.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        how = _mutate(random, file)
        base, added = (checkpoint, folder) if source is adapter else (folder, "")
        report.try_case(
            "checkpoints and adapters",
            f"{number}, {source.name}: {how} {file.relative_to(folder)}",
            lambda base=base, added=added: _act(base, added),
            _wrong,
        )


def _mutate(random: Random, file: Path) -> str:
    kind = random.choice(("tree", "tree", "tree", "text", "bytes", "bytes", "node"))
    if kind == "tree" and file.suffix == ".json":
        tree = mutate_tree(random, json.loads(file.read_text()))
        file.write_text(json.dumps(tree))
    elif kind == "text" and file.suffix != ".safetensors":
        file.write_text(mutate_text(random, file.read_text()), errors="replace")
    elif kind == "node":
        file.unlink()
        kind = random.choice(("missing", "fifo", "folder", "device"))
        if kind == "fifo":
            os.mkfifo(file)
        elif kind == "folder":
            file.mkdir()
        elif kind == "device":
            file.symlink_to("/dev/zero")
    else:
        kind = "bytes"
        file.write_bytes(mutate_bytes(random, file.read_bytes()))
    return kind


def _act(base: Path, adapter: Path | str) -> np.ndarray:
    """One chunk [H, 7] of both halves on an empty scene."""
    reasoner = Reasoner.from_pretrained(base, adapter=adapter)
    model = ActionModel.from_pretrained(base, adapter=adapter)
    images = {
        camera.name: np.zeros((camera.height, camera.width, 3), np.uint8)
        for camera in model.contract.cameras
    }
    latent = reasoner.latent_action(images, "pick up the can")
    return model.action_chunk(images, np.zeros(len(model.contract.state_names)), latent, seed=0)


def _wrong(actions: np.ndarray) -> str | None:
    return None if np.isfinite(actions).all() else "actions are not finite"
