"""RoboVLMs find where the gripper acts next, and their heads get it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_checkpoint import save_tiny_checkpoint

from vla.datasets.sample import RobotSample
from vla.policies.augment import Augmentation
from vla.policies.backbones import KINDS
from vla.policies.base import Observation
from vla.policies.collation import CollationOptions
from vla.policies.config import ChatFormat, CheckpointError
from vla.policies.parts import ReasoningPart
from vla.policies.robovlms.collation import RoboVLMCollator
from vla.policies.robovlms.config import (
    HeadConfig,
    PointingConfig,
    ResamplerConfig,
    RoboVLMConfig,
    StructureConfig,
    require_structure,
)
from vla.policies.robovlms.pointing import Pointing, pointing_loss

STILL = Augmentation(1.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)
INSTRUCTION = "pick the red block"


def config_of(structure: StructureConfig, trunk: str = "fc") -> RoboVLMConfig:
    return RoboVLMConfig(
        preset="tiny",
        backbone=replace(KINDS["internvl"].tiny(), chat=ChatFormat()),
        structure=structure,
        head=HeadConfig(trunk, "regression", 16, 1, 2, 0.0, (16,)),
        pointing=PointingConfig(8),
    )


def test_places_are_those_of_the_tokens_that_score():
    pointing = Pointing(4, 4, 9)
    torch.nn.init.zeros_(pointing.query.weight)
    torch.nn.init.eye_(pointing.key.weight)
    torch.nn.init.zeros_(pointing.key.bias)
    with torch.no_grad():
        pointing.query.bias.copy_(100.0 * torch.eye(4)[:2].flatten())
    tokens = torch.zeros(1, 1, 9, 4)
    tokens[0, 0, 2, 0] = 1.0  # closes at the top right
    tokens[0, 0, [3, 5], 1] = 1.0  # opens between left and right of the middle row
    scores, places = pointing(torch.zeros(1, 4), tokens)
    assert scores.shape == (1, 1, 2, 9)
    close, open_ = places[0, 0]
    assert torch.allclose(close, torch.tensor([2 / 3, -2 / 3, 1.0]), atol=1e-4)
    assert torch.allclose(open_, torch.tensor([0.0, 0.0, 0.5]), atol=1e-4)


def test_the_loss_is_least_at_the_place_and_unknown_places_do_not_count():
    pixels = torch.tensor([[[[15.5, 15.5], [float("nan")] * 2]]])  # [1, 1, 2, 2] of 32 px
    centre = torch.tensor([[[[0.0, 0.0, 1.0]] * 2]])
    shares = torch.full((1, 1, 2, 4), 0.0)
    best = pointing_loss(shares, centre, pixels, 32)
    assert best == pytest.approx(np.log(4), abs=1e-6)
    aside = centre + torch.tensor([0.5, 0.0, 0.0])
    assert pointing_loss(shares, aside, pixels, 32) > best + 0.05
    assert pointing_loss(shares, aside, torch.full_like(pixels, float("nan")), 32) == 0


def samples(seed: int, count: int) -> list[RobotSample]:
    """A bright square on dark noise in each view, and its centre as where the gripper closes."""
    generator, made = np.random.default_rng(seed), []
    for _ in range(count):
        images, places = {}, {}
        for name in ("front", "wrist"):
            picture = generator.integers(0, 40, (28, 28, 3), dtype=np.uint8)
            row, column = generator.integers(0, 2, 2) * 14
            picture[row : row + 14, column : column + 14] += 200
            images[name] = picture
            places[name] = np.array([[column + 6.5, row + 6.5], [np.nan, np.nan]])
        state, actions = np.zeros(10, np.float32), np.zeros((16, 7), np.float32)
        made.append(RobotSample(images, state, actions, INSTRUCTION, places=places))
    return made


@pytest.fixture(scope="module")
def part_of(tmp_path_factory):
    def make(config):
        folder = tmp_path_factory.mktemp("pointing") / "tiny"
        return ReasoningPart.from_pretrained(save_tiny_checkpoint(folder, config=config))

    return make


def batch_of(part, chosen, grounding=True):
    options = CollationOptions(augmentation=STILL, grounding=grounding)
    collator = RoboVLMCollator(part.config, part._tokenizer._tokenizer, options)
    return collator.robot_batch(chosen, [part._stats] * len(chosen), np.random.default_rng(0))


@pytest.mark.slow
def test_what_is_pointed_at_is_learned_in_both_views(part_of):
    torch.manual_seed(0)
    model = part_of(config_of(StructureConfig("one_step", window=1))).model.train()
    part = part_of(config_of(StructureConfig("one_step", window=1)))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(150):
        losses = model(batch_of(part, samples(step, 16)))
        optimizer.zero_grad()
        losses["grounding"].backward()
        optimizer.step()
    batch = batch_of(part, samples(1000, 32))
    with torch.no_grad():
        images = model.encode_images(batch.images)
        _, scores, _ = model._features(batch.rows, images, batch.frames.state)
    pixels = batch.frames.places[:, :, 0]  # [F, C, 2]
    cells = (pixels[..., 1] > 14) * 2 + (pixels[..., 0] > 14)
    assert (scores[:, :, 0].argmax(dim=-1) == cells).float().mean() > 0.95


def test_without_labels_nothing_is_pointed_at(part_of):
    part = part_of(config_of(StructureConfig("one_step", window=1)))
    chosen = samples(0, 2)
    assert "grounding" in part.model(batch_of(part, chosen))
    assert "grounding" not in part.model(batch_of(part, chosen, grounding=False))
    unlabelled = [replace(sample, places=None) for sample in chosen]
    assert part.model(batch_of(part, unlabelled))["grounding"] == 0


@pytest.mark.parametrize(
    ("structure", "trunk"),
    [
        (StructureConfig("one_step", window=1), "fc"),
        (StructureConfig("interleaved", window=3, history_step=0.3), "fc"),
        (StructureConfig("policy_head", window=3, history_step=0.3, latent=2), "lstm"),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
@torch.no_grad()
def test_places_reach_the_head_the_same_way_in_a_stream(part_of, structure, trunk):
    part = part_of(config_of(structure, trunk))
    generator = torch.Generator().manual_seed(1)
    for name, weight in part.model.named_parameters():
        if not name.startswith("backbone."):
            weight.copy_(0.4 * torch.randn(weight.shape, generator=generator))
    rng = np.random.default_rng(0)
    frames = [
        Observation(
            {n: rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for n in ("front", "wrist")},
            rng.uniform(-1, 1, 10),
            0.3 * number,
        )
        for number in range(structure.window)
    ]
    for frame in frames:
        chunk = part.act(frame, INSTRUCTION)
    actions = np.zeros((16, 7), np.float32)
    made = [RobotSample(f.images, f.state, actions, INSTRUCTION) for f in frames]
    batch = batch_of(part, [replace(made[-1], past=tuple(made[:-1]))])
    images = part.model.encode_images(batch.images)
    features = part.model.frame_features(batch.rows, images, batch.frames.state)
    width = 32 * structure.latent
    assert features.shape == (len(frames), width + 2 * 2 * 3)
    assert features[:, width:].std() > 0
    hidden = part.model.head.trunk(features[None])[:, -1]
    expected = part._stats["action"].denormalize(part.model.head.output.sample(hidden)[0].numpy())
    assert np.allclose(chunk, expected, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"resampler": ResamplerConfig(tokens=4)},
        {"structure": StructureConfig("one_step", "discrete", window=1)},
        {"structure": StructureConfig("one_step", window=1, token_source="text")},
    ],
)
def test_what_cannot_point_is_refused(change):
    config = replace(config_of(StructureConfig("one_step", window=1)), **change)
    with pytest.raises(CheckpointError, match=r"mine\.json: pointing needs learned tokens"):
        require_structure(config, "mine.json")
