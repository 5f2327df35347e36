"""Training on two processes: one model, whole or sharded, that goes on where it stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from vla.policies.checkpoint import open_checkpoint, read_weights
from vla.policies.config import LoraConfig
from vla.training.config import RobotData, TrainConfig, write_train_config

# Several trainings of two processes each; the limit only ends what hangs.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[1]
SHARDING = ROOT / "config" / "training" / "fsdp2.yaml"


def run(
    config: TrainConfig, folder: Path, processes: int, *overrides: str, sharded: bool = False
) -> str:
    path = folder / "train.yaml"
    write_train_config(config, path)
    program, environment = ROOT / "scripts" / "vla", {"OMP_NUM_THREADS": "1"}
    if sharded:
        program = ROOT / "test" / "sharded_vla.py"
        options = yaml.safe_load(SHARDING.read_text())["fsdp_config"]
        environment |= {name.upper(): str(value) for name, value in options.items()}
        environment |= {"ACCELERATE_USE_FSDP": "true"}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(processes), str(program),
        "train", "--config", str(path), "--threads", "1",
    ]  # fmt: skip
    if overrides:
        command += ["--set", *overrides]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0 or processes == 1, result.stderr[-3000:]
    return result.stderr


def tiny_run(tmp_path: Path, dataset: Path) -> TrainConfig:
    return TrainConfig(
        preset="test", contract="sim_panda", lora=LoraConfig(("action",), rank=4),
        robot=(RobotData(str(dataset), options={"episodes": 4, "episodes_per_shard": 2}),),
        output=str(tmp_path / "whole"), steps=4, batch_size=3,
        learning_rate=1e-3, save_every=2, ema_decay=0.9,
    )  # fmt: skip


def weights_of(run_folder: Path) -> dict[str, torch.Tensor]:
    return read_weights(open_checkpoint(run_folder / "checkpoint"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, dataset) -> tuple[TrainConfig, Path]:
    """A run that was never interrupted, and the folder that it is in."""
    folder = tmp_path_factory.mktemp("distributed")
    config = tiny_run(folder, dataset)
    run(config, folder, 2)
    return config, folder


def test_two_processes_train_one_model_and_go_on_exactly(tmp_path, whole):
    config, folder = whole
    parts = [f"output={tmp_path / 'parts'}"]
    run(config, tmp_path, 2, *parts, "steps=2")
    (state,) = (tmp_path / "parts").glob("training_state-*")
    assert json.loads((state / "step.json").read_text()) == {"step": 2, "processes": 2}
    assert "was saved by 2 processes, this run has 1" in run(config, tmp_path, 1, *parts)
    run(config, tmp_path, 2, *parts)
    at_once, resumed = weights_of(folder / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(value, resumed[name]) for name, value in at_once.items())


def test_a_sharded_model_learns_what_a_whole_one_does_and_goes_on_exactly(tmp_path, whole):
    config, folder = whole
    sharded, parts = (f"output={tmp_path / name}" for name in ("sharded", "parts"))
    run(config, tmp_path, 2, sharded, sharded=True)
    run(config, tmp_path, 2, parts, "steps=2", sharded=True)
    run(config, tmp_path, 2, parts, sharded=True)
    at_once = weights_of(folder / "whole")
    shards, resumed = (weights_of(tmp_path / name) for name in ("sharded", "parts"))
    assert at_once.keys() == shards.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in shards.items())
    for name, value in at_once.items():
        torch.testing.assert_close(value, shards[name], rtol=2e-3, atol=2e-4)
