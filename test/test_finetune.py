"""Few-shot fine-tuning: what is held out, what is kept, resuming, and what stays as it was."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vla.datasets.frames import DatasetError
from vla.envs.tabletop.samples import SimulatedDemonstrations
from vla.policies.adapters import open_adapter
from vla.policies.augment import Augmentation
from vla.policies.checkpoint import open_checkpoint
from vla.policies.config import AdapterConfig, CheckpointError
from vla.policies.instructvla.inference import ActionModel, Reasoner
from vla.policies.robots import NORM_STATS, Robot
from vla.training import finetune as module
from vla.training.batches import Mixture, StepDataset
from vla.training.config import TrainConfig
from vla.training.finetune import (
    JUDGED_BY,
    FinetuneConfig,
    few_shot_data,
    finetune,
    read_finetune_config,
    replay_data,
    steps_for,
)
from vla_cli.parser import main

pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype")


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C as in a process of its own, whatever runs the tests."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def config(tmp_path, checkpoint) -> FinetuneConfig:
    run = TrainConfig(
        stage="adapt",
        preset="test",
        adapter=AdapterConfig(rank=2, alpha=4.0),
        initialize_from=str(checkpoint),
        output=str(tmp_path / "run"),
        steps=12,
        batch_size=6,
        augmentation=Augmentation(crop_area=1.0, state_noise=0.01),
        learning_rate=3e-3,
        ema_decay=0.9,
        validate_every=4,
        validation_batches=2,
        log_every=1,
    )
    return FinetuneConfig(held_out_share=0.25, train=run)


@pytest.fixture
def new(shards, contract):
    return [SimulatedDemonstrations(shards, contract, {})]


@pytest.fixture
def replay(shards, contract):
    return replay_data([SimulatedDemonstrations(shards[:1], contract, {})], [1.0], [0.0], [], [])


def test_episode_ends_are_those_of_the_shards(shards, new):
    ends = new[0].episode_ends
    lengths = [int((shard.episode == e).sum()) for shard in shards for e in set(shard.episode)]
    assert ends.tolist() == np.cumsum(lengths).tolist()
    assert ends[-1] == len(new[0])


def test_whole_episodes_are_held_out_and_replay_has_its_share(config, new, replay):
    data, counts = few_shot_data(new, replay, replace(config, replay_share=0.4))
    ends = new[0].episode_ends
    assert counts["held_out_episodes"] == 1
    assert counts["episodes"] == len(ends) - 1
    (held,) = data.held_out_robot.datasets
    assert (held.start, held.stop) == (ends[-2], ends[-1])
    assert data.robot.datasets[0].stop == ends[-2]
    drawn = [d for d, _ in data.robot.draw(4000, np.random.default_rng(0))]
    assert np.mean([d > 0 for d in drawn]) == pytest.approx(0.4, abs=0.03)
    assert data.held_out_replay is replay.held_out_robot


def test_one_episode_is_too_few(config, replay, new):
    class One:
        episode_ends = np.array([7])

    with pytest.raises(DatasetError, match="give two or more"):
        few_shot_data([One()], replay, config)


def test_more_demonstrations_are_given_more_steps():
    steps = [steps_for(count) for count in (2, 10, 20, 50, 1000)]
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[2] < steps[3] <= steps[4] <= 3000


@pytest.mark.slow
def test_an_adapter_learns_and_the_base_stays_as_it_is(
    config, contract, new, replay, checkpoint, tmp_path
):
    before = {p.name: p.read_bytes() for p in checkpoint.iterdir() if p.is_file()}
    losses = []
    report = finetune(config, contract, new, replay, on_step=lambda _, f: losses.append(f))
    assert {p.name: p.read_bytes() for p in checkpoint.iterdir() if p.is_file()} == before
    output = Path(config.train.output)
    assert report["after"][JUDGED_BY] < report["before"][JUDGED_BY]
    assert any(name.startswith("replay/") for name in report["after"])
    assert report == json.loads((output / "finetune.json").read_text())
    # The base's statistics are kept, not measured on the new data.
    assert json.loads((output / NORM_STATS).read_text()) == json.loads(
        (checkpoint / NORM_STATS).read_text()
    )
    adapter = open_adapter(output / "adapter")
    assert adapter.about["step"] == report["best_step"]
    assert f"`{adapter.base_id}`" in (output / "adapter" / "README.md").read_text()
    for half in (Reasoner, ActionModel):
        loaded = half.from_pretrained(checkpoint, adapter=output / "adapter")
        assert loaded.checkpoint_id == f"{adapter.base_id}+{adapter.adapter_id}"


def test_training_lets_states_through_as_the_loaded_adapter_does(config, contract, new, checkpoint):
    base = open_checkpoint(checkpoint)
    largest = {}
    for limit in (1.0, 2.0):
        run = replace(config.train, adapter=AdapterConfig(rank=2, state_limit=limit))
        data = Mixture(new, [1.0])
        robots = [Robot(base.contract, {**base.stats, "state": narrow(base.stats["state"])})]
        batches = StepDataset(data, None, base.tokenizer, robots, base.config, run)
        largest[limit] = float(batches[0]["robot"].acting.state.abs().max())
    assert largest[1.0] < 1.1
    assert 1.5 < largest[2.0] < 2.1


def narrow(stats):
    """The same statistics with bounds a fifth as wide, which the data leaves."""
    return replace(stats, q01=stats.q01 / 5, q99=stats.q99 / 5)


@pytest.mark.slow
def test_only_the_best_candidate_is_kept(config, contract, new, replay):
    report = finetune(config, contract, new, replay)
    history = json.loads((Path(config.train.output) / "validations.json").read_text())
    assert [entry["step"] for entry in history] == [0, 4, 8, 12]
    best = min(history, key=lambda entry: entry[JUDGED_BY])
    assert report["best_step"] == best["step"]


@pytest.mark.slow
def test_training_ends_when_held_out_episodes_get_no_better(config, contract, new, replay):
    # So high a rate spoils the model from the first step on.
    run = replace(config.train, learning_rate=1.0, steps=400, validate_every=2)
    config = replace(config, train=run, patience=2)
    try:
        steps = finetune(config, contract, new, replay)["steps"]
    except CheckpointError as error:
        assert "no adapter was better" in str(error)
        history = json.loads((Path(run.output) / "validations.json").read_text())
        steps = history[-1]["step"]
    assert steps < 100


@pytest.mark.slow
def test_a_run_goes_on_exactly_where_it_was_interrupted(config, contract, new, replay, tmp_path):
    whole = finetune(config, contract, new, replay)
    parts = replace(config, train=replace(config.train, output=str(tmp_path / "parts")))

    def interrupt(step, _):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        finetune(parts, contract, new, replay, on_step=interrupt)
    resumed = finetune(parts, contract, new, replay)
    assert {**whole, "seconds": 0} == {**resumed, "seconds": 0}
    first = load_file(Path(config.train.output) / "adapter" / "adapter.safetensors")
    second = load_file(Path(parts.train.output) / "adapter" / "adapter.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_run_that_dies_between_validation_and_save_finds_the_same_again(
    config, contract, new, replay, tmp_path, monkeypatch
):
    whole = finetune(config, contract, new, replay)
    parts = replace(config, train=replace(config.train, output=str(tmp_path / "parts")))
    real = module._Best.__call__

    class Killed(BaseException):
        pass

    def killed(self, trainer, figures):
        result = real(self, trainer, figures)
        if trainer.step == 8:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module._Best, "__call__", killed)
        with pytest.raises(Killed):
            finetune(parts, contract, new, replay)
    resumed = finetune(parts, contract, new, replay)
    assert {**whole, "seconds": 0} == {**resumed, "seconds": 0}


def test_the_shipped_recipe_is_read_and_bad_entries_are_named(tmp_path):
    config = read_finetune_config("config/training/finetune.yaml")
    assert config.train.stage == "adapt"
    assert config.train.steps == 0
    (tmp_path / "bad.yaml").write_text("replay: 0.5\n")
    with pytest.raises(CheckpointError, match="unknown entries: replay"):
        read_finetune_config(tmp_path / "bad.yaml")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_finetune_config(tmp_path / "none.yaml")


def test_the_command_names_what_is_no_data(tmp_path, capsys, checkpoint):
    arguments = ["finetune", "--checkpoint", str(checkpoint), "--no-replay", "--data"]
    assert main([*arguments, str(tmp_path)]) == 2
    assert "neither a LeRobot data set nor bags" in capsys.readouterr().err


def test_the_command_looks_at_its_data_before_it_makes_any(tmp_path, capsys, checkpoint):
    replay = tmp_path / "replay"
    (tmp_path / "recipe.yaml").write_text(
        f"train: {{preset: test, robot: [{{path: {replay}, annotations: truth}}]}}\n"
    )
    arguments = ["finetune", "--checkpoint", str(checkpoint), "--data", str(tmp_path / "none")]
    arguments += ["--config", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "run")]
    assert main(arguments) == 2
    assert "neither a LeRobot data set nor bags" in capsys.readouterr().err
    assert main([*arguments, "--steps", "-5"]) == 2
    assert "steps must be a whole number" in capsys.readouterr().err
    assert not replay.exists()


@pytest.mark.slow
def test_the_command_trains_on_shards(tmp_path, capsys, checkpoint, dataset):
    (tmp_path / "recipe.yaml").write_text(
        "held_out_share: 0.25\n"
        "train: {preset: test, batch_size: 4, validate_every: 2, validation_batches: 1,"
        " learning_rate: 0.003, adapter: {rank: 2, alpha: 4}}\n"
    )
    output = tmp_path / "run"
    assert main(
        ["finetune", "--checkpoint", str(checkpoint), "--data", str(dataset), "--steps", "6",
         "--config", str(tmp_path / "recipe.yaml"), "--output", str(output)]
    ) == 0  # fmt: skip
    assert "load it with: vla adapter load" in capsys.readouterr().out
    assert open_adapter(output / "adapter").config.rank == 2


def test_a_policy_without_adapters_is_refused_before_data_is_made(tmp_path, capsys, dataset):
    path, replay = tmp_path / "recipe.yaml", tmp_path / "replay"
    path.write_text(f"train: {{robot: [{{path: {replay}, kind: simulated}}]}}\n")
    assert main(
        ["finetune", "--checkpoint", "checkpoints/nano_policy_head", "--data", str(dataset),
         "--config", str(path), "--output", str(tmp_path / "run")]
    ) == 2  # fmt: skip
    assert "takes no adapter: train it instead" in capsys.readouterr().err
    assert not replay.exists()


def test_train_sends_the_stage_to_finetune(tmp_path, capsys, checkpoint, dataset):
    path = tmp_path / "adapt.yaml"
    path.write_text(
        f"stage: adapt\ninitialize_from: {checkpoint}\nrobot: [{{path: {dataset}}}]\n"
        f"output: {tmp_path / 'run'}\n"
    )
    assert main(["train", "--config", str(path)]) == 2
    assert "vla finetune" in capsys.readouterr().err
