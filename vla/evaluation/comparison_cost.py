"""What a training will cost: a few of its steps, measured."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.training.config import TrainConfig
from vla.training.loop import train
from vla.training.sources import open_data

STEPS = 4  # of which the first, which allocates, does not count


def step_seconds(config: TrainConfig, device: str) -> float | None:
    """Seconds of one optimiser step; None where data or the start's weights are not there yet."""
    data = [*(entry.path for entry in config.robot), *(talk.path for talk in config.conversations)]
    if not all(Path(path).exists() for path in filter(None, (*data, config.initialize_from))):
        return None
    contract = load_contract(contract_path(config.contract))
    stamps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        measured = replace(config, output=folder, steps=max(config.steps, STEPS))
        opened = open_data(measured, contract)
        train(
            measured,
            contract,
            opened,
            device,
            STEPS,
            lambda step, _: stamps.append(time.monotonic()),
        )
    # The last one also exports the checkpoint.
    return median(after - before for before, after in pairwise(stamps[:-1]))
