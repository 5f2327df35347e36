"""Data sources: kinds by name, their options, and configurations of version 0.1."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from vla.contract.embodiment import EmbodimentContract
from vla.core.resources import shared_file
from vla.datasets.sources import RobotData, RobotSource
from vla.envs.tabletop.samples import SimulatedDemonstrations
from vla.envs.tabletop.sources import SIMULATED, simulated_options
from vla.policies.config import CheckpointError
from vla.training.config import TrainConfig, read_train_config
from vla.training.config_check import check_train_config
from vla.training.finetune import read_finetune_config
from vla.training.run import corrected_entry
from vla.training.source_registry import ROBOT_SOURCES
from vla.training.sources import open_data

FORMER = """\
robot: [{path: datasets/table_top}, {path: mine, kind: lerobot}]
demonstrations: {episodes: 4900}
conversations: [{path: datasets/scenes, kind: scenes}, {path: talk.json}]
scenes: {scenes: 20000}
"""
TODAY = """\
robot:
  - {path: datasets/table_top, kind: simulated, options: {episodes: 4900}}
  - {path: mine, kind: lerobot}
conversations:
  - {path: datasets/scenes, kind: scenes, options: {scenes: 20000}}
  - {path: talk.json}
"""


@dataclass
class MemoryOptions:
    copies: int = 1


class MemorySource(RobotSource):
    """Shards that this file has in memory, several times over."""

    name = "memory"
    options = MemoryOptions

    def __init__(self, shards):
        self.shards = shards

    def open(self, entry: RobotData, contract: EmbodimentContract) -> SimulatedDemonstrations:
        return SimulatedDemonstrations(self.shards * entry.options["copies"], contract, {})


def test_a_kind_of_another_file_is_opened(contract, shards, monkeypatch, tmp_path):
    monkeypatch.setitem(ROBOT_SOURCES._entries, "memory", MemorySource(shards))
    path = tmp_path / "train.yaml"
    path.write_text("robot: [{path: here, kind: memory, options: {copies: 3}}]")
    data = open_data(read_train_config(path), contract)
    assert len(data.robot.datasets[0]) == 3 * sum(map(len, shards))
    path.write_text("robot: [{path: here, kind: memory, options: {copy: 3}}]")
    with pytest.raises(CheckpointError, match="robot 1: options: unknown entries: copy; known: co"):
        read_train_config(path)
    path.write_text("robot: [{path: here, kind: bags, options: {copies: 3}}]")
    with pytest.raises(CheckpointError, match="options: data of kind 'bags' has none"):
        read_train_config(path)


def test_entries_of_version_0_1_are_read_into_the_options(tmp_path):
    (tmp_path / "former.yaml").write_text(FORMER)
    (tmp_path / "today.yaml").write_text(TODAY)
    former, today = (read_train_config(tmp_path / f"{name}.yaml") for name in ("former", "today"))
    assert former == today
    (tmp_path / "tune.yaml").write_text("train:\n  " + FORMER.replace("\n", "\n  "))
    assert read_finetune_config(tmp_path / "tune.yaml").train.robot == today.robot


def test_corrections_of_version_0_1_go_to_the_first_simulated_data(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(
        "robot: [{path: mine, kind: lerobot}, {path: a, options: {episodes: 3}}, {path: b}]\n"
        "corrections: {after_steps: [7, 5], weight: 3}\n"
    )
    config = read_train_config(path)
    entry = corrected_entry(config)
    assert entry is config.robot[1] and SIMULATED.correction_steps(entry) == (5, 7)
    options = simulated_options(entry)
    assert options.episodes == 3 and options.corrections.weight == 3
    assert config.robot[2].options == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("demonstrations: {episode: 3}", "demonstrations: unknown entries: episode; known: ep"),
        ("corrections: {after: 3}", "corrections: unknown entries: after; known: after_steps"),
        ("scenes: 3", r"scenes must be a mapping"),
        ("scenes: {scenes: 3}\nsteps_: 3", "unknown entries: steps_"),
        ("robot: 3\ndemonstrations: {episodes: 3}", "robot must be a list"),
        ("robot: [{path: x, options: 3}]\ncorrections: {}", "options"),
        ("robot: [{path: x, options: {corrections: 3}}]\ncorrections: {}", "corrections"),
    ],
)
def test_wrong_entries_of_version_0_1_are_named(tmp_path, text, says):
    (tmp_path / "train.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=says):
        read_train_config(tmp_path / "train.yaml")


def test_what_is_made_for_the_runs_contract_has_no_other():
    entry = RobotData("shards", contract="google_fractal")
    config = TrainConfig(stage="adapt", initialize_from="somewhere", robot=(entry,))
    with pytest.raises(CheckpointError, match="simulated data is made for the run's own contract"):
        check_train_config(config)


def test_the_shipped_recipe_makes_its_corrections():
    config = read_train_config(shared_file("config/training/nano_full.yaml"))
    entry = corrected_entry(config)
    assert SIMULATED.correction_steps(entry) == (2000, 3500)
    assert simulated_options(entry).episodes == 2800
