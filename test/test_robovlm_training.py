"""RoboVLMs learn from windows of frames, and train what is asked for."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_robovlm import PLAIN

from vla.datasets.frames import DatasetError
from vla.datasets.sources import ConversationData, RobotData
from vla.envs.registry import make_suite
from vla.evaluation.benchmark import evaluate
from vla.policies.checkpoint import open_checkpoint, read_weights
from vla.policies.config import CheckpointError
from vla.policies.policy import Policy
from vla.policies.robots import read_robots
from vla.policies.tokenizer import load_tokenizer
from vla.training.batches import BatchMaker
from vla.training.config import TrainConfig, TrainedParts
from vla.training.config_check import check_train_config
from vla.training.loop import Trainer, model_config, train
from vla.training.sources import open_data


@pytest.fixture
def config(dataset, checkpoint, tmp_path) -> TrainConfig:
    """Three frames a window, on the backbone of a tiny checkpoint of another type."""
    return TrainConfig(
        stage="policy",
        preset="nano_policy_head",
        model={"structure": {"window": 3}, "head": {"hidden": 32, "layers": 1, "widths": [32]}},
        backbone="checkpoint",
        backbone_source=str(checkpoint),
        robot=(RobotData(str(dataset)),),
        output=str(tmp_path / "run"),
        steps=30,
        batch_size=4,
        learning_rate=3e-3,
        augmentation=PLAIN,
    )


def test_it_learns_from_windows_and_is_evaluated(config, contract):
    check_train_config(config)
    data, losses = open_data(config, contract), []
    folder = train(
        config, contract, data, on_step=lambda _, figures: losses.append(figures["robot/action"])
    )
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])
    policy = Policy.from_pretrained(folder)
    assert policy.features.window == 3 and policy.features.latent_shape is None
    results = evaluate(policy, make_suite("tabletop", time_limit=1.0), ["pick"], range(1))
    assert results[0].seconds >= 1.0
    assert len(policy.reasoning._history) == 3


def test_it_starts_from_the_backbone_of_another_policy(config, contract, checkpoint):
    trainer = Trainer(config, contract, None)
    stored = read_weights(open_checkpoint(checkpoint))
    found = {
        name.removeprefix("backbone."): value
        for name, value in trainer.plain_model.state_dict().items()
        if name.startswith("backbone.") and not name.endswith("lm_head.weight")
    }
    assert found
    for name, value in found.items():
        assert torch.equal(value, stored[f"reasoning.backbone.{name}"].float()), name


def test_windows_reach_the_batch_in_the_order_of_time(config, contract, dataset):
    maker = BatchMaker(
        open_data(config, contract).robot,
        None,
        load_tokenizer(config.backbone_source),
        read_robots(config.backbone_source),
        model_config(config, None),
        config,
    )
    (dataset,) = maker.robot.datasets
    frames = dataset.dataset
    ends = frames.episode_ends
    index = int(ends[0]) - 1
    sample = maker._sample(dataset, 0, index, np.random.default_rng(0))
    assert len(sample.past) == 2
    for before, past in zip((2, 1), sample.past, strict=True):
        np.testing.assert_array_equal(past.state, frames.states()[index - before])
    assert maker._sample(dataset, 0, int(ends[0]), np.random.default_rng(0)).past == ()
    batch = maker.robot_batch(np.random.default_rng(0))
    frames, counts = batch.frames, batch.frames.slots.sum(1)
    assert frames.slots.shape == (4, 3) and counts.max() > 1
    assert len(frames.actions) == len(frames.steps) == len(frames.state) == counts.sum()


@pytest.mark.parametrize(
    ("trains", "frozen"),
    [
        (TrainedParts(), set()),
        (TrainedParts(vision=False), {"vision_tower"}),
        (TrainedParts(connector=False), {"multi_modal_projector"}),
        (TrainedParts(language=False), {"layers", "norm"}),
        (TrainedParts(embeddings=False), {"embed_tokens"}),
    ],
)
def test_parts_are_trained_by_name(config, contract, trains, frozen):
    config = replace(config, trains=trains)
    model = Trainer(config, contract, None).plain_model
    parts = ("vision_tower", "multi_modal_projector", "layers", "norm", "embed_tokens")
    found = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert name.startswith("backbone."), name
            found.add(next(part for part in parts if f".{part}." in name))
    assert found == frozen


def test_shards_without_times_are_refused(config, contract, dataset, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "old")
    for file in copy.rglob("time.npy"):
        file.unlink()
    config = replace(config, robot=(RobotData(str(copy)),))
    with pytest.raises(DatasetError, match=r"when its frames were taken.*make the data again"):
        train(config, contract, open_data(config, contract), until=1)


def test_entries_that_do_not_go_together_are_refused_before_training(config, contract):
    with pytest.raises(CheckpointError, match="discrete actions go with"):
        Trainer(replace(config, model={"structure": {"actions": "discrete"}}), contract, None)
    with pytest.raises(CheckpointError, match="model: structure: unknown entries: windows"):
        Trainer(replace(config, model={"structure": {"windows": 3}}), contract, None)


def test_a_checkpoint_knows_whether_it_has_learned_from_conversations(config):
    talk = replace(config, conversations=(ConversationData("talk"),), conversation_batch_size=2)
    assert model_config(talk, None).answers and not model_config(config, None).answers
