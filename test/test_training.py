"""Training: batches by step, learning rate, exact resume, what is exported."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from vla.checkpoint import open_checkpoint
from vla.data.normalization import read_norm_stats
from vla.models.config import CheckpointError
from vla.models.presets import preset
from vla.models.tokenizer import load_tokenizer
from vla.policy import ActionModel, Reasoner
from vla.training.batches import BatchMaker
from vla.training.config import TrainConfig, read_train_config, write_train_config
from vla.training.loop import STATE_FILE, Trainer, learning_rate, measure_statistics, train

ROOT_CONFIG = "config/training/nano.yaml"


@pytest.fixture
def config(tmp_path, dataset) -> TrainConfig:
    return TrainConfig(
        preset="test",
        dataset=str(dataset),
        output=str(tmp_path / "run"),
        steps=4,
        batch_size=6,
        question_rows=2,
        warmup_steps=2,
        save_every=100,
        log_every=1,
    )


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C as in a process of its own, whatever runs the tests."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def state_of(config) -> dict:
    return torch.load(f"{config.output}/{STATE_FILE}", weights_only=True)


def same_state(first, second) -> bool:
    """Whether two (nested) states are equal bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            same_state(value, second[key]) for key, value in first.items()
        )
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same_state, first, second))
    return first == second


def test_a_run_goes_on_exactly_where_it_was_interrupted(config, contract, shards, tmp_path):
    losses = {}

    def note(step, figures):
        losses.setdefault(step, []).append(figures["loss/flow"])

    def interrupt(step, figures):
        note(step, figures)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    train(config, contract, shards, on_step=note)
    parts = replace(config, output=str(tmp_path / "parts"))
    with pytest.raises(KeyboardInterrupt):
        train(parts, contract, shards, on_step=interrupt)
    assert state_of(parts)["step"] == 2
    train(parts, contract, shards, on_step=note)
    assert {step: len(values) for step, values in losses.items()} == {1: 2, 2: 2, 3: 2, 4: 2}
    assert all(first == second for first, second in losses.values())
    whole, resumed = state_of(config), state_of(parts)
    for part in ("step", "model", "average", "optimizer"):
        assert same_state(whole[part], resumed[part]), part


def test_an_interrupt_in_the_middle_of_a_step_waits_for_its_end(
    config, contract, shards, monkeypatch
):
    average = torch._foreach_lerp_

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return average(*arguments)

    trainer = Trainer(config, contract)
    initial = [parameter.clone() for parameter in trainer.model.parameters()]
    monkeypatch.setattr("torch._foreach_lerp_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, contract, shards)
    state = state_of(config)
    assert state["step"] == 1
    assert state["optimizer"]["state"][0]["step"] == 1
    trainer.load(f"{config.output}/{STATE_FILE}")
    moved = [
        not torch.equal(a, b) for a, b in zip(initial, trainer.average.parameters(), strict=True)
    ]
    assert any(moved), "the average has taken the step, too"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_learns_and_exports_a_policy(config, contract, shards):
    config = replace(config, steps=180, batch_size=24, learning_rate=3e-3)
    losses = []
    folder = train(
        config,
        contract,
        shards,
        on_step=lambda _, f: losses.append((f["loss/flow"], f["loss/text"])),
    )
    first, last = np.mean(losses[:8], axis=0), np.mean(losses[-8:], axis=0)
    assert (last < 0.9 * first).all(), (first, last)
    opened = open_checkpoint(folder)
    assert opened.contract == contract
    names = {"state": contract.state_names, "action": contract.action_names}
    measured = measure_statistics(shards, contract)
    for kind, stats in read_norm_stats(folder / "norm_stats.json", names).items():
        np.testing.assert_allclose(stats.q99, measured[kind].q99)
    images = {name: pictures[0] for name, pictures in shards[0].images.items()}
    latent = Reasoner.from_pretrained(folder).latent_action(images, "pick the red block")
    chunk = ActionModel.from_pretrained(folder).action_chunk(images, shards[0].state[0], latent)
    assert np.isfinite(chunk).all()
    assert any(path.name.startswith("events") for path in folder.parent.rglob("*"))


def test_a_run_can_start_from_a_checkpoint(config, contract, shards, checkpoint):
    config = replace(config, initialize_from=str(checkpoint), steps=1, learning_rate=0.0)
    folder = train(config, contract, shards)
    assert (folder / "tokenizer.json").read_text() == (checkpoint / "tokenizer.json").read_text()
    assert open_checkpoint(folder).checkpoint_id == open_checkpoint(checkpoint).checkpoint_id


def test_a_run_of_another_model_is_refused(config, contract, shards):
    train(replace(config, steps=1), contract, shards)
    with pytest.raises(CheckpointError, match="another model than preset 'nano'"):
        Trainer(replace(config, preset="nano"), contract).load(f"{config.output}/{STATE_FILE}")


def test_learning_rate_rises_then_falls():
    config = TrainConfig(learning_rate=1.0, warmup_steps=10, steps=110, final_rate_share=0.1)
    rates = [learning_rate(step, config) for step in range(140)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1) and rates[139] == pytest.approx(0.1)
    assert (np.diff(rates[:10]) > 0).all() and (np.diff(rates[10:111]) < 0).all()


# Batches


@pytest.fixture
def batches(config, contract, shards, checkpoint) -> BatchMaker:
    stats = measure_statistics(shards, contract)
    return BatchMaker(shards, load_tokenizer(checkpoint), stats, preset("test"), config)


def test_a_batch_depends_on_its_step_alone(batches):
    first, again, other = batches.make(3), batches.make(3), batches.make(4)
    for name in ("vlm_images", "expert_images", "state", "actions"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert torch.equal(first.text.ids, again.text.ids)
    assert not torch.equal(first.expert_images, other.expert_images)
    seeded = BatchMaker(
        batches.shards, batches.tokenizer, batches.stats, batches.model,
        replace(batches.config, seed=1),
    )  # fmt: skip
    assert not torch.equal(first.expert_images, seeded.make(3).expert_images)


def test_rows_that_act_come_first_and_belong_together(batches, config):
    plain = replace(config, shift=0, brightness=0.0, state_noise=0.0)
    batches.config = plain
    acting = plain.batch_size - plain.question_rows
    frames = 0
    for step in range(5):
        batch = batches.make(step)
        assert batch.vlm_images.shape == (6, 1, 3, 96, 96)
        assert batch.expert_images.shape == (acting, 2, 3, 96, 96)
        assert (batch.text.query_start[:acting] > 0).all()
        assert (batch.text.query_start[acting:] == -1).all()
        assert batch.state.abs().max() <= 1.0 and batch.actions[..., :6].abs().max() <= 1.0
        torch.testing.assert_close(batch.vlm_images[:acting, 0], batch.expert_images[:, 0])
        for row in range(acting):
            found = [
                (shard, index)
                for shard in batches.shards
                for index in range(len(shard))
                if np.array_equal(
                    shard.images["wrist"][index], batch.expert_images[row, 1].permute(1, 2, 0)
                )
            ]
            expected = [
                batches.stats["action"].normalize(np.asarray(shard.action[index]))
                for shard, index in found
            ]
            assert any(np.allclose(batch.actions[row], chunk) for chunk in expected)
            frames += 1
    assert frames == 5 * acting


def test_augmentation_shifts_and_lightens_a_little(batches):
    images = np.zeros((8, 96, 96, 3), np.uint8)
    images[:, 40:56, 40:56] = 100
    changed, shifts = batches._augment(images.copy(), np.random.default_rng(0))
    places = set()
    for image, shift in zip(changed, shifts, strict=True):
        rows, columns, _ = np.nonzero(image)
        assert abs(rows.mean() - 47.5) <= 2 and abs(columns.mean() - 47.5) <= 2
        assert (columns.mean() - 47.5, rows.mean() - 47.5) == tuple(shift)
        assert 80 <= image.max() <= 120
        places.add((rows.mean(), columns.mean(), image.max()))
    assert len(places) > 4


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
        ("setps: 3", "unknown setps; known: .*steps"),
        ("steps: many", "steps must be a whole number, got 'many'"),
        ("steps: 2.5", "steps must be a whole number, got 2.5"),
        ("preset: 3", "preset must be text, got 3"),
        ("learning_rate: [1]", "learning_rate must be a number"),
        ("demonstrations: {episode: 3}", "demonstrations: unknown episode"),
        ("steps: [", "not valid YAML"),
        ("just words", "expected a mapping"),
    ],
)
def test_wrong_configurations_are_named(tmp_path, text, says):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=says):
        read_train_config(path)
    with pytest.raises(CheckpointError, match="cannot read training config"):
        read_train_config(tmp_path / "none.yaml")
