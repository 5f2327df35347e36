"""Training configurations, and what they have a frame asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path, given_or_shared
from vla.datasets.sample import Annotation, RobotSample
from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.instructvla.prompts import sample_row
from vla.policies.registry import preset
from vla.training.config import (
    PromptSampling,
    RobotData,
    TrainConfig,
    read_train_config,
    write_train_config,
)
from vla.training.config_check import check_train_config

TRAINING_CONFIGS = Path(__file__).parents[1] / "config" / "training"


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(
        preset="test",
        lora=LoraConfig(("action",), rank=4),
        robot=(RobotData("somewhere"),),
        steps=4,
    )


# Prompts


def sampled(sampling: PromptSampling, count: int = 400, **changes) -> list:
    annotation = Annotation("a can .", (("how many ?", "one ."),), (("lift it", "ok ."),), ())
    empty = {"images": {}, "state": np.zeros(1), "actions": np.zeros((1, 1))}
    values = {"motion": "move left", "annotation": annotation} | changes
    sample = RobotSample(instruction="Pick the can", **empty, **values)
    generator = np.random.default_rng(0)
    return [
        sample_row(sample, preset("test").prompts, sampling, 1, generator) for _ in range(count)
    ]


@pytest.mark.slow
def test_prompts_come_in_their_shares():
    rows = sampled(PromptSampling(motion=0.5, question=0.2, context=0.1, rewrite=0.3))
    assert all(row.acts and row.images == 1 for row in rows)
    two_turns = [row for row in rows if len(row.turns) == 2]
    assert 50 < len(two_turns) < 110
    assert {row.turns[0][1] for row in two_turns} == {"a can .", "one ."}
    assert all(row.turns[1][1] == "" for row in two_turns)
    rewrites = [row for row in rows if "lift it" in row.turns[0][0]]
    assert 90 < len(rewrites) < 150 and all(row.turns[0][1] == "ok ." for row in rewrites)
    assert all("first answer" in row.turns[0][0] for row in rewrites)
    motions = [row for row in rows if row.turns[0][1] == "move left"]
    rest = len(rows) - len(two_turns) - len(rewrites)
    assert 0.35 * rest < len(motions) < 0.65 * rest, "half of what is left, contexts included"


@pytest.mark.slow
def test_frames_without_labels_are_asked_for_the_action_alone():
    rows = sampled(PromptSampling(motion=1.0, think=1.0), 20, motion=None, annotation=None)
    assert {row.turns for row in rows} == {
        (("what action should the robot take to pick the can ?", ""),)
    }
    rows = sampled(PromptSampling(think=1.0), 20, annotation=None, answer="pick up the can .")
    assert {row.turns[0][1] for row in rows} == {"pick up the can ."}


# Configuration


def test_configurations_survive_their_file(tmp_path, config):
    write_train_config(config, tmp_path / "train.yaml")
    assert read_train_config(tmp_path / "train.yaml") == config


def test_numbers_may_be_written_as_people_do(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("learning_rate: 1e-3\nsteps: 10.0\n")
    config = read_train_config(path)
    assert config.learning_rate == 0.001
    assert config.steps == 10 and isinstance(config.steps, int)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("setps: 3", "unknown entries: setps; known: steps"),
        ("steps: many", "steps must be a whole number from 0 to .*, got 'many'"),
        ("steps: 2.5", "steps must be a whole number from 0 to .*, got 2.5"),
        ("preset: 3", "preset must be text, got 3"),
        ("learning_rate: [1]", "learning_rate must be a number"),
        ("robot: [{path: x, kin: y}]", r"robot 1: unknown entries: kin; known: kind"),
        (
            "robot: [{path: x, options: {episode: 3}}]",
            "robot 1: options: unknown entries: episode; known: episodes",
        ),
        ("steps: [", "not valid YAML"),
        ("just words", r"must be a mapping of .*, got str"),
    ],
)
def test_wrong_configurations_are_named(tmp_path, text, says):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=says):
        read_train_config(path)
    with pytest.raises(CheckpointError, match=r"cannot read .*No such file"):
        read_train_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"stage": "second"},
            "unknown stage 'second'; known: action, adapt, full, instruct, policy, pretrain",
        ),
        ({"schedule": "linear"}, "unknown schedule"),
        ({"precision": "fp8"}, "unknown precision 'fp8'; known: no, bf16"),
        ({"stage": "pretrain"}, "needs conversations"),
        ({"robot": ()}, "stage 'action' needs robot data"),
        ({"lora": LoraConfig()}, "trains LoRA experts"),
        ({"stage": "instruct"}, "needs initialize_from"),
    ],
)
def test_what_does_not_go_together_is_refused(config, change, says):
    check_train_config(config)
    with pytest.raises(CheckpointError, match=says):
        check_train_config(replace(config, **change))


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "config" / "training").glob("*_*.yaml"))
)
def test_shipped_configurations_can_be_read(path):
    config = read_train_config(path)
    check_train_config(config)
    load_contract(contract_path(config.contract))
    for entry in config.robot:
        if entry.mapping:
            assert given_or_shared(entry.mapping).is_file()
