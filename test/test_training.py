"""Training: stages, batches by step, exact resume, what is exported."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot_files import write_v3
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_backbones import save_released

from vla.contract.embodiment import load_contract
from vla.contract.normalization import read_norm_stats
from vla.core.resources import contract_path
from vla.datasets.sample import Conversation
from vla.envs.tabletop.samples import SimulatedDemonstrations
from vla.policies.backbones import build_backbone
from vla.policies.backbones.pretrained import load_pretrained
from vla.policies.checkpoint import build_model, open_checkpoint, read_weights
from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.instructvla.inference import ActionModel, Reasoner
from vla.policies.instructvla.presets import PRESETS
from vla.policies.instructvla.start import start_from
from vla.policies.registry import preset
from vla.policies.robots import Robot
from vla.policies.sequence import IGNORE
from vla.policies.tokenizer import load_tokenizer
from vla.training.batches import Mixture, StepDataset
from vla.training.config import (
    Augmentation,
    PromptSampling,
    RobotData,
    TrainConfig,
)
from vla.training.data import RobotSlice, TrainingData, measure_statistics, split
from vla.training.loop import Trainer, learning_rate, open_start, train
from vla.training.sources import open_data
from vla.training.start import random_weights

LORA = LoraConfig(("action",), rank=4, alpha=8.0)
BOTH = LoraConfig(("language", "action"), rank=4, alpha=8.0, gate="layer", head_width=8)


class Talks:
    """Conversations about nothing much, one of them without an image."""

    def __len__(self) -> int:
        return 12

    def sample(self, index: int, generator: np.random.Generator) -> Conversation:
        image = np.full((48, 60, 3), 20 * index, np.uint8)
        turns = (("how bright is it ?", f"{index} ."), ("and now ?", "the same ."))
        return Conversation((image,) if index else (), turns, source=f"talk {index}")


@pytest.fixture
def config(tmp_path, dataset) -> TrainConfig:
    return TrainConfig(
        preset="test",
        lora=LORA,
        robot=(RobotData(str(dataset)),),
        output=str(tmp_path / "run"),
        steps=4,
        batch_size=6,
        augmentation=Augmentation(crop_area=1.0, shift=2, state_noise=0.02),
        learning_rate=1e-3,
        ema_decay=0.99,
        save_every=100,
        log_every=1,
    )


@pytest.fixture
def data(shards, contract) -> TrainingData:
    robot = SimulatedDemonstrations(shards, contract, {})
    return TrainingData(Mixture([robot], [1.0]), Mixture([Talks()], [1.0]))


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C as in a process of its own, whatever runs the tests."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def state_of(config) -> dict[str, torch.Tensor]:
    """Every number of a saved state by name: weights, averages, optimiser."""
    (folder,) = Path(config.output).glob("training_state-*")
    optimizer = torch.load(folder / "optimizer.bin", weights_only=True)
    found = dict(enumerate(torch.load(folder / "average-0.pt", weights_only=True)))
    for index, entries in optimizer["state"].items():
        found |= {f"{index}.{name}": torch.as_tensor(value) for name, value in entries.items()}
    found["step"] = torch.tensor(int(folder.name.split("-")[1]))
    return found | read_weights(open_checkpoint(Path(config.output) / "checkpoint"))


# Resuming


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["action", "instruct"])
def test_a_run_goes_on_exactly_where_it_was_interrupted(
    config, contract, data, tmp_path, stage, checkpoint
):
    """20 steps are 10, an interruption, and 10 more: bit for bit, dropout and noise included."""
    config = replace(config, stage=stage, steps=20, conversation_batch_size=3)
    if stage == "instruct":
        config = replace(config, lora=BOTH, initialize_from=str(checkpoint))
    losses = {}

    def note(step, figures):
        losses.setdefault(step, []).append(figures)

    def interrupt(step, figures):
        note(step, figures)
        if step == 10:
            os.kill(os.getpid(), signal.SIGINT)

    train(config, contract, data, on_step=note)
    parts = replace(config, output=str(tmp_path / "parts"))
    with pytest.raises(KeyboardInterrupt):
        train(parts, contract, data, on_step=interrupt)
    assert state_of(parts)["step"] == 10
    train(parts, contract, data, on_step=note)
    assert {step: len(values) for step, values in losses.items()} == dict.fromkeys(range(1, 21), 2)
    assert all(first == second for first, second in losses.values())
    whole, resumed = state_of(config), state_of(parts)
    assert whole.keys() == resumed.keys() and len(whole) > 100
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.slow
def test_an_interrupt_in_the_middle_of_a_step_waits_for_its_end(
    config, contract, data, monkeypatch
):
    average = torch._foreach_lerp_

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return average(*arguments)

    initial = [value.clone() for value in Trainer(config, contract, open_start(config)).average]
    monkeypatch.setattr("torch._foreach_lerp_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, contract, data)
    state = state_of(config)
    assert state["step"] == 1 and state["0.step"] == 1
    assert any(not torch.equal(value, state[i]) for i, value in enumerate(initial)), "averaged, too"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_a_state_that_is_cut_off_leaves_the_one_before(config, contract, data, monkeypatch):
    train(replace(config, steps=2), contract, data)
    monkeypatch.setattr("os.rename", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        train(config, contract, data)
    monkeypatch.undo()
    assert state_of(config)["step"] == 2
    train(config, contract, data)
    assert state_of(config)["step"] == 4


@pytest.mark.slow
def test_a_run_of_another_model_is_refused(config, contract, data):
    train(replace(config, steps=1), contract, data)
    with pytest.raises(CheckpointError, match="or of another model than this configuration's"):
        train(replace(config, lora=replace(LORA, rank=2)), contract, data)
    with pytest.raises(CheckpointError, match="was saved with averaged weights; give another"):
        train(replace(config, ema_decay=0.0), contract, data)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run(config, contract, data, shards):
    class Broken(SimulatedDemonstrations):
        def sample(self, index, generator, images=True):
            sample = super().sample(index, generator, images)
            return replace(sample, state=np.full_like(sample.state, np.nan))

    broken = Broken(shards, contract, {})
    broken.states = data.robot.datasets[0].states
    with pytest.raises(CheckpointError, match="step 1: a loss is not finite"):
        train(config, contract, TrainingData(Mixture([broken], [1.0])))


# Stages


def changed_names(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("stage", ["pretrain", "action", "instruct"])
def test_each_stage_moves_what_it_trains_and_nothing_else(
    config, contract, data, checkpoint, stage
):
    lora = {"pretrain": LoraConfig(), "action": LORA, "instruct": BOTH}[stage]
    config = replace(
        config, stage=stage, lora=lora, initialize_from=str(checkpoint), ema_decay=0.0,
        conversation_batch_size=4, batch_size=0 if stage == "pretrain" else 6,
    )  # fmt: skip
    trainer = Trainer(config, contract, open_start(config))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    robots = [Robot(contract, measure_statistics(data.robot, contract))]
    batches = StepDataset(
        data.robot, data.conversations, load_tokenizer(checkpoint), robots,
        trainer.plain_model.config, config,
    )  # fmt: skip
    for step in range(3):
        trainer.train_step(batches[step])
    moved = changed_names(before, dict(trainer.model.named_parameters()))
    trained = trainer.objective.trained(trainer.kind, trainer.plain_model)
    assert moved <= trained
    parts = {
        "pretrain": ["vision_tower", "language_model"],
        "action": ["expert.head", "expert.vision", "lora_a", "lora_b", "query_embedding"],
        "instruct": ["lora_a", "lora_b", "scale_head", "query_embedding", "query_output"],
    }
    for part in parts[stage]:
        assert any(part in name for name in moved), part
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    frozen = [p for name, p in trainer.model.named_parameters() if name not in trained]
    assert not held & {id(p) for p in frozen}, "what is frozen has no optimiser state"


def test_gradients_flow_through_the_frozen_expert(config, contract, data, checkpoint):
    """Without conversations and text, what moves the adapters is the flow loss alone."""
    config = replace(
        config, stage="instruct", lora=BOTH, initialize_from=str(checkpoint), text_weight=0.0
    )
    trainer = Trainer(config, contract, open_start(config))
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    robots = [Robot(contract, measure_statistics(data.robot, contract))]
    model = trainer.plain_model.config
    batches = StepDataset(data.robot, None, load_tokenizer(checkpoint), robots, model, config)
    for step in range(2):
        trainer.train_step(batches[step])
    moved = changed_names(before, dict(trainer.model.named_parameters()))
    assert any("lora_a" in name for name in moved) and any("scale_head" in n for n in moved)
    assert not any(name.startswith("expert.") for name in moved)


def test_experts_go_where_their_names_are(config, contract, data, checkpoint):
    config = replace(config, initialize_from=str(checkpoint), steps=3, ema_decay=0.0)
    source = open_checkpoint(train(config, contract, data))
    weights = read_weights(source)
    target = build_model(replace(source.config, lora=BOTH), contract)
    loaded = start_from(target, source)
    missing = random_weights(target, [loaded])
    assert missing and all("scale_head" in name for name in missing)
    assert not (loaded.left_over or loaded.unread)
    state = target.state_dict()
    names = [name for name in weights if name.endswith("lora_b")]
    assert names and any(weights[name].abs().sum() > 0 for name in names)
    for name in names:
        torch.testing.assert_close(state[name][1], weights[name][0].float())
        assert (state[name][0] == 0).all(), "the new language expert changes nothing yet"
    with pytest.raises(CheckpointError, match=r"LoRA experts action, which lora\.experts does not"):
        start_from(build_model(replace(source.config, lora=LoraConfig()), contract), source)
    with pytest.raises(CheckpointError, match="adapter rank must be the same"):
        wide = replace(source.config, lora=replace(LORA, rank=8))
        start_from(build_model(wide, contract), source)


def require_same_figures(config, contract, data, entry, rel):
    """Trains without and with an entry of the configuration, which changes no step's figures."""
    figures = []
    for given in (False, True):
        run = replace(config, output=f"{config.output}-{given}", **{entry: given})
        train(run, contract, data, on_step=lambda _, f: figures.append(f))
    for without, with_it in zip(figures[: config.steps], figures[config.steps :], strict=True):
        assert without == pytest.approx(with_it, rel=rel)


def test_checkpointing_activations_changes_no_figure(config, contract, data, checkpoint):
    config = replace(config, stage="instruct", lora=BOTH, initialize_from=str(checkpoint), steps=2)
    require_same_figures(config, contract, data, "checkpoint_activations", 1e-4)


@pytest.mark.slow
def test_compiling_layers_changes_no_figure(config, contract, data, checkpoint):
    plain = replace(BOTH, dropout=0.0, head_dropout=0.0)
    config = replace(config, stage="instruct", lora=plain, initialize_from=str(checkpoint), steps=3)
    require_same_figures(config, contract, data, "compile_layers", 1e-3)
    weights = [read_weights(open_checkpoint(Path(f"{config.output}-{c}") / "checkpoint"))
               for c in (False, True)]  # fmt: skip
    assert weights[0].keys() == weights[1].keys()


# Learning


@pytest.mark.slow
def test_training_learns_and_exports_a_policy(config, contract, data, shards):
    config = replace(
        config, steps=150, batch_size=24, learning_rate=3e-3, schedule="cosine", warmup_steps=5,
        prompts=PromptSampling(think=0.5), flow_samples=2,
    )  # fmt: skip
    losses = []
    folder = train(
        config,
        contract,
        data,
        on_step=lambda _, f: losses.append((f["robot/flow"], f["robot/text"])),
    )
    first, last = np.mean(losses[:8], axis=0), np.mean(losses[-8:], axis=0)
    assert (last < 0.9 * first).all(), (first, last)
    opened = open_checkpoint(folder)
    assert opened.contract == contract
    names = {"state": contract.state_names, "action": contract.action_names}
    measured = measure_statistics(data.robot, contract)
    for kind, stats in read_norm_stats(folder / "norm_stats.json", names).items():
        np.testing.assert_allclose(stats.q99, measured[kind].q99)
    images = {name: pictures[0] for name, pictures in shards[0].images.items()}
    latent = Reasoner.from_pretrained(folder).latent_action(images, "pick the red block")
    chunk = ActionModel.from_pretrained(folder).action_chunk(images, shards[0].state[0], latent)
    assert np.isfinite(chunk).all()
    assert any(path.name.startswith("events") for path in folder.parent.rglob("*"))


@pytest.mark.slow
def test_a_pretrained_model_answers_and_does_not_act(config, contract, data, shards):
    config = replace(
        config, stage="pretrain", lora=LoraConfig(), batch_size=0, conversation_batch_size=8
    )
    folder = train(config, contract, data)
    images = {name: pictures[0] for name, pictures in shards[0].images.items()}
    assert isinstance(Reasoner.from_pretrained(folder).ask(images, "how bright is it?"), str)
    with pytest.raises(CheckpointError, match="expert"):
        ActionModel.from_pretrained(folder)


@pytest.mark.slow
def test_what_is_held_out_is_measured_and_not_trained_on(config, contract, data, shards):
    robot = SimulatedDemonstrations(shards, contract, {})
    kept, held = split([robot], [1.0], 0.2, RobotSlice)
    assert len(kept.datasets[0]) + len(held.datasets[0]) == len(robot)
    data = replace(data, robot=kept, held_out_robot=held, held_out_conversations=data.conversations)
    figures = {}
    config = replace(config, validate_every=2, validation_batches=2, conversation_batch_size=2)
    train(config, contract, data, on_step=lambda step, f: figures.setdefault(step, f))
    assert "validation/robot/flow" in figures[2] and "validation/robot/flow" not in figures[1]
    assert 0 <= figures[4]["validation/conversations/text_accuracy"] <= 1
    events = EventAccumulator(str(Path(config.output) / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("validation/robot/flow")] == [2, 4]
    assert split([robot], [1.0], 0.0, RobotSlice)[1] is None


def test_a_run_can_start_from_a_checkpoint(config, contract, data, checkpoint):
    start = replace(config, initialize_from=str(checkpoint), steps=1, learning_rate=0.0)
    folder = train(start, contract, data)
    assert (folder / "tokenizer.json").read_text() == (checkpoint / "tokenizer.json").read_text()
    weights, source = (
        read_weights(open_checkpoint(folder)),
        read_weights(open_checkpoint(checkpoint)),
    )
    for name, value in source.items():
        found = weights.get(name)
        if found is None:
            linear, _, kind = name.rpartition(".")
            found = weights[f"{linear}.base.{kind}"]
        assert torch.equal(found, value), name


def test_learning_rate_rises_then_falls():
    config = TrainConfig(
        learning_rate=1.0, schedule="cosine", warmup_steps=10, steps=110, final_rate_share=0.1
    )
    rates = [learning_rate(step, config) for step in range(140)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1) and rates[139] == pytest.approx(0.1)
    assert (np.diff(rates[:10]) > 0).all() and (np.diff(rates[10:111]) < 0).all()
    assert {learning_rate(step, TrainConfig()) for step in (0, 10, 9000)} == {5e-5}


# Batches


@pytest.fixture
def make_batches(config, contract, data, checkpoint):
    robots = [Robot(contract, measure_statistics(data.robot, contract))]
    tokenizer, model = load_tokenizer(checkpoint), preset("test")

    def make(**changes) -> StepDataset:
        changed = replace(config, conversation_batch_size=5, **changes)
        return StepDataset(data.robot, data.conversations, tokenizer, robots, model, changed)

    return make


@pytest.fixture
def batches(make_batches) -> StepDataset:
    return make_batches()


def test_a_batch_depends_on_its_step_and_process_alone(batches, checkpoint):
    first, again, other = batches[3]["robot"], batches[3]["robot"], batches[4]["robot"]
    assert torch.equal(first.vlm_images, again.vlm_images)
    for name in ("expert_images", "state", "actions"):
        assert torch.equal(getattr(first.acting, name), getattr(again.acting, name))
    assert torch.equal(first.text.ids, again.text.ids)
    assert not torch.equal(first.acting.expert_images, other.acting.expert_images)
    robots = [Robot(batches.robot.datasets[0].contract, next(iter(batches.stats.values())))]
    arguments = (
        batches.robot, batches.conversations, load_tokenizer(checkpoint), robots, preset("test"),
    )  # fmt: skip
    for maker in (
        StepDataset(*arguments, replace(batches.config, seed=1)),
        StepDataset(*arguments, batches.config, process=1),
        StepDataset(*arguments, batches.config, validation=True),
    ):
        assert not torch.equal(first.acting.expert_images, maker[3]["robot"].acting.expert_images)


def test_frames_keep_images_state_and_actions_together(make_batches, shards):
    batches = make_batches(augmentation=Augmentation(1.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0))
    for step in range(3):
        batch = batches[step]["robot"]
        assert batch.vlm_images.shape == (6, 3, 96, 96)
        acting = batch.acting
        assert acting.expert_images.shape == (6, 2, 3, 96, 96)
        assert (batch.text.query_start > 0).all()
        assert acting.state.abs().max() <= 1.0 and acting.actions[..., :6].abs().max() <= 1.0
        torch.testing.assert_close(batch.vlm_images, acting.expert_images[:, 0])
        for row in range(6):
            expected = [
                batches.stats["sim_panda"]["action"].normalize(np.asarray(shard.action[index]))
                for shard in shards
                for index in range(len(shard))
                if np.array_equal(
                    shard.images["wrist"][index], acting.expert_images[row, 1].permute(1, 2, 0)
                )
            ]
            assert any(np.allclose(acting.actions[row], chunk) for chunk in expected)


def test_conversations_are_a_batch_of_their_own(batches):
    for step in range(6):
        batch = batches[step]["conversations"]
        assert batch.acting is None and (batch.text.query_start == -1).all()
        images = (batch.text.ids == -1).sum() / preset("test").backbone.image_tokens
        assert len(batch.vlm_images) == images, "rows without an image have none"
        assert (batch.text.labels != IGNORE).sum(dim=1).min() > 4, "both answers are labels"


# Released backbones


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["internvl", "smolvlm"])
def test_a_run_can_start_from_a_released_backbone(config, contract, data, tmp_path, kind):
    source = save_released(tmp_path / "released", kind)
    folder = train(replace(config, backbone=kind, backbone_source=source, steps=2), contract, data)
    opened = open_checkpoint(folder)
    assert opened.config.backbone.kind == kind and not opened.config.backbone.chat.plain_words
    backbone = build_backbone(opened.config.backbone)
    load_pretrained(backbone, source)
    embeddings = backbone.model.get_input_embeddings().weight.detach()
    weights = read_weights(opened)
    (name,) = (n for n in weights if n.endswith("embed_tokens.weight"))
    torch.testing.assert_close(weights[name].float(), embeddings, atol=1e-3, rtol=1e-3)
    queries = weights["reasoning.query_embedding"].float()
    assert queries.std() / embeddings.std() == pytest.approx(1.0, rel=0.3)


@pytest.mark.slow
def test_a_policy_learns_from_lerobot_data(config, tmp_path):
    """The other robot's contract: 224 px, 8 values of state, differences of Euler angles."""
    contract = load_contract(contract_path("widowx_bridge"))
    (tmp_path / "map.yaml").write_text("cameras: {front: camera}")
    entry = RobotData(str(write_v3(tmp_path / "set")), "lerobot", str(tmp_path / "map.yaml"))
    config = replace(config, robot=(entry,), augmentation=Augmentation(), steps=2, batch_size=3)
    config = replace(config, validation_share=0.2, validate_every=2, workers=1)
    monkey = replace(preset("test"), vlm_cameras=("front",), expert_cameras=("front",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "test", monkey)
        figures = []
        data = open_data(config, contract)
        folder = train(config, contract, data, on_step=lambda _, f: figures.append(f))
    assert "validation/robot/flow" in figures[-1]
    sample = data.robot.datasets[0].sample(0, np.random.default_rng(0))
    latent = Reasoner.from_pretrained(folder).latent_action(sample.images, "pick the can")
    model = ActionModel.from_pretrained(folder)
    assert model.action_chunk(sample.images, sample.state, latent).shape == (16, 7)
