"""The action expert against Llama and DINOv2 of transformers that hold the same weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from released_instructvla import (
    ACTIONS,
    EXPERT,
    HORIZON,
    QUERIES,
    SIDE,
    VISION,
    WIDTH,
    Action,
    tiny_preset,
)
from transformers import Dinov2WithRegistersModel

from vla.policies.config import CheckpointError
from vla.policies.instructvla.action_expert import ActionExpert
from vla.policies.instructvla.config import ActionExpertConfig
from vla.policies.instructvla.conversion_names import LanguageNames, recipe
from vla.policies.instructvla.film_dinov2 import Dinov2Encoder
from vla.policies.instructvla.film_vision import standardize

STATE = 8
LANGUAGE = LanguageNames("language_model.", (), QUERIES)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other take longer than these sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same_expert(reference: Action, cameras: int = 1, **changes) -> ActionExpert:
    """Our expert with the reference's weights."""
    config = replace(tiny_preset().expert, vision_zoom=False, **changes)
    expert = ActionExpert(config, WIDTH, QUERIES, cameras, STATE, HORIZON, ACTIONS).eval()
    theirs = {f"action_model.{name}": value for name, value in reference.group().items()}
    for name, target in expert.state_dict().items():
        steps = recipe(f"expert.{name}", LANGUAGE)
        parts = [theirs[source] for source in steps.sources]
        target.copy_(parts[0] if steps.build is None else steps.build(parts))
    return expert


def inputs(batch: int, cameras: int):
    images = torch.randint(0, 256, (batch, cameras, 3, SIDE, SIDE), dtype=torch.uint8)
    latent, state = torch.randn(batch, QUERIES, WIDTH), torch.randn(batch, STATE)
    return images, latent, state, torch.randn(batch, HORIZON, ACTIONS), torch.rand(batch)


@pytest.mark.parametrize("mask", ["causal", "separate", "bias", "full"])
@pytest.mark.parametrize("cameras", [1, 2])
@pytest.mark.parametrize("uses_state", [False, True])
def test_velocity_is_that_of_llama_and_dinov2(mask, cameras, uses_state):
    torch.manual_seed(0)
    reference = Action(STATE if uses_state else None, cameras)
    expert = same_expert(reference, cameras, mask=mask, use_state=uses_state)
    images, latent, state, x, times = inputs(2, cameras)
    with torch.no_grad():
        given = expert.velocity(expert.encode_context(images, latent, state), x, times)
    pixels = standardize(images.flatten(0, 1), torch.float32)
    wanted = reference.velocity(pixels, latent, state, x, times, mask)
    assert wanted.std() > 0.1
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-4)


def test_masks_differ():
    torch.manual_seed(0)
    reference = Action(STATE)
    images, latent, state, x, times = inputs(1, 1)
    pixels = standardize(images.flatten(0, 1), torch.float32)
    found = [
        reference.velocity(pixels, latent, state, x, times, mask)
        for mask in ("causal", "separate", "bias", "full")
    ]
    for index, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-3 for other in found[index + 1 :])


@torch.no_grad()
def test_layers_are_those_of_llama():
    torch.manual_seed(0)
    reference = Action()
    expert = same_expert(reference)
    tokens = torch.randn(2, 30, EXPERT)
    turns = expert.turns[:, :30]
    ours = tokens
    for layer in expert.layers:
        ours, _ = layer(ours, turns, mask=torch.ones(30, 30, dtype=torch.bool).tril())
    causal = torch.full((30, 30), torch.finfo(torch.float32).min).triu(1)[None, None]
    theirs = reference.llama(
        inputs_embeds=tokens, attention_mask=causal.expand(2, -1, -1, -1)
    ).last_hidden_state
    torch.testing.assert_close(expert.norm(ours), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("block", [0, 2, 3])
def test_film_of_zeros_leaves_dinov2_as_it_is(block):
    torch.manual_seed(0)
    config = replace(tiny_preset().expert, vision_zoom=False, vision_feature_block=block)
    encoder = Dinov2Encoder(config, WIDTH).eval()
    for parameter in encoder.parameters():
        parameter.normal_(std=0.2)
    for parameter in encoder.films.parameters():
        parameter.zero_()
    images = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    given, keypoints = encoder(images, torch.randn(2, WIDTH), torch.zeros(2, dtype=torch.long))
    sizes = deepcopy(encoder.model.config)
    sizes.num_hidden_layers = len(encoder.model.encoder.layer)
    theirs = Dinov2WithRegistersModel(sizes).eval()
    # Ours has neither the norm behind all blocks nor the token of masked patches.
    theirs.load_state_dict(encoder.model.state_dict(), strict=False)
    whole = theirs(standardize(images, torch.float32), output_hidden_states=True)
    # The first of them is what enters the first block; five tokens stand before the patches.
    wanted = whole.hidden_states[block + 1][:, 5:]
    assert keypoints is None
    assert given.shape == (2, 16, VISION)
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-5)


def test_impossible_feature_blocks_are_named():
    config = ActionExpertConfig(vision="dinov2", vision_layers=4, vision_feature_block=4)
    with pytest.raises(CheckpointError, match="vision_feature_block 4 is not one of 4 blocks"):
        Dinov2Encoder(config, WIDTH)
