"""RoboVLMs on backbones whose images are more than tokens: inner layers' features, and media."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_checkpoint import save_tiny_checkpoint
from tiny_robovlm import PLAIN, STEP, batch_of, ids_of, observation, tiny, trained_chunk

from vla.datasets.sample import Conversation
from vla.policies.backbones import Images
from vla.policies.collation import CollationOptions
from vla.policies.config import CheckpointError
from vla.policies.instructvla.collation import InstructVLACollator
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.parts import ReasoningPart
from vla.policies.registry import preset
from vla.policies.robovlms.collation import RoboVLMCollator
from vla.policies.robovlms.config import (
    MixtureConfig,
    PointingConfig,
    ResamplerConfig,
    require_structure,
)
from vla.policies.sequence import IMAGE

WORDS = "pick the red block"
STRUCTURES = [
    ("qwen3_vl", "one_step"),
    ("qwen3_vl", "interleaved"),
    ("qwen3_vl", "policy_head"),
    ("idefics", "one_step"),
    ("idefics", "policy_head"),
]


@pytest.mark.parametrize(("kind", "structure"), STRUCTURES)
def test_streaming_gives_what_training_sees(part_of, kind, structure):
    part = part_of(tiny(structure, kind, use_state=True))
    frames = [observation(index, STEP * index) for index in range(5)]
    chunks = [part.act(frame, WORDS) for frame in frames]
    window = part.config.structure.window
    np.testing.assert_allclose(chunks[-1], trained_chunk(part, frames[-window:]), atol=1e-6)
    part.reset()
    for frame in [*frames[:-1], replace(observation(9), stamp=frames[-1].stamp)]:
        other = part.act(frame, WORDS)
    assert np.abs(other - chunks[-1]).max() > 1e-4, "the newest image matters"


@pytest.mark.slow
@pytest.mark.parametrize("output", ["regression", "flow", "diffusion"])
@pytest.mark.parametrize(
    ("kind", "structure", "trunk"),
    [
        (kind, structure, trunk)
        for kind, structure in STRUCTURES
        for trunk in (("fc", "lstm", "gpt") if structure == "policy_head" else ("fc",))
    ],
)
def test_every_head_learns_and_acts(part_of, kind, structure, trunk, output):
    part = part_of(tiny(structure, kind, output, trunk=trunk))
    window = part.config.structure.window
    frames = [observation(index, STEP * index) for index in range(window)]
    part.model.zero_grad()
    part.model(batch_of(part, frames))["action"].backward()
    parts = part.model.backbone.vision_parts | {"head": part.model.head}
    for name, module in parts.items():
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        assert any(grad.abs().sum() > 0 for grad in grads), name
    part.model.zero_grad()
    shape = part.contract.horizon, len(part.contract.action_names)
    assert part.act(frames[0], WORDS, seed=1).shape == shape


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3_vl", "idefics"])
def test_discrete_actions_follow_the_images(part_of, kind):
    part = part_of(tiny("discrete", kind))
    chunks = [part.act(observation(index), WORDS) for index in (0, 0, 1)]
    np.testing.assert_array_equal(chunks[0], chunks[1])
    assert np.abs(chunks[0] - chunks[2]).max() > 1e-6


# Features of inner layers


@pytest.mark.parametrize("resampler", [ResamplerConfig(), ResamplerConfig(3, 2, 2, 8)])
def test_inner_vision_layers_reach_the_language_model(part_of, resampler):
    part = part_of(tiny("policy_head", "qwen3_vl", resampler=resampler))
    model, batch = part.model, batch_of(part, [observation(0)])
    features = model.encode_images(batch.images).detach()
    assert features.shape == (2, resampler.tokens or 36, 2 * 32)
    features.requires_grad_()
    model.frame_features(batch.rows, features, batch.frames.state).sum().backward()
    assert (features.grad[..., :32] != 0).any() and (features.grad[..., 32:] != 0).any()
    level = model.backbone.model.model.visual.deepstack_merger_list[0]
    model.zero_grad()
    model(batch)["action"].backward()
    assert all((weight.grad != 0).any() for weight in level.parameters())
    model.zero_grad()


# Media


def test_an_image_has_one_tag_in_the_sequence(part_of):
    part = part_of(tiny("policy_head", "idefics"))
    ids = ids_of(part, WORDS)
    assert ids.count(IMAGE) == len(part.config.cameras) == 2
    row = part.model.backbone.embed_text(torch.tensor([319]))
    images = Images(torch.zeros(1, 4, 24), torch.tensor([[False, True]]))
    placed = part.model.backbone.place(torch.zeros(1, 2, 32), images)
    assert torch.equal(placed[0, 1], row[0]) and not placed[0, 0].any()


def test_with_closed_gates_images_change_nothing(part_of):
    part = part_of(tiny("policy_head", "idefics"))
    layers = part.model.backbone.model.model.gated_cross_attn_layers
    gates = [p for layer in layers for p in (layer.alpha_cross_attn, layer.alpha_dense)]
    was = [gate.detach().clone() for gate in gates]

    def chunks() -> list[np.ndarray]:
        made = []
        for index in range(2):
            part.reset()
            made.append(part.act(observation(index), WORDS))
        return made

    open_ones = chunks()
    with torch.no_grad():
        for gate in gates:
            gate.zero_()
        closed = chunks()
        for gate, value in zip(gates, was, strict=True):
            gate.copy_(value)
    assert np.abs(open_ones[0] - open_ones[1]).max() > 1e-4
    np.testing.assert_array_equal(closed[0], closed[1])


def test_each_row_attends_to_its_own_images(part_of):
    part = part_of(tiny("policy_head", "idefics"))
    model = part.model
    frames = [observation(index, STEP * index) for index in range(3)]
    batch = batch_of(part, frames)
    tokens = model.encode_images(batch.images).detach().requires_grad_()
    features = model.frame_features(batch.rows, tokens, batch.frames.state)
    for row in range(3):
        (grad,) = torch.autograd.grad(features[row].sum(), tokens, retain_graph=True)
        seen = grad.abs().sum(dim=(1, 2)) > 0
        assert seen.tolist() == [image // 2 == row for image in range(6)]


def test_rows_with_an_image_and_without_share_a_batch(part_of):
    part = part_of(tiny("policy_head", "idefics"))
    collator = RoboVLMCollator(
        part.config, part._tokenizer._tokenizer, CollationOptions(augmentation=PLAIN)
    )
    image = observation(0).images["front"]
    shown = Conversation((image,), (("what is on the table ?", "the red block"),))
    told = Conversation((), (("pick the can", "the bowl"),))

    @torch.no_grad()
    def hidden(*talk: Conversation) -> list[torch.Tensor]:
        batch = collator.conversation_batch(talk, np.random.default_rng(0))
        tokens = part.model.encode_images(batch.images) if len(batch.images) else batch.images
        rows = batch.rows
        found = part.model.hidden_states(rows.ids, rows.mask, rows.prefix, tokens, None)
        return [row[mask.bool()] for row, mask in zip(found, rows.mask, strict=True)]

    together = hidden(told, shown)
    for alone, row in zip((hidden(told), hidden(shown)), together, strict=True):
        torch.testing.assert_close(row, alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("structure", "change", "says"),
    [
        ("interleaved", {}, "frames can't be interleaved: set structure.kind to policy_head"),
        ("one_step", {"mixture": MixtureConfig(24, 40)}, "has no images: set mixture.width to 0"),
        ("policy_head", {"resampler": ResamplerConfig(3)}, "has a resampler of its own"),
        ("policy_head", {"pointing": PointingConfig(8)}, "pointing compares image tokens"),
        ("policy_head", {"token_source": "vision"}, "has no image tokens to pool"),
        ("policy_head", {"token_source": "all"}, "has no image tokens to pool"),
    ],
)
def test_what_needs_image_tokens_is_refused(structure, change, says):
    source = change.pop("token_source", "learned")
    config = tiny(structure, "idefics", **change)
    config = replace(config, structure=replace(config.structure, token_source=source))
    with pytest.raises(CheckpointError, match=says):
        require_structure(config, "config.json")


@pytest.mark.parametrize("kind", ["qwen3_vl", "idefics"])
def test_instructvla_thinks_and_acts_on_them_too(tmp_path, monkeypatch, kind):
    config = replace(preset("test"), backbone=tiny("one_step", kind).backbone)
    part = ReasoningPart.from_pretrained(save_tiny_checkpoint(tmp_path / "vla", config=config))
    said = [*part._tokenizer.encode(text="pick up the red block ."), *part._stop]
    latents = []
    for scene in (observation(0), observation(1)):
        script = iter(said)
        with monkeypatch.context() as patch:
            patch.setattr(
                part.model,
                "logits",
                lambda _, script=script: torch.eye(600)[[next(script)]],
            )
            text, latent = part.think_and_act(scene, WORDS)
        again = part.latent_action(scene.images, WORDS, text)
        np.testing.assert_allclose(latent, again, atol=1e-5)
        latents.append(latent)
    assert np.abs(latents[0] - latents[1]).max() > 1e-4


def test_tokens_that_are_not_there_can_not_be_named():
    config = InstructVLAConfig(backbone=tiny("one_step", "idefics").backbone)
    with pytest.raises(CheckpointError, match="has no image tokens that could be named"):
        InstructVLACollator(config, None, CollationOptions(naming=True))
