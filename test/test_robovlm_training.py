"""RoboVLMs learn from windows of frames, and train what is asked for."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_robovlm import PLAIN, observation

from vla.datasets.frames import DatasetError
from vla.datasets.sample import RobotSample
from vla.datasets.sources import ConversationData, RobotData
from vla.envs.registry import make_suite
from vla.evaluation.benchmark import evaluate
from vla.policies.checkpoint import open_checkpoint, read_weights
from vla.policies.collation import CollationOptions
from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.policy import Policy
from vla.policies.robots import read_robots
from vla.policies.robovlms.collation import RoboVLMCollator
from vla.policies.tokenizer import load_tokenizer
from vla.training.batches import StepDataset
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


@pytest.mark.slow
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
    # Those of three slots, and at most one more that a later window may reach.
    assert 3 <= len(policy.reasoning._history) <= 4


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
    maker = StepDataset(
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


def moved(config: TrainConfig, contract) -> tuple[set[str], set[str]]:
    """The names of all parameters, and of those that two steps change."""
    source = config.backbone_source
    model = config.model | {"pointing": {"width": 0}}
    config = replace(config, model=model, backbone="", backbone_source="")
    trainer, options = Trainer(config, contract, None), CollationOptions(augmentation=PLAIN)
    collator = RoboVLMCollator(model_config(config, None), load_tokenizer(source), options)
    chunk = np.full((contract.horizon, len(contract.action_names)), 0.01, np.float32)
    frames = [observation(seed) for seed in range(3)]
    samples = [RobotSample(f.images, f.state, chunk, "pick the red block") for f in frames]
    newest = replace(samples[-1], past=tuple(samples[:-1]))
    batch = collator.robot_batch([newest], [read_robots(source)[0].stats], np.random.default_rng(0))
    own = dict(trainer.plain_model.named_parameters())
    before = {name: value.detach().clone() for name, value in own.items()}
    for _ in range(2):  # LoRA's first matrices have no gradient at first
        trainer.train_step({"robot": batch})
    return set(own), {name for name, value in own.items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("trains", "frozen"),
    [
        ({}, r"(?!)"),
        ({"vision": False}, r"\.vision_tower\."),
        ({"connector": False}, r"\.multi_modal_projector\."),
        ({"language": False}, r"\.language_model\.(layers|norm)\."),
        ({"embeddings": False}, r"\.embed_tokens\."),
        ({"resampler": False}, r"^vision_resampler\."),
        ({"last_layers": 1}, r"\.language_model\.layers\.[012]\."),
        (
            dict.fromkeys(("vision", "connector", "language", "embeddings"), False),
            r"^backbone\.",
        ),
    ],
)
def test_a_step_moves_what_is_trained_and_nothing_else(config, contract, trains, frozen):
    model = config.model | {"resampler": {"tokens": 4, "depth": 1, "heads": 1, "head_width": 8}}
    config = replace(config, model=model, trains=TrainedParts(**trains))
    every, found = moved(config, contract)
    assert found == {name for name in every if not re.search(frozen, name)}


def test_lora_is_put_on_all_linear_layers_of_the_language_model(config, contract):
    lora = LoraConfig(("policy",), rank=64, alpha=16.0, dropout=0.05, targets=("all",))
    parts = TrainedParts(vision=False, connector=False, language=False, embeddings=False)
    every, found = moved(replace(config, lora=lora, trains=parts), contract)
    assert found == {name for name in every if ".lora_" in name or "backbone" not in name}
    assert sum(".lora_" in name for name in found) == 2 * 7 * 4  # of four layers


def test_a_backbone_can_go_without_its_pretraining(config, contract, checkpoint):
    torch.manual_seed(0)
    config = replace(config, pretrained=False)
    backbone = Trainer(config, contract, None).plain_model.backbone
    stored = read_weights(open_checkpoint(checkpoint))
    linear = 0
    for name, part in backbone.model.named_modules():
        if isinstance(part, torch.nn.Linear):
            known = stored.get(f"reasoning.backbone.model.{name}.weight")
            assert known is None or not torch.equal(part.weight, known.float())
            rows, columns = part.weight.shape
            assert part.weight.abs().max() <= (6 / (rows + columns)) ** 0.5
            assert part.weight.std().item() == pytest.approx((2 / (rows + columns)) ** 0.5, rel=0.1)
            assert part.bias is None or not part.bias.any()
            linear += known is not None
    assert linear > 10


def test_shards_without_times_are_refused(config, contract, dataset, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "old")
    for file in copy.rglob("time.npy"):
        file.unlink()
    config = replace(config, robot=(RobotData(str(copy)),))
    with pytest.raises(DatasetError, match=r"when its frames were taken.*make the data again"):
        train(config, contract, open_data(config, contract), until=1)


@pytest.mark.parametrize(
    ("step", "says"),
    [(0.01, r"robot data 1: its frames are .* s apart"), (900.0, "seen 900 s before; set")],
)
def test_a_history_step_that_the_data_can_not_give_is_refused(config, contract, step, says):
    model = config.model | {"structure": {"window": 3, "history_step": step}}
    config = replace(config, model=model)
    with pytest.raises(DatasetError, match=says):
        train(config, contract, open_data(config, contract), until=1)


def test_entries_that_do_not_go_together_are_refused_before_training(config, contract):
    with pytest.raises(CheckpointError, match="discrete actions go with"):
        Trainer(replace(config, model={"structure": {"actions": "discrete"}}), contract, None)
    with pytest.raises(CheckpointError, match="model: structure: unknown entries: windows"):
        Trainer(replace(config, model={"structure": {"windows": 3}}), contract, None)


def test_a_checkpoint_knows_whether_it_has_learned_from_conversations(config):
    talk = replace(config, conversations=(ConversationData("talk"),), conversation_batch_size=2)
    assert model_config(talk, None).answers and not model_config(config, None).answers
