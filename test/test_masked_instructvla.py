"""InstructVLA without vision: nothing of an image reaches a masked sample, whoever is beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from masked_samples import BATCHES, counted, frames, masked, stats_of
from tiny_checkpoint import SENTENCES, save_tiny_checkpoint
from tiny_robovlm import PLAIN, observation

from vla.datasets.sample import Annotation
from vla.policies.checkpoint import build_model
from vla.policies.collation import CollationOptions, PromptSampling
from vla.policies.instructvla.action_expert import MASKS
from vla.policies.instructvla.collation import InstructVLACollator
from vla.policies.policy import Policy
from vla.policies.registry import preset
from vla.policies.sequence import IMAGE
from vla.policies.tokenizer import train_tokenizer

EXPERTS = {kind: {"mask": kind} for kind in MASKS} | {
    "dinov2": {"vision": "dinov2", "vision_feature_block": 0, "keypoints": 0, "use_state": False}
}


def tiny(expert: str = "causal"):
    config = preset("test")
    return replace(config, expert=replace(config.expert, **EXPERTS[expert]))


@pytest.fixture(scope="module")
def built(contract):
    """Models by the action expert's kind, whose weights let vision matter."""
    models = {}

    def make(expert: str = "causal"):
        if expert not in models:
            torch.manual_seed(0)
            models[expert] = build_model(tiny(expert), contract).eval()
        return models[expert]

    return make


def batch_of(model, samples, contract, **options):
    options = {"prompts": PromptSampling(motion=0.0)} | options
    collator = InstructVLACollator(
        model.config,
        train_tokenizer(SENTENCES, model.config.backbone.vocabulary),
        CollationOptions(PLAIN, **options),
    )
    stats = stats_of(contract)
    return collator.robot_batch(samples, [stats] * len(samples), np.random.default_rng(0))


def outputs(model, batch) -> torch.Tensor:
    """Latent actions and velocities [A, ...] of a batch, side by side."""
    rows, latent = batch.acting, model.reasoning(batch.vlm_images, batch.text)[0]
    context = model.expert.encode_context(rows.expert_images, latent, rows.state, rows.seen)
    times = torch.full((len(latent),), 0.3)
    velocity = model.expert.velocity(context, rows.actions, times)
    return torch.cat([latent.flatten(1), velocity.flatten(1)], dim=1)


@pytest.mark.parametrize("expert", EXPERTS)
def test_a_masked_sample_is_the_same_alone_and_beside_any_other(built, contract, expert):
    model, samples = built(expert), frames(contract)
    with torch.no_grad():
        alone = torch.cat(
            [outputs(model, batch_of(model, masked([s], [0]), contract)) for s in samples]
        )
        for name, seen in BATCHES.items():
            found = outputs(model, batch_of(model, masked(samples, seen), contract))
            is_masked = ~torch.tensor(seen, dtype=torch.bool)
            torch.testing.assert_close(
                found[is_masked], alone[is_masked], atol=1e-5, rtol=1e-5, msg=name
            )
        sees = torch.cat([outputs(model, batch_of(model, [s], contract)) for s in samples])
        found = outputs(model, batch_of(model, masked(samples, BATCHES["some"]), contract))
        torch.testing.assert_close(found[[0, 3]], sees[[0, 3]], atol=1e-5, rtol=1e-5)
    assert (sees - alone).abs().max() > 1e-3, "vision matters to who sees"


@pytest.mark.parametrize("expert", EXPERTS)
def test_exchanged_pixels_change_nothing_of_a_masked_sample(built, contract, expert):
    model, found = built(expert), []
    with torch.no_grad():
        for seed in (0, 5):
            samples = masked(frames(contract, seed), BATCHES["some"])
            found.append(outputs(model, batch_of(model, samples, contract)))
    assert torch.equal(found[0][1:3], found[1][1:3])
    assert not torch.equal(found[0][0], found[1][0]), "who sees sees them"


@pytest.mark.parametrize("expert", ["causal", "dinov2"])
@pytest.mark.parametrize("name", BATCHES)
def test_neither_vision_encoder_is_called_for_a_masked_sample(built, contract, expert, name):
    model, seen = built(expert), BATCHES[name]
    batch = batch_of(model, masked(frames(contract), seen), contract)
    vision = model.reasoning.backbone.vision_parts["vision encoder"]
    with counted(vision, model.expert.vision) as calls:
        losses = model(batch)
    cameras = len(model.config.vlm_cameras), len(model.config.expert_cameras)
    assert calls == [sum(seen) * count for count in cameras if sum(seen)]
    assert (batch.text.ids == IMAGE).any(dim=1).tolist() == [bool(sees) for sees in seen]
    if sum(seen) < 4:
        assert losses["masked_share"] == pytest.approx(1 - sum(seen) / 4)
    else:
        assert "masked_share" not in losses


@pytest.mark.parametrize("expert", EXPERTS)
def test_no_gradient_of_a_masked_sample_reaches_a_vision_encoder(built, contract, expert):
    model = built(expert)
    batch = batch_of(model, masked(frames(contract), BATCHES["some"]), contract)
    encoders = {"expert": model.expert.vision} | model.reasoning.backbone.vision_parts

    def reached() -> dict[str, bool]:
        found = {
            name: any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
            for name, module in encoders.items()
        }
        model.zero_grad()
        return found

    model.zero_grad()
    outputs(model, batch)[1:3].square().sum().backward()
    assert reached() == dict.fromkeys(encoders, False)
    outputs(model, batch)[[0, 3]].square().sum().backward()
    assert reached() == dict.fromkeys(encoders, True)


def test_a_batch_of_masked_samples_alone_trains(contract):
    torch.manual_seed(0)
    model = build_model(tiny(), contract)
    samples = masked(frames(contract, places=True), BATCHES["all"])
    batch, losses = batch_of(model, samples, contract, grounding=True), []
    assert len(batch.acting.places) == len(batch.vlm_images) == 0
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.1)
    for step in range(12):
        optimizer.zero_grad()
        found = model(batch, generator=torch.Generator().manual_seed(step % 2))
        assert "grounding" not in found
        found["flow"].backward()
        optimizer.step()
        losses.append(float(found["flow"].detach()))
    assert losses[-1] < 0.9 * losses[1]
    vision = [*model.expert.vision.named_parameters(prefix="expert.vision")]
    assert vision and all(torch.equal(weight, before[name]) for name, weight in vision)


def test_where_the_gripper_acts_is_learned_from_those_that_see(built, contract):
    model = built()
    samples = frames(contract, places=True)
    some = batch_of(model, masked(samples, BATCHES["some"]), contract, grounding=True)
    both = batch_of(model, [samples[0], samples[3]], contract, grounding=True)
    with torch.no_grad():
        torch.testing.assert_close(model(some)["grounding"], model(both)["grounding"])


def test_a_masked_frame_is_asked_nothing_about_the_scene(built, contract):
    annotation = Annotation("a block .", (("what colour ?", "red ."),), (("lift it", "i do ."),))
    samples = [replace(s, annotation=annotation) for s in frames(contract)]
    model = built()
    shares = PromptSampling(question=1.0, context=0.0, rewrite=0.0, motion=0.0)
    asked = batch_of(model, samples, contract, prompts=shares)
    blind = batch_of(model, masked(samples, BATCHES["all"]), contract, prompts=shares)
    plain = batch_of(model, masked(frames(contract), BATCHES["all"]), contract)
    assert torch.equal(blind.text.ids, plain.text.ids)
    queries, images = model.config.num_queries, model.config.backbone.image_tokens
    assert asked.text.mask.sum() - 4 * images > plain.text.mask.sum() + 4 * queries


@pytest.mark.slow
def test_a_policy_acts_without_images(tmp_path, contract):
    policy = Policy.from_pretrained(save_tiny_checkpoint(tmp_path / "tiny"))
    encoders = policy.reasoning.model.backbone.vision_parts, policy.action.module.vision
    chunks = []
    with counted(encoders[0]["vision encoder"], encoders[1]) as calls:
        for images in ({}, {}, observation(0).images):
            policy.reset("pick the red block", seed=3)
            chunks.append(policy.chunk(images, observation(0).state))
    assert calls == [1, 2], "only the last one is looked at"
    np.testing.assert_array_equal(chunks[0], chunks[1])
    assert np.abs(chunks[0] - chunks[2]).max() > 1e-6
    policy.reset("pick the red block", seed=3, think=True)
    assert policy.chunk({}, observation(0).state).shape == chunks[0].shape
