"""RoboVLMs: structures on every backbone, heads, and a history that streams as it was trained."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import save_tiny_checkpoint

from vla.datasets.frames import DatasetError
from vla.datasets.sample import Conversation, RobotSample
from vla.datasets.sources import RobotData
from vla.datasets.windows import Timeline, ends_of_words, window_indices, window_slots
from vla.envs.registry import make_suite
from vla.evaluation.benchmark import evaluate
from vla.policies.augment import Augmentation
from vla.policies.backbones import KINDS
from vla.policies.base import Observation
from vla.policies.checkpoint import open_checkpoint, read_weights
from vla.policies.collation import CollationOptions
from vla.policies.config import ChatFormat, CheckpointError
from vla.policies.heads.action_tokens import ActionTokens
from vla.policies.heads.outputs import mean_of_valid
from vla.policies.parts import ReasoningPart
from vla.policies.policy import Policy
from vla.policies.registry import policy_type
from vla.policies.robots import read_robots
from vla.policies.robovlms.build import build_model
from vla.policies.robovlms.collation import RoboVLMCollator
from vla.policies.robovlms.config import (
    HeadConfig,
    ResamplerConfig,
    RoboVLMConfig,
    StructureConfig,
    require_structure,
)
from vla.policies.robovlms.resampler import Resampler
from vla.policies.robovlms.sequence import LEARNED, rows_of_frames
from vla.policies.sequence import IMAGE
from vla.policies.tokenizer import load_tokenizer
from vla.training.batches import BatchMaker
from vla.training.config import TrainConfig, TrainedParts
from vla.training.config_check import check_train_config
from vla.training.loop import Trainer, model_config, train
from vla.training.sources import open_data

STEP = 0.3
STRUCTURES = {
    "one_step": StructureConfig("one_step", window=1, history_step=STEP),
    "discrete": StructureConfig("one_step", "discrete", window=1, history_step=STEP),
    "interleaved": StructureConfig("interleaved", window=3, history_step=STEP),
    "policy_head": StructureConfig("policy_head", window=3, history_step=STEP),
}
PLAIN = Augmentation(1.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)


def tiny(layout: str, kind: str = "internvl", output: str = "regression", **changes):
    """A configuration on the tiny backbone of a kind."""
    trunk = changes.pop("trunk", "lstm" if layout == "policy_head" else "fc")
    backbone = replace(KINDS[kind].tiny(), chat=ChatFormat())
    head = HeadConfig(
        trunk, output, 16, 2, 2, 0.0, (16,), denoiser_width=16, denoiser_layers=1, denoiser_heads=2
    )
    config = RoboVLMConfig(
        preset="tiny", backbone=backbone, structure=STRUCTURES[layout], head=head
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def part_of(tmp_path_factory):
    """Opens a policy of a configuration, made once."""
    parts = {}

    def make(config: RoboVLMConfig):
        key = repr(config)
        if key not in parts:
            folder = tmp_path_factory.mktemp("robovlm") / "tiny"
            parts[key] = ReasoningPart.from_pretrained(save_tiny_checkpoint(folder, config=config))
            randomise(parts[key].model)
        parts[key].reset()
        return parts[key]

    return make


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Weights that let inputs matter; the learned token is zero at first."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if not name.startswith("backbone."):
            weight.copy_(0.4 * torch.randn(weight.shape, generator=generator))


def observation(seed: int, stamp: float = 0.0) -> Observation:
    generator = np.random.default_rng(seed)
    images = {
        name: generator.integers(0, 256, (96, 96, 3), dtype=np.uint8) for name in ("front", "wrist")
    }
    return Observation(images, generator.uniform(-1, 1, 10), stamp)


def batch_of(part, frames: list[Observation], instruction: str = "pick the red block"):
    """What training makes of a window of frames."""
    horizon, size = part.contract.horizon, len(part.contract.action_names)
    samples = [
        RobotSample(frame.images, frame.state, np.zeros((horizon, size), np.float32), instruction)
        for frame in frames
    ]
    newest = replace(samples[-1], past=tuple(samples[:-1]))
    options = CollationOptions(augmentation=PLAIN)
    collator = RoboVLMCollator(part.config, part._tokenizer._tokenizer, options)
    return collator.robot_batch([newest], [part._stats], np.random.default_rng(0))


@torch.no_grad()
def trained_chunk(part, frames: list[Observation]) -> np.ndarray:
    """The newest frame's chunk by the training pass."""
    batch, model = batch_of(part, frames), part.model
    rows = rows_of_frames([part._prompt_ids("pick the red block")], [len(frames)], part.config)
    assert torch.equal(rows.ids, batch.rows.ids)
    features = model.frame_features(rows, model.encode_images(batch.images), batch.frames.state)
    hidden = model.head.trunk(features[None])[:, -1]
    chunk = model.head.output.sample(hidden)[0].numpy()
    return part._stats["action"].denormalize(chunk)


# Streaming


@pytest.mark.parametrize("kind", ["internvl", "paligemma", "kosmos2", "qwen2_5_vl"])
@pytest.mark.parametrize("structure", ["one_step", "interleaved", "policy_head"])
@settings(max_examples=8)
@given(gaps=st.lists(st.sampled_from([0.05, 0.3, 0.31, 0.5, 0.61, 2.0]), max_size=7))
def test_streaming_gives_what_training_sees(part_of, structure, kind, gaps):
    part = part_of(tiny(structure, kind))
    stamps = np.cumsum([10.0, *gaps])
    frames = [observation(index, stamp) for index, stamp in enumerate(stamps)]
    for frame in frames:
        streamed = part.act(frame, "pick the red block")
    slots = window_slots(stamps, part.config.structure.window, STEP)
    expected = trained_chunk(part, [frames[index] for index in slots])
    np.testing.assert_allclose(streamed, expected, atol=1e-6)


@pytest.mark.parametrize("trunk", ["fc", "lstm", "gpt"])
@pytest.mark.parametrize("latent", [1, 3])
def test_all_trunks_stream(part_of, trunk, latent):
    structure = replace(STRUCTURES["policy_head"], latent=latent)
    part = part_of(tiny("policy_head", trunk=trunk, structure=structure, use_state=True))
    frames = [observation(index, STEP * index) for index in range(5)]
    for frame in frames:
        streamed = part.act(frame, "pick the red block")
    np.testing.assert_allclose(streamed, trained_chunk(part, frames[-3:]), atol=1e-6)


@pytest.mark.parametrize("source", ["text", "vision", "all"])
@pytest.mark.parametrize("kind", ["interleaved", "policy_head"])
def test_pooled_tokens_stream(part_of, kind, source):
    structure = replace(STRUCTURES[kind], latent=2, token_source=source)
    part = part_of(tiny(kind, structure=structure))
    assert LEARNED not in batch_of(part, [observation(0)]).rows.ids
    frames = [observation(index, STEP * index) for index in range(5)]
    for frame in frames:
        streamed = part.act(frame, "pick the red block")
    np.testing.assert_allclose(streamed, trained_chunk(part, frames[-3:]), atol=1e-6)
    part.reset()
    other = part.act(frames[0], "pick the red block"), part.act(frames[1], "pick the can")
    assert np.abs(other[0] - other[1]).max() > 1e-4


@pytest.mark.parametrize("kind", ["internvl", "qwen2_5_vl"])
@pytest.mark.parametrize("structure", ["interleaved", "policy_head", "discrete"])
def test_a_resampler_stands_between_images_and_text(part_of, kind, structure):
    resampler = ResamplerConfig(3, 2, 2, 8)
    part = part_of(tiny(structure, kind, resampler=resampler))
    window = part.config.structure.window
    frames = [observation(index, STEP * index) for index in range(window)]
    ids = batch_of(part, frames).rows.ids
    assert (ids == IMAGE).sum() == window * 2 * 3
    for frame in frames:
        streamed = part.act(frame, "pick the red block")
    if structure != "discrete":
        np.testing.assert_allclose(streamed, trained_chunk(part, frames), atol=1e-6)
    with torch.device("meta"):
        full = Resampler(2048, ResamplerConfig(64))
    assert sum(p.numel() for p in full.parameters()) == 226_701_312


@pytest.mark.parametrize("structure", ["interleaved", "policy_head"])
def test_the_newest_frame_answers_and_later_ones_change_nothing(part_of, structure):
    part = part_of(tiny(structure))
    frames = [observation(index, STEP * index) for index in range(4)]
    images = torch.from_numpy(
        np.stack([f.images[n] for f in frames[:3] for n in part.config.cameras])
    ).permute(0, 3, 1, 2)
    tokens = part.model.encode_images(images).detach().requires_grad_()
    rows = rows_of_frames([part._prompt_ids("pick the red block")], [3], part.config)
    features = part.model.frame_features(rows, tokens, torch.zeros(3, 10))
    hidden = part.model.head.trunk(features[None])[0]
    for step in range(3):
        (grad,) = torch.autograd.grad(hidden[step].sum(), tokens, retain_graph=True)
        seen = grad.unflatten(0, (3, -1)).abs().sum(dim=(1, 2, 3)) > 0
        assert seen.tolist() == [index <= step for index in range(3)]

    def answer(shown: list[Observation]) -> np.ndarray:
        part.reset()
        return [part.act(frame, "pick the red block") for frame in shown][-1]

    chunk = answer(frames)
    newest = answer([*frames[:3], replace(observation(9), stamp=frames[3].stamp)])
    oldest = answer([replace(observation(9), stamp=frames[0].stamp), *frames[1:]])
    assert np.abs(chunk - newest).max() > 1e-4
    np.testing.assert_array_equal(chunk, oldest)


@pytest.mark.parametrize("structure", ["interleaved", "policy_head"])
def test_the_history_is_emptied(part_of, structure):
    part = part_of(tiny(structure))
    frames = [observation(index, STEP * index) for index in range(3)]
    fresh = part.act(frames[2], "pick the red block")

    def after(*shown: Observation, instruction: str = "pick the red block") -> np.ndarray:
        part.reset()
        for frame in shown:
            part.act(frame, instruction)
        return part.act(frames[2], "pick the red block")

    assert np.abs(after(*frames[:2]) - fresh).max() > 1e-5
    # By another instruction, a stamp that goes back, and a gap.
    np.testing.assert_array_equal(after(*frames[:2], instruction="what is on the table"), fresh)
    np.testing.assert_array_equal(after(replace(frames[0], stamp=99.0)), fresh)
    np.testing.assert_array_equal(after(replace(frames[0], stamp=-5.0)), fresh)


def test_a_frame_between_chunks_is_read_where_a_slot_would_miss_it(part_of):
    part, read = part_of(tiny("policy_head")), []
    encode = part.model.encode_images
    part.model.encode_images = lambda images: read.append(1) or encode(images)
    for index in range(31):
        frame = observation(index, 0.1 * index)
        if index % 10 == 0:
            part.act(frame, "pick the red block")
        else:
            part.observe(frame, "pick the red block")
    del part.model.encode_images
    assert len(read) == 11 + 2  # 31 frames of 0.1 s, one each 0.3 s, and two acts off that grid
    assert len(part._history) <= 4


# Sequences


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_structure_learns_on_every_backbone(part_of, structure, kind):
    part = part_of(tiny(structure, kind))
    frames = [observation(index) for index in range(part.config.structure.window)]
    batch = batch_of(part, frames)
    losses = part.model(batch)
    loss = losses["tokens" if structure == "discrete" else "action"]
    part.model.zero_grad()
    loss.backward()
    learning = {
        name.split(".")[0]
        for name, weight in part.model.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    tokens = (
        {"row_embedding", "row_output"} if structure == "discrete" else {"action_token", "head"}
    )
    assert learning == {"backbone"} | tokens
    part.model.zero_grad()


@pytest.mark.parametrize("structure", ["one_step", "interleaved", "policy_head"])
def test_batch_mates_and_padding_change_nothing(part_of, structure):
    part = part_of(tiny(structure, use_state=True))
    model, window = part.model, part.config.structure.window
    options = CollationOptions(augmentation=PLAIN)
    collator = RoboVLMCollator(part.config, part._tokenizer._tokenizer, options)

    def sample(seed: int, frames: int, instruction: str) -> RobotSample:
        shown = [observation(seed + index) for index in range(frames)]
        zeros = np.zeros((part.contract.horizon, 7), np.float32)
        made = [RobotSample(f.images, f.state, zeros, instruction) for f in shown]
        return replace(made[-1], past=tuple(made[:-1]))

    @torch.no_grad()
    def features(*samples: RobotSample) -> torch.Tensor:
        batch = collator.robot_batch(
            samples, [part._stats] * len(samples), np.random.default_rng(0)
        )
        return model.frame_features(
            batch.rows, model.encode_images(batch.images), batch.frames.state
        )

    short = sample(0, 1, "pick the red block")
    long = sample(20, window, "put the can that is red in the bowl")
    together = features(short, long)
    np.testing.assert_allclose(together[:1], features(short), atol=1e-5)
    np.testing.assert_allclose(together[1:], features(long), atol=1e-5)


def test_discrete_actions_are_decoded_to_the_last_step(part_of, monkeypatch):
    part = part_of(tiny("discrete"))
    assert part.act(observation(0), "pick the red block").shape == (part.contract.horizon, 7)
    # By the training pass, each token given those before it.
    tokens, prompt = part.model.tokens, part._prompt_ids("pick the red block")
    row = rows_of_frames([prompt], [1], part.config)
    images = torch.from_numpy(
        np.stack([observation(0).images[name] for name in part.config.cameras])
    ).permute(0, 3, 1, 2)
    with torch.no_grad():
        encoded = part.model.encode_images(images)
        # The value 1 has a row of its own, so values alone do not tell which rows were chosen.
        chosen, decode = [], ActionTokens.decode
        monkeypatch.setattr(
            ActionTokens, "decode", lambda self, rows: chosen.append(rows) or decode(self, rows)
        )
        part.model.generate_actions(row, encoded, None)
        ids = torch.tensor([[*prompt, *chosen[0][0]]])
        mask, prefix = torch.ones_like(ids), torch.zeros_like(ids)
        prefix[:, : len(prompt)] = 1
        hidden = part.model.hidden_states(ids, mask, prefix, encoded, None)[:, len(prompt) - 1 : -1]
        allowed = torch.tensor(tokens.rows)
        guess = allowed[part.model.logits(hidden)[0][:, allowed].argmax(-1)]
    assert guess.tolist() == chosen[0][0].tolist()
    assert len(set(guess.tolist())) > 3, "the tokens before matter"


def test_the_learned_token_stands_behind_the_text(part_of):
    part = part_of(tiny("policy_head"))
    (ids,) = batch_of(part, [observation(0)]).rows.ids.tolist()
    assert ids[-1] == LEARNED and ids.count(LEARNED) == 1
    assert ids[:-1] == part._prompt_ids("pick the red block")


# Losses and refusals


@pytest.mark.parametrize(
    ("structure", "output", "name"),
    [
        ("policy_head", "regression", "action"),
        ("policy_head", "flow", "action"),
        ("policy_head", "diffusion", "action"),
        ("discrete", "regression", "tokens"),
    ],
)
def test_steps_past_the_end_do_not_count(part_of, structure, output, name):
    part = part_of(tiny(structure, output=output))
    options = CollationOptions(augmentation=PLAIN)
    collator = RoboVLMCollator(part.config, part._tokenizer._tokenizer, options)
    seen, generator = observation(0), np.random.default_rng(0)
    chunk = generator.uniform(-0.01, 0.01, (part.contract.horizon, 7)).astype(np.float32)

    def loss(actions: np.ndarray, steps: int | None) -> float:
        sample = RobotSample(seen.images, seen.state, actions, "pick", steps=steps)
        batch = collator.robot_batch([sample], [part._stats], np.random.default_rng(0))
        draws = torch.Generator().manual_seed(0)
        return float(part.model(batch, generator=draws)[name].detach())

    other = chunk.copy()
    other[-3:] = -chunk[-3:]
    known = part.contract.horizon - 3
    assert loss(chunk, None) != pytest.approx(loss(other, None), rel=1e-3)
    if output == "regression":
        assert loss(chunk, known) == pytest.approx(loss(other, known), rel=1e-5)
        return
    # The noisy chunk's later steps are seen by the earlier ones, but are no target themselves.
    values = torch.arange(2.0 * 4 * 3).reshape(2, 4, 3)
    valid = torch.tensor([[True, True, False, False], [True, False, False, False]])
    assert mean_of_valid(values, valid) == values[valid].mean()


def test_conversations_are_learned_beside(part_of):
    part = part_of(tiny("policy_head"))
    collator = RoboVLMCollator(part.config, part._tokenizer._tokenizer, CollationOptions())
    image = observation(0).images["front"]
    talk = [
        Conversation(image, (("what is on the table ?", "the red block"),)),
        Conversation(None, (("pick the can", "the bowl"),)),
    ]
    for entries in (talk, talk[1:]):
        losses = part.model(collator.conversation_batch(entries, np.random.default_rng(0)))
        assert set(losses) == {"text", "text_accuracy"} and torch.isfinite(losses["text"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"structure": StructureConfig("sideways")},
            "structure.kind is 'sideways'; it must be one",
        ),
        ({"structure": StructureConfig("policy_head", "discrete")}, "discrete actions go with"),
        ({"structure": StructureConfig("one_step", window=4)}, "set structure.window to 1"),
        ({"structure": StructureConfig("interleaved")}, "set head.trunk to fc"),
        (
            {
                "backbone": policy_type("robovlms").presets()["robovlm_kosmos2"].backbone,
                "structure": StructureConfig("interleaved", window=16),
                "head": HeadConfig("fc"),
            },
            "16 frames of 2 views take more than 2064 tokens, but the backbone has 2048 positions",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(change, says):
    with pytest.raises(CheckpointError, match=says):
        require_structure(replace(tiny("policy_head"), **change), "config.json")


def test_published_heads_have_the_published_sizes(contract):
    kind = policy_type("robovlms")
    config = kind.presets()["robovlm_kosmos2"]
    with torch.device("meta"):
        model = build_model(config, contract)
    counts = kind.published_counts(model, {})
    assert counts == {"head fc": 6577222, "head lstm": 41210950, "head gpt": 106315846}


# Windows


def test_windows_of_an_episode():
    times = np.array([0.0, 0.3, 0.6, 0.9, 0.0, 0.3, 1.2, 1.5])
    found = window_indices(Timeline(times, np.array([4, 8])), 3, STEP)
    assert found.tolist() == [
        [0, -1, -1],
        [0, 1, -1],
        [0, 1, 2],
        [1, 2, 3],
        [4, -1, -1],
        [4, 5, -1],
        [6, -1, -1],  # nothing was seen for too long
        [6, 7, -1],
    ]


def test_windows_of_a_part_and_of_changing_words():
    assert ends_of_words(["a", "a", "b", "b", "b", "a"], 10) == [12, 15, 16]
    whole = Timeline(np.arange(8.0), np.array([3, 8]))
    part = whole.part(1, 6)
    assert part.times.tolist() == [1, 2, 3, 4, 5] and part.ends.tolist() == [2, 5]
    assert whole.part(3, 8).ends.tolist() == [5]


# Training


@pytest.fixture
def config(dataset, checkpoint, tmp_path) -> TrainConfig:
    """Three frames a window, on the backbone of a tiny checkpoint of another type."""
    return TrainConfig(
        stage="policy",
        preset="nano_policy_head",
        model={
            "structure": {"window": 3},
            "head": {"hidden": 32, "layers": 1, "widths": [32]},
        },
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
