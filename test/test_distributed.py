"""Training on two processes: they move one model together, and go on where they stopped."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vla.checkpoint import open_checkpoint, read_weights
from vla.models.config import LoraConfig
from vla.training.config import RobotData, TrainConfig, write_train_config

ROOT = Path(__file__).parents[1]


def run(config: TrainConfig, folder: Path, processes: int, *overrides: str) -> str:
    path = folder / "train.yaml"
    write_train_config(config, path)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(processes), str(ROOT / "scripts" / "vla"),
        "train", "--config", str(path), "--threads", "1",
    ]  # fmt: skip
    if overrides:
        command += ["--set", *overrides]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0 or processes == 1, result.stderr[-3000:]
    return result.stderr


@pytest.mark.timeout(240)
def test_two_processes_train_one_model_and_go_on_exactly(tmp_path, dataset):
    config = TrainConfig(
        preset="test", contract="sim_panda", lora=LoraConfig(("action",), rank=4),
        robot=(RobotData(str(dataset)),), output=str(tmp_path / "whole"), steps=4, batch_size=3,
        learning_rate=1e-3, save_every=2,
    )  # fmt: skip
    config.demonstrations = replace(config.demonstrations, episodes=4, episodes_per_shard=2)
    run(config, tmp_path, 2)
    parts = [f"output={tmp_path / 'parts'}"]
    run(config, tmp_path, 2, *parts, "steps=2")
    (state,) = (tmp_path / "parts").glob("training_state-*")
    assert json.loads((state / "step.json").read_text()) == {"step": 2, "processes": 2}
    assert "was saved by 2 processes, this run has 1" in run(config, tmp_path, 1, *parts)
    run(config, tmp_path, 2, *parts)
    whole, resumed = (
        read_weights(open_checkpoint(tmp_path / name / "checkpoint")) for name in ("whole", "parts")
    )
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
