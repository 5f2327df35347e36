"""Training objectives: the shipped ones by name, and one that only a page of the docs knows."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from vla.datasets.sources import RobotData
from vla.envs.tabletop.samples import SimulatedDemonstrations
from vla.policies.checkpoint import open_checkpoint, read_weights
from vla.policies.config import CheckpointError
from vla.training.batches import Mixture
from vla.training.config import TrainConfig
from vla.training.config_check import check_train_config
from vla.training.data import TrainingData
from vla.training.loop import train
from vla.training.objectives.registry import OBJECTIVES, objective_of


@pytest.fixture(scope="module")
def motions(tmp_path_factory):
    """The objective that the page on adding one has as its example."""
    page = (Path(__file__).parents[1] / "docs" / "adding_an_objective.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    path = tmp_path_factory.mktemp("objective") / "motions.py"
    path.write_text(code)
    return runpy.run_path(str(path))["OBJECTIVE"]


@pytest.fixture
def config(tmp_path, dataset) -> TrainConfig:
    return TrainConfig(
        stage="motions", preset="test", robot=(RobotData(str(dataset)),), learning_rate=3e-3,
        output=str(tmp_path / "run"), steps=20, batch_size=8,
    )  # fmt: skip


@pytest.mark.slow
def test_the_objective_of_the_page_is_trained(config, contract, shards, motions, monkeypatch):
    monkeypatch.setitem(OBJECTIVES._entries, "motions", motions)
    check_train_config(config)
    data = TrainingData(Mixture([SimulatedDemonstrations(shards, contract, {})], [1.0]))
    rows = []
    first = train(config, contract, data, until=1)
    before = read_weights(open_checkpoint(first))
    after = read_weights(
        open_checkpoint(train(config, contract, data, on_step=lambda _, f: rows.append(f)))
    )
    losses = [row["motions/text"] for row in rows]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved and all(".language_model." in name for name in moved)


def test_an_objective_of_another_package_is_found(config, tmp_path, plugins):
    with pytest.raises(CheckpointError, match="unknown stage 'motions'; known: action, adapt"):
        objective_of(config)
    (tmp_path / "their_objective.py").write_text(
        "from vla.training.objectives.action import Action\n"
        "from vla.training.objectives.registry import OBJECTIVES\n"
        "@OBJECTIVES.register\n"
        "class Motions(Action):\n"
        "    name = 'motions'\n"
    )
    plugins("their_objective")
    assert type(objective_of(config)).__module__ == "their_objective"


def test_each_file_of_an_objective_is_named_as_it_is():
    names = ["action", "adapt", "full", "instruct", "policy", "pretrain"]
    assert OBJECTIVES.names() == names
    assert [OBJECTIVES[name].name for name in names] == names
