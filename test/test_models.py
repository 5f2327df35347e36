"""The model's parts: flow matching, the action expert's block mask, vision under FiLM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from vla.policies.config import AdapterConfig, CheckpointError, FlowMatchingConfig, from_dict
from vla.policies.heads.flow_matching import draw_noise, integrate, interpolate, sample_times
from vla.policies.instructvla.action_expert import (
    ActionExpert,
    ExpertContext,
    repeat_context,
    rotary_turns,
    rotate,
)
from vla.policies.instructvla.config import ActionExpertConfig
from vla.policies.instructvla.film_dinov2 import Dinov2Encoder
from vla.policies.instructvla.film_vision import ConvVisionEncoder, FiLM, Keypoints
from vla.policies.instructvla.vision_language_action import sample_actions
from vla.policies.lora import LoraLinear

LATENT, QUERIES, CAMERAS, STATE, HORIZON, ACTION = 24, 4, 2, 10, 6, 7
CONFIG = ActionExpertConfig(
    image_size=32, vision_width=32, vision_layers=2, vision_heads=2, width=32, layers=2, heads=2,
    mlp=48, head_widths=(48, 32),
)  # fmt: skip


@pytest.fixture(scope="module")
def expert():
    torch.manual_seed(0)
    return ActionExpert(CONFIG, LATENT, QUERIES, CAMERAS, STATE, HORIZON, ACTION).eval()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return {
        "images": torch.randint(
            0, 256, (3, CAMERAS, 3, 32, 32), dtype=torch.uint8, generator=generator
        ),
        "latent": torch.randn(3, QUERIES, LATENT, generator=generator),
        "state": torch.randn(3, STATE, generator=generator),
    }


# Flow matching


def test_the_path_runs_from_noise_to_actions_at_constant_velocity():
    config = FlowMatchingConfig()
    noise, actions = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    start, velocity = interpolate(noise, actions, torch.zeros(4), config)
    end, _ = interpolate(noise, actions, torch.ones(4), config)
    torch.testing.assert_close(start, noise)
    torch.testing.assert_close(end, actions + config.sigma_min * noise)
    torch.testing.assert_close(start + velocity, end)
    times = torch.tensor([0.1, 0.4, 0.5, 0.9])
    middle, same = interpolate(noise, actions, times, config)
    torch.testing.assert_close(middle, start + times[:, None, None] * velocity)
    torch.testing.assert_close(same, velocity)


def test_times_are_beta_distributed_near_noise():
    config = FlowMatchingConfig()
    times = sample_times(20_000, config, torch.Generator().manual_seed(0)).numpy()
    assert times.min() >= 0.0 and times.max() <= config.time_scale
    z = 1.0 - times / config.time_scale
    assert stats.kstest(z, stats.beta(config.alpha, config.beta).cdf).pvalue > 1e-3
    assert times.mean() < 0.45, "most times are near the noise"


@pytest.mark.parametrize("config", [FlowMatchingConfig(), FlowMatchingConfig(beta=2.0)])
def test_times_depend_on_the_generator_alone(config):
    seeded = [torch.Generator().manual_seed(seed) for seed in (3, 3, 4)]
    first, again, other = (sample_times(5, config, generator) for generator in seeded)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_times_of_any_beta_distribution_are_cut_to_their_bounds():
    config = FlowMatchingConfig(2.0, 3.0, 1.0, earliest=0.02, latest=0.5)
    times = sample_times(20_000, config, torch.Generator().manual_seed(0)).numpy()
    assert (times.min(), times.max()) == (np.float32(0.02), np.float32(0.5))
    inner = times[(times > 0.02) & (times < 0.5)]
    within = stats.beta(3.0, 2.0)  # of 1 - z

    def share(x):
        low, high = within.cdf(0.02), within.cdf(0.5)
        return (within.cdf(x) - low) / (high - low)

    assert stats.kstest(inner, share).pvalue > 1e-3
    assert (times == np.float32(0.5)).mean() == pytest.approx(within.sf(0.5), abs=0.01)
    with pytest.raises(CheckpointError, match=r"earliest is 0\.6, later than latest, 0\.5"):
        from_dict(FlowMatchingConfig, {"earliest": 0.6, "latest": 0.5})


def test_noise_is_normal_or_uniform():
    normal, uniform = (
        draw_noise((20_000,), FlowMatchingConfig(noise=kind), torch.Generator().manual_seed(0))
        for kind in ("normal", "uniform")
    )
    assert stats.kstest(normal.numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_euler_integration():
    noise = torch.randn(2, 3, 1)
    goal = torch.tensor([2.0, -1.0])[:, None, None].expand(2, 3, 1)
    torch.testing.assert_close(integrate(lambda x, t: goal - noise, noise, 10), goal)
    seen = []

    def growth(x, times):
        seen.append(times.tolist())
        return x

    grown = integrate(growth, torch.ones(2, 1, 1), 10)
    torch.testing.assert_close(grown, torch.full((2, 1, 1), 1.1**10))
    np.testing.assert_allclose(seen, np.repeat(np.arange(10)[:, None] / 10, 2, axis=1), atol=1e-6)


# Action expert


def whole_sequence(expert, images, latent, state, x, times) -> torch.Tensor:
    """Velocity by one pass over all tokens under the block mask, without a cache."""
    context = {}
    first = expert.layers[0]

    def catch(module, arguments, keywords):
        context["tokens"] = arguments[0]
        context["turns"] = arguments[1]

    handle = first.register_forward_pre_hook(catch, with_kwargs=True)
    expert.encode_context(images, latent, state)
    before, before_turns = context["tokens"], context["turns"]
    expert.velocity(expert.encode_context(images, latent, state), x, times)
    actions, action_turns = context["tokens"], context["turns"]
    handle.remove()
    tokens = torch.cat([before, actions], dim=1)
    turns = torch.cat([before_turns, action_turns], dim=1)
    vision = expert.vision.tokens * CAMERAS
    blocks = torch.tensor(
        [0] * vision + [1] * (expert.context_tokens - vision) + [2] * expert.horizon
    )
    mask = blocks[:, None] >= blocks[None]
    for layer in expert.layers:
        tokens, _ = layer(tokens, turns, mask=mask)
    hidden = expert.norm(tokens[:, -expert.horizon :])
    return expert.head(hidden.flatten(1)).view(-1, HORIZON, ACTION)


@torch.inference_mode()
def test_cached_context_gives_what_one_pass_over_all_tokens_gives(expert, inputs):
    x, times = torch.randn(3, HORIZON, ACTION), torch.tensor([0.0, 0.5, 0.9])
    cached = expert.velocity(expert.encode_context(**inputs), x, times)
    assert cached.shape == (3, HORIZON, ACTION)
    whole = whole_sequence(expert, **inputs, x=x, times=times)
    torch.testing.assert_close(cached, whole, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_vision_does_not_see_the_state_in_any_layer(expert, inputs):
    vision = expert.vision.tokens * CAMERAS
    first = expert.encode_context(**inputs)
    other = expert.encode_context(**(inputs | {"state": inputs["state"] + 1.0}))
    first, other = first.layers, other.layers
    for (key, value), (other_key, other_value) in zip(first, other, strict=True):
        torch.testing.assert_close(key[:, :, :vision], other_key[:, :, :vision])
        torch.testing.assert_close(value[:, :, :vision], other_value[:, :, :vision])
    assert not torch.allclose(first[-1][0][:, :, vision:], other[-1][0][:, :, vision:])


@torch.inference_mode()
@pytest.mark.parametrize("name", ["images", "latent", "state"])
def test_velocity_depends_on_every_input(expert, inputs, name):
    x, times = torch.randn(3, HORIZON, ACTION), torch.full((3,), 0.3)
    before = expert.velocity(expert.encode_context(**inputs), x, times)
    changed = 255 - inputs[name] if name == "images" else inputs[name] + 0.5
    after = expert.velocity(expert.encode_context(**(inputs | {name: changed})), x, times)
    assert (before - after).abs().amax(dim=(1, 2)).min() > 1e-5
    assert not torch.allclose(
        before, expert.velocity(expert.encode_context(**inputs), x, times + 0.4)
    )


@torch.inference_mode()
def test_joined_gates_change_nothing(inputs):
    torch.manual_seed(0)
    own = ActionExpert(CONFIG, LATENT, QUERIES, CAMERAS, STATE, HORIZON, ACTION).eval()
    x, times = torch.randn(3, HORIZON, ACTION), torch.tensor([0.0, 0.5, 0.9])
    context = own.encode_context(**inputs)
    apart = own.velocity(context, x, times)
    context.gates = own.joined_gates()
    assert [tuple(joined.shape) for joined in context.gates] == [(96, 32)] * 2
    torch.testing.assert_close(own.velocity(context, x, times), apart, atol=1e-6, rtol=1e-5)
    twice = own.velocity(repeat_context(context, 2), x.repeat(2, 1, 1), times.repeat(2))
    assert twice.shape == (6, HORIZON, ACTION)
    # A change of the weights, as an adapter makes it, is there in the next chunk.
    own.layers[0].gate.weight.mul_(-1)
    context.gates = own.joined_gates()
    changed = own.velocity(context, x, times)
    context.gates = None
    torch.testing.assert_close(own.velocity(context, x, times), changed, atol=1e-6, rtol=1e-5)
    assert (changed - apart).abs().max() > 1e-3
    own.layers[1].up = LoraLinear(own.layers[1].up, AdapterConfig())
    assert own.joined_gates() is None


@torch.inference_mode()
def test_several_samples_share_one_context(expert, inputs):
    cache = expert.encode_context(**inputs)
    x, times = torch.randn(6, HORIZON, ACTION), torch.rand(6)
    many = expert.velocity(repeat_context(cache, 2), x, times)
    for row in range(3):
        layers = [(key[row : row + 1], value[row : row + 1]) for key, value in cache.layers]
        own = ExpertContext(cache.tokens[row : row + 1], layers)
        for sample in (2 * row, 2 * row + 1):
            alone = expert.velocity(own, x[sample : sample + 1], times[sample : sample + 1])
            torch.testing.assert_close(many[sample : sample + 1], alone, atol=1e-5, rtol=1e-5)


def test_samples_are_those_of_the_generator(expert, inputs):
    first, again, other = (
        sample_actions(
            expert,
            **inputs,
            flow=FlowMatchingConfig(steps=3),
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (0, 0, 1)
    )
    assert first.shape == (3, HORIZON, ACTION) and torch.isfinite(first).all()
    torch.testing.assert_close(first, again)
    assert not torch.allclose(first, other)


def test_rotary_positions_matter_only_relatively():
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(i, j):
        at = [rotary_turns(torch.tensor([float(p)]), 8, 1000.0) for p in (i, j)]
        return (rotate(query, at[0]) * rotate(key, at[1])).sum()

    torch.testing.assert_close(score(3, 1), score(12, 10), atol=1e-4, rtol=1e-4)
    assert (score(3, 1) - score(9, 1)).abs() > 1e-3
    torch.testing.assert_close(rotate(query, rotary_turns(torch.zeros(1), 8, 1000.0)), query)


# Vision


def test_film_scales_and_shifts_by_the_condition():
    film = FiLM(3, 5)
    condition = torch.randn(2, 3)
    gamma, beta = film.gamma(condition), film.beta(condition)
    tokens, maps = torch.randn(2, 4, 5), torch.randn(2, 5, 6, 7)
    torch.testing.assert_close(
        film(tokens, condition)[1, 2], tokens[1, 2] * (1 + gamma[1]) + beta[1]
    )
    torch.testing.assert_close(
        film(maps, condition)[0, :, 3, 4], maps[0, :, 3, 4] * (1 + gamma[0]) + beta[0]
    )


@torch.inference_mode()
@pytest.mark.parametrize("keypoints", [0, 5])
def test_visual_tokens_depend_on_image_condition_and_camera(keypoints):
    torch.manual_seed(0)
    config = replace(CONFIG, keypoints=keypoints, vision_layers=1)
    encoder = ConvVisionEncoder(config, LATENT, CAMERAS).eval()
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    condition, camera = torch.randn(1, LATENT), torch.tensor([0])
    tokens, found = encoder(image, condition, camera)
    assert tokens.shape == (1, 4, 32) and encoder.tokens == 4
    assert (found is None) == (keypoints == 0)
    if found is not None:
        assert found[0].shape == (1, 2 * keypoints) and found[1].shape == (1, keypoints, 16)
    for changed, _ in (
        encoder(255 - image, condition, camera),
        encoder(image, condition + 1.0, camera),
        encoder(image, condition, camera + 1),
    ):
        assert (changed - tokens).abs().max() > 1e-3


DINOV2 = replace(CONFIG, vision="dinov2", patch=8, keypoints=0, vision_mlp=64)


@torch.inference_mode()
def test_dinov2_tokens_depend_on_image_and_condition():
    torch.manual_seed(0)
    encoder = Dinov2Encoder(DINOV2, LATENT).eval()
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    condition, camera = torch.randn(1, LATENT), torch.tensor([0])
    tokens, found = encoder(image, condition, camera)
    assert tokens.shape == (1, 16, 32) and found is None
    for changed, _ in (encoder(255 - image, condition, camera), encoder(image, -condition, camera)):
        assert (changed - tokens).abs().max() > 1e-4
    early = Dinov2Encoder(replace(DINOV2, vision_feature_block=0), LATENT).eval()
    early.load_state_dict({name: encoder.state_dict()[name] for name in early.state_dict()})
    assert (early(image, condition, camera)[0] - tokens).abs().max() > 1e-4


@torch.inference_mode()
@pytest.mark.parametrize("mask", ["causal", "separate", "bias", "full"])
def test_masks_say_what_sees_what(inputs, mask):
    torch.manual_seed(0)
    config = replace(DINOV2, mask=mask)
    expert = ActionExpert(config, LATENT, QUERIES, CAMERAS, STATE, HORIZON, ACTION).eval()
    x, times = torch.randn(3, HORIZON, ACTION), torch.full((3,), 0.3)
    context = expert.encode_context(**inputs)
    velocity = expert.velocity(context, x, times)
    assert (context.layers is None) == (mask in ("bias", "full"))
    again = expert.velocity(ExpertContext(context.tokens, None), x, times)
    torch.testing.assert_close(velocity, again, atol=1e-5, rtol=1e-5)
    allowed = expert.block_mask(torch.device("cpu"))
    vision, latent = expert.vision_tokens, expert.context_tokens
    assert allowed[latent:].all(), "actions see everything"
    assert allowed[vision, 0] == (mask != "separate"), "the latent block sees vision"
    assert allowed[0, vision] == (mask == "full")


def test_impossible_experts_are_refused():
    def build(**changes):
        ActionExpert(replace(DINOV2, **changes), LATENT, QUERIES, CAMERAS, STATE, HORIZON, ACTION)

    with pytest.raises(CheckpointError, match=r"unknown expert\.mask 'soft'; known: causal"):
        build(mask="soft")
    with pytest.raises(CheckpointError, match=r"unknown expert\.vision 'clip'; known: conv"):
        build(vision="clip")
    with pytest.raises(CheckpointError, match="vision_feature_block 9 is not one of 2 blocks"):
        build(vision_feature_block=9)
    with pytest.raises(CheckpointError, match="keypoints need vision 'conv'"):
        build(keypoints=4)
    with pytest.raises(CheckpointError, match="16 pixels per token, not 8"):
        build(vision="conv")


def test_a_keypoint_is_where_its_feature_is():
    keypoints = Keypoints(width=2, count=2)
    with torch.no_grad():
        keypoints.score.weight.copy_(torch.eye(2)[:, :, None, None])
    features = torch.zeros(1, 2, 5, 9)
    features[0, 0, 1, 8] = features[0, 1, 4, 2] = 20.0
    places, scores = keypoints(features)
    x0, x1, y0, y1 = places[0].tolist()
    assert scores.argmax(dim=-1).tolist() == [[1 * 9 + 8, 4 * 9 + 2]]
    np.testing.assert_allclose([x0, y0, x1, y1], [1.0, -0.5, -0.5, 1.0], atol=1e-4)
