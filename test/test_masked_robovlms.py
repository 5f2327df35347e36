"""RoboVLMs without vision, in every structure, head and backbone."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from masked_samples import BATCHES, counted, frames, masked, stats_of
from tiny_checkpoint import SENTENCES
from tiny_robovlm import PLAIN, STEP, STRUCTURES, observation, randomise, tiny

from vla.policies.backbones import KINDS
from vla.policies.base import Observation
from vla.policies.collation import CollationOptions
from vla.policies.config import CheckpointError
from vla.policies.registry import policy_type
from vla.policies.robovlms.build import build_model
from vla.policies.robovlms.collation import RoboVLMCollator
from vla.policies.robovlms.config import (
    MixtureConfig,
    PointingConfig,
    ResamplerConfig,
    require_structure,
)
from vla.policies.robovlms.mixture import MixtureHead
from vla.policies.sequence import IGNORE, IMAGE
from vla.policies.tokenizer import train_tokenizer
from vla.training.config import RobotData, TrainConfig
from vla.training.config_check import require_readable_masks

WORDS = "pick the red block"


def mixture(output: str):
    return tiny("one_step", "qwen3_vl", output, mixture=MixtureConfig(32, 48), use_state=True)


def pooled(source: str):
    structure = replace(STRUCTURES["policy_head"], token_source=source)
    return tiny("policy_head", structure=structure)


VARIANTS = {
    "one step": tiny("one_step"),
    "flow": tiny("one_step", output="flow"),
    "discrete": tiny("discrete", use_state=True),
    "interleaved": tiny("interleaved", use_state=True),
    "diffusion": tiny("interleaved", output="diffusion"),
    "lstm": tiny("policy_head", use_state=True),
    "gpt": tiny("policy_head", output="flow", trunk="gpt"),
    "mixture": mixture("regression"),
    "mixture, flow": mixture("flow"),
    "pointing": tiny("interleaved", pointing=PointingConfig(8)),
    "resampler": tiny("policy_head", "qwen3_vl", resampler=ResamplerConfig(3, 1, 2, 8)),
    "pooled text": pooled("text"),
    "all pooled": pooled("all"),
} | {kind: tiny("policy_head", kind) for kind in KINDS if kind != "internvl"}


@pytest.fixture(scope="module")
def built(contract):
    """Models of the variants, in which every weight matters."""
    models = {}

    def make(name: str):
        if name not in models:
            require_structure(VARIANTS[name], name)
            torch.manual_seed(0)
            models[name] = build_model(VARIANTS[name], contract).eval()
            randomise(models[name])
        return models[name]

    return make


def samples_of(model, contract, seed: int = 0):
    past = model.config.structure.window - 1
    samples = frames(contract, seed, past, places=True)
    # Windows of several lengths.
    return [replace(sample, past=sample.past[: index % 3]) for index, sample in enumerate(samples)]


def batch_of(model, samples, contract, grounding: bool = False):
    tokenizer = train_tokenizer(SENTENCES, model.config.backbone.vocabulary)
    collator = RoboVLMCollator(
        model.config, tokenizer, CollationOptions(PLAIN, grounding=grounding)
    )
    stats = [stats_of(contract)] * len(samples)
    return collator.robot_batch(samples, stats, np.random.default_rng(0))


def outputs(model, batch) -> torch.Tensor:
    """What each sample's chunk is made of [B, ...]."""
    rows, state = batch.rows, batch.frames.state
    images = model.encode_images(batch.images)
    if model.config.discrete:
        hidden = model.hidden_states(rows.ids, rows.mask, rows.prefix, images, state)
        before = torch.roll(rows.labels != IGNORE, -1, dims=1)
        return model.logits(hidden[before]).unflatten(0, (len(rows.ids), -1)).flatten(1)
    if isinstance(model.head, MixtureHead):
        prefix, actions = model.read(rows, images, state), batch.frames.actions
        if model.head.flow is None:
            return torch.cat(model.head.regress(prefix), dim=-1).flatten(1)
        return model.head.velocity(prefix, actions, torch.full((len(actions),), 0.3)).flatten(1)
    features, slots = model.frame_features(rows, images, state), batch.frames.slots
    windows = features.new_zeros(*slots.shape, features.shape[-1])
    windows[slots] = features
    hidden = model.head.trunk(windows)
    return hidden[torch.arange(len(slots)), slots.sum(1) - 1]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_masked_sample_is_the_same_alone_and_beside_any_other(built, contract, name):
    model = built(name)
    samples = samples_of(model, contract)
    with torch.no_grad():
        alone = torch.cat(
            [outputs(model, batch_of(model, masked([s], [0]), contract)) for s in samples]
        )
        for seen in BATCHES.values():
            found = outputs(model, batch_of(model, masked(samples, seen), contract))
            is_masked = ~torch.tensor(seen, dtype=torch.bool)
            torch.testing.assert_close(found[is_masked], alone[is_masked], atol=1e-5, rtol=1e-5)
        sees = torch.cat([outputs(model, batch_of(model, [s], contract)) for s in samples])
        some = outputs(model, batch_of(model, masked(samples, BATCHES["some"]), contract))
        torch.testing.assert_close(some[[0, 3]], sees[[0, 3]], atol=1e-5, rtol=1e-5)
    assert ((sees - alone).abs().amax(dim=1) > 1e-4).all(), "vision matters to who sees"


@pytest.mark.parametrize("name", VARIANTS)
def test_exchanged_pixels_change_nothing_of_a_masked_sample(built, contract, name):
    model, found = built(name), []
    with torch.no_grad():
        for seed in (0, 5):
            samples = masked(samples_of(model, contract, seed), BATCHES["some"])
            found.append(outputs(model, batch_of(model, samples, contract)))
    assert torch.equal(found[0][1:3], found[1][1:3])
    assert not torch.equal(found[0][0], found[1][0]), "who sees sees them"


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_vision_gets_neither_images_nor_gradients_of_a_masked_sample(built, contract, name):
    model = built(name)
    samples, encoder = samples_of(model, contract), model.backbone.vision_parts["vision encoder"]
    for seen in BATCHES.values():
        batch = batch_of(model, masked(samples, seen), contract)
        with counted(encoder) as calls, torch.no_grad():
            losses = model(batch)
        assert len(calls) == int(any(seen))
        windows = [2 * len(frame) for frame in (batch.frames.slots[i].nonzero() for i in range(4))]
        assert len(batch.images) == sum(n for n, sees in zip(windows, seen, strict=True) if sees)
        share = losses.get("masked_share", torch.tensor(0.0))
        assert float(share) == pytest.approx(1 - sum(seen) / 4)
    batch = batch_of(model, masked(samples, BATCHES["some"]), contract)
    for rows, reaches in (([1, 2], False), ([0, 3], True)):
        model.zero_grad()
        outputs(model, batch)[rows].square().sum().backward()
        grads = [p.grad for p in encoder.parameters() if p.grad is not None]
        assert any(bool(grad.any()) for grad in grads) is reaches
    model.zero_grad()


@pytest.mark.parametrize(
    "name", ["interleaved", "lstm", "discrete", "mixture", "pointing", "idefics"]
)
def test_a_batch_of_masked_samples_alone_trains(built, contract, name):
    model, losses = built(name), []
    state = deepcopy(model.state_dict())
    before = deepcopy(model.backbone.vision_parts["vision encoder"].state_dict())
    samples = masked(samples_of(model, contract), BATCHES["all"])
    batch = batch_of(model, samples, contract, grounding=True)
    assert not (batch.rows.ids == IMAGE).any() and batch.frames.places is None
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.1)
    for _ in range(8):
        optimizer.zero_grad()
        found = model(batch)
        assert "grounding" not in found
        loss = found["tokens" if model.config.discrete else "action"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    for key, value in model.backbone.vision_parts["vision encoder"].state_dict().items():
        assert torch.equal(value, before[key]), key
    model.load_state_dict(state)


def test_pointing_is_learned_from_those_that_see(built, contract):
    model = built("pointing")
    samples = samples_of(model, contract)
    with torch.no_grad():
        some = model(batch_of(model, masked(samples, BATCHES["some"]), contract, True))
        both = model(batch_of(model, [samples[0], samples[3]], contract, True))
    torch.testing.assert_close(some["grounding"], both["grounding"])


# Without vision in the running robot


@pytest.mark.slow
@pytest.mark.parametrize("layout", STRUCTURES)
def test_a_window_without_images_gives_a_chunk(part_of, layout):
    part = part_of(tiny(layout, use_state=True))
    window = part.config.structure.window
    seen = [observation(index, STEP * index) for index in range(window)]
    blind = [Observation({}, frame.state, frame.stamp) for frame in seen]

    def last_chunk(frames: list[Observation]) -> np.ndarray:
        part.reset()
        for frame in frames[:-1]:
            part.observe(frame, WORDS)
        return part.act(frames[-1], WORDS)

    with counted(part.model.backbone.vision_parts["vision encoder"]) as calls:
        chunk = last_chunk(blind)
    assert calls == []
    assert chunk.shape == (part.contract.horizon, len(part.contract.action_names))
    if layout == "discrete":
        return  # Each of its chunks takes a second.
    assert np.abs(chunk - last_chunk(seen)).max() > 1e-6
    # What was seen before is not remembered: a window is masked whole.
    np.testing.assert_array_equal(last_chunk([*seen[:-1], blind[-1]]), last_chunk(blind[-1:]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"token_source": "vision"}, "token_source vision gives the head image tokens alone"),
        ({"token_place": "before_last"}, "token_place before_last pads a prompt without images"),
    ],
)
def test_what_cannot_do_without_images_says_so(part_of, changes, says):
    structure = replace(STRUCTURES["policy_head"], **changes)
    config = tiny("policy_head", structure=structure)
    assert says in policy_type("robovlms").needs_images(config)
    part = part_of(config)
    with pytest.raises(ValueError, match=says):
        part.act(Observation({}, observation(0).state), WORDS)
    run = TrainConfig(robot=(RobotData("here", masked_share=0.5),))
    with pytest.raises(CheckpointError, match=f"here: masked_share is 0.5, but .*{says}") as caught:
        require_readable_masks(run, config)
    assert "\n" not in str(caught.value)
