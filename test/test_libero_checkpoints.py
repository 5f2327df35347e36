"""InstructVLA for LIBERO: two images joined for the language model, and units of the actions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from masked_samples import frames, stats_of
from test_convert import Released, tiny_preset
from tiny_checkpoint import SENTENCES, save_tiny_checkpoint
from tiny_robovlm import PLAIN

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.envs.libero.environment import to_libero
from vla.policies.checkpoint import build_model, open_checkpoint
from vla.policies.collation import CollationOptions
from vla.policies.images import joined_images
from vla.policies.instructvla.collation import InstructVLACollator
from vla.policies.instructvla.inference import Reasoner
from vla.policies.instructvla.presets import PRESETS
from vla.policies.registry import preset
from vla.policies.sequence import IMAGE, PromptRow
from vla.policies.tokenizer import train_tokenizer

JOINED = replace(preset("test"), vlm_cameras=("front", "wrist"), vlm_joined=True)


@pytest.fixture(scope="module")
def images(contract):
    generator = np.random.default_rng(2)
    return {
        camera.name: generator.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
        for camera in contract.cameras
    }


def test_both_cameras_are_one_image_of_the_language_model(tmp_path, contract, images):
    folder = save_tiny_checkpoint(tmp_path / "joined", contract, config=JOINED)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config.vlm_joined and checkpoint.config.vlm_images == 1
    reasoner = Reasoner(checkpoint)
    # A model with one camera that sees what both see, side by side.
    wide = np.concatenate([images["front"], images["wrist"]], axis=1)
    pixels = torch.from_numpy(wide).permute(2, 0, 1)[None]
    question = checkpoint.config.prompts.act.replace("{instruction}", "pick the red block")
    _, tokens, asked = reasoner._prompt(images, PromptRow(((question, ""),), acts=True))
    prompt = reasoner._tensors(tokens, asked)
    assert int((prompt[0] == IMAGE).sum()) == checkpoint.config.backbone.image_tokens
    latent = reasoner.latent_action(images, "pick the red block")
    with torch.no_grad():
        wanted = reasoner.model.act(pixels, *prompt)[0].numpy()
    np.testing.assert_allclose(latent, wanted, atol=1e-6)
    turned = images | {"wrist": images["wrist"][::-1].copy()}
    assert np.abs(reasoner.latent_action(turned, "pick the red block") - latent).max() > 1e-6
    blind = reasoner.latent_action({}, "pick the red block")
    assert np.isfinite(blind).all() and np.abs(blind - latent).max() > 1e-6


def test_training_sees_what_inference_sees(contract):
    samples = frames(contract)
    tokenizer = train_tokenizer(SENTENCES, JOINED.backbone.vocabulary)
    collator = InstructVLACollator(JOINED, tokenizer, CollationOptions(PLAIN))
    stats = [stats_of(contract)] * len(samples)
    batch = collator.robot_batch(samples, stats, np.random.default_rng(0))
    size = contract.cameras[0].width
    assert batch.vlm_images.shape == (len(samples), 3, size, 2 * size)
    shown = torch.from_numpy(samples[1].images["wrist"]).permute(2, 0, 1)
    torch.testing.assert_close(batch.vlm_images[1, :, :, size:], shown)
    counted = (batch.text.ids == IMAGE).sum(1)
    assert (counted == JOINED.backbone.image_tokens).all()
    assert batch.acting.expert_images.shape[:2] == (len(samples), 2), "the expert sees two"
    model = build_model(JOINED, contract)
    losses = model(batch, generator=torch.Generator().manual_seed(0))
    (losses["flow"] + losses["text"]).backward()
    assert all(torch.isfinite(losses[name]) for name in ("flow", "text"))


def test_images_are_joined_in_the_order_of_the_cameras():
    images = torch.arange(2 * 3 * 3 * 4 * 5).reshape(2, 3, 3, 4, 5)
    joined = joined_images(images)
    assert joined.shape == (2, 3, 4, 15)
    torch.testing.assert_close(joined[1, :, :, 5:10], images[1, 1])


@pytest.mark.slow
def test_the_presets_for_libero_are_as_published():
    config = PRESETS["published_two_cameras"]
    assert (config.vlm_images, len(config.expert_cameras)) == (1, 2)
    assert (config.expert.mask, config.expert.vision_feature_block) == ("bias", 2)
    contract = load_contract(contract_path("libero_instructvla"))
    with torch.device("meta"):
        expert = build_model(config, contract).expert
    # Vision of two images, latent action, chunk: 584 tokens.
    assert (expert.context_tokens, expert.horizon) == (2 * 256 + 64, 8)


def test_actions_of_a_released_checkpoint_are_in_metres_and_radians(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", tiny_preset())
    released = Released(tmp_path / "run", "expert", False)
    released.statistics["libero_goal_no_noops"] = released.statistics["bridge_dataset"]
    file = tmp_path / "run" / "dataset_statistics.json"
    file.write_text(json.dumps(released.statistics))
    target = tmp_path / "checkpoint"
    assert released.convert(target, "--unnorm-key", "libero_goal_no_noops") == 0
    stats = open_checkpoint(target).stats["action"]
    np.testing.assert_allclose(stats.q99, [0.025] * 3 + [0.25] * 3 + [1.0])
    np.testing.assert_allclose(stats.q01, [-0.025] * 3 + [-0.25] * 3 + [0.0])
    # What the model gives for the upper quantile is what LIBERO was told in the data.
    sent = to_libero(stats.denormalize(np.ones(7)))
    np.testing.assert_allclose(sent, [0.5] * 6 + [-1.0])
    other = tmp_path / "other"
    assert released.convert(other) == 0
    np.testing.assert_allclose(open_checkpoint(other).stats["action"].q99[:6], 0.5)
