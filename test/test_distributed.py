"""Training on two processes: every stage gives what one process gives, and goes on exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vla.policies.config import CheckpointError, LoraConfig
from vla.training.config import RobotData, TrainConfig, write_train_config
from vla.training.loop import train
from vla.training.sources import open_data

# Pairs of processes that train many policies; the limit only ends what hangs.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[1]
MATRIX = ROOT / "benchmarks" / "training_matrix.py"
sys.path.insert(0, str(MATRIX.parent))

import training_cells  # noqa: E402

CELLS = [cell.name for cell in training_cells.pairwise(training_cells.all_cells())]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict[str, dict]:
    """What became of each cell."""
    path = tmp_path_factory.mktemp("matrix") / "report.json"
    command = [sys.executable, str(MATRIX), "--pairwise", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert path.exists(), done.stderr[-3000:]
    return json.loads(path.read_text())


@pytest.mark.parametrize("cell", CELLS)
def test_a_stage_trains_on_two_processes_as_on_one(report, cell):
    assert not report[cell]["fault"]


def test_in_each_stage_one_process_alone_has_images(report):
    for stage in training_cells.STAGES:
        assert any(row["uneven"] for name, row in report.items() if name.startswith(f"{stage} |"))


def test_a_run_of_two_processes_makes_its_data_once_and_goes_on_with_as_many(tmp_path, contract):
    corrections = {"episodes": 2, "episodes_per_shard": 2, "time_limit": 0.75, "after_steps": [1]}
    sizes = {"episodes": 2, "episodes_per_shard": 1, "shares": {"close_drawer": 1.0}}
    data = RobotData(str(tmp_path / "data"), options={**sizes, "corrections": corrections})
    config = TrainConfig(
        preset="test", contract="sim_panda", lora=LoraConfig(("action",), rank=4), robot=(data,),
        output=str(tmp_path / "run"), steps=2, batch_size=3,
    )  # fmt: skip
    write_train_config(config, tmp_path / "train.yaml")
    command = [sys.executable, str(ROOT / "scripts" / "vla"), "train", "--processes", "2"]
    done = subprocess.run(
        [*command, "--config", str(tmp_path / "train.yaml")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("the policy drives 2 episodes") == 1
    assert done.stdout.count("the expert failed in") == 1
    assert "batch_size: 2\n" in (tmp_path / "run" / "train.yaml").read_text(), "half of three"
    (state,) = (tmp_path / "run").glob("training_state-*")
    assert json.loads((state / "step.json").read_text()) == {"step": 2, "processes": 2}
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").is_file()
    with pytest.raises(CheckpointError, match="was saved by 2 processes, this run has 1"):
        train(config, contract, open_data(config, contract))
