"""A run from its configuration to its checkpoint, corrections in the middle included.

A policy that is trained on an expert's states alone meets others as soon as it errs. Where a data
source offers corrections, the training stops at the steps that its options name, the policy drives,
the expert labels what it meets (DAgger; Ross et al., 2011), and the training goes on with that.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState

from vla.contract.embodiment import EmbodimentContract
from vla.datasets.sources import RobotData
from vla.training.config import TrainConfig
from vla.training.config_check import check_train_config
from vla.training.loop import in_steps, train
from vla.training.source_registry import ROBOT_SOURCES
from vla.training.sources import make_data, open_data

# How long processes wait for the one that makes data: thousands of episodes take hours.
PATIENCE = timedelta(days=2)


def train_run(
    config: TrainConfig,
    contract: EmbodimentContract,
    device: str = "cpu",
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Makes missing data, trains or continues, and returns the folder of the checkpoint.

    on_step: see vla.training.loop.train.
    Raises DatasetError, BagError, ContractError or CheckpointError; KeyboardInterrupt after saving.
    """
    check_train_config(config)
    with one_at_first(device):
        make_data(config, contract)
    if config.epochs or config.warmup_epochs:  # Counted without the corrections to come
        config = in_steps(config, open_data(config, contract), device)
    entry = corrected_entry(config)
    corrections, folders = None, []
    if entry is not None:
        source = ROBOT_SOURCES[entry.kind]
        for number, step in enumerate(source.correction_steps(entry)):
            data = open_data(config, contract, corrections)
            checkpoint = train(config, contract, data, device, until=step, on_step=on_step)
            folders.append(Path(config.output) / f"corrections-{step:06d}")
            with one_at_first(device):
                source.correct(entry, contract, checkpoint, folders[-1], number)
            corrections = source.open_corrections(entry, contract, folders)
    data = open_data(config, contract, corrections)
    return train(config, contract, data, device, on_step=on_step)


def one_at_first(device: str) -> AbstractContextManager[None]:
    """Has one of a run's processes do what is inside before the others, which then find it done."""
    return PartialState(cpu=device == "cpu", timeout=PATIENCE).main_process_first()


def corrected_entry(config: TrainConfig) -> RobotData | None:
    """The entry of robot data that asks for corrections, the first one."""
    for entry in config.robot:
        if ROBOT_SOURCES[entry.kind].correction_steps(entry):
            return entry
    return None
