"""Guided integration: its formulas, its direction, and the models' chunks under it."""

import math

import numpy as np
import pytest
import torch

from vla.control.committed import CommittedActions
from vla.policies.config import FlowMatchingConfig
from vla.policies.heads.flow_matching import integrate
from vla.policies.instructvla.action_expert import ActionExpert
from vla.policies.instructvla.inference import ActionModel
from vla.policies.instructvla.vision_language_action import sample_actions
from vla.policies.real_time_chunking import (
    Inpainting,
    guidance_weight,
    guided_integrate,
    soft_mask,
)
from vla.policies.registry import preset

HORIZON, SIZE = 16, 7


# The soft mask


def test_the_mask_is_one_then_falls_then_is_zero():
    mask = soft_mask(HORIZON, 4, 10)
    assert (mask[:4] == 1).all() and (mask[10:] == 0).all()
    falling = mask[3:11]
    assert (falling.diff() < 0).all()
    # Equation 5 for i = 6, d = 4, H - s = 10: c = (10 - 6) / (10 - 4 + 1).
    c = 4 / 7
    assert mask[6] == pytest.approx(c * (math.exp(c) - 1) / (math.e - 1))


@pytest.mark.parametrize(("committed", "covered"), [(0, 0), (0, 16), (16, 16), (5, 5), (9, 5)])
def test_the_mask_has_no_step_outside_what_the_old_chunk_covers(committed, covered):
    mask = soft_mask(HORIZON, committed, covered)
    assert torch.isfinite(mask).all() and (mask >= 0).all() and (mask <= 1).all()
    assert (mask[: min(committed, covered)] == 1).all() and (mask[covered:] == 0).all()


def test_the_weight_of_the_guidance_is_the_papers_and_is_bounded():
    for time in (0.1, 0.5, 0.9):
        spread = (1 - time) ** 2 / (time**2 + (1 - time) ** 2)
        assert guidance_weight(time, 100.0) == pytest.approx((1 - time) / (time * spread))
    assert guidance_weight(0.0, 5.0) == 5.0 and guidance_weight(1e-6, 5.0) == 5.0


# The direction, on a flow whose answer is known


class GaussianFlow:
    """The exact velocity field of chunks drawn from a random walk that starts at 0."""

    def __init__(self):
        steps = torch.arange(1, HORIZON + 1, dtype=torch.float64)
        self.covariance = 0.1 * torch.minimum(steps[:, None], steps[None, :])

    def velocity(self, x, times):
        """E[actions - noise | x] at x [B, H, 1]."""
        time = times[0].double()
        own = time**2 * self.covariance + (1 - time) ** 2 * torch.eye(HORIZON, dtype=torch.float64)
        solved = torch.linalg.solve(own, x.double())
        return (time * self.covariance @ solved - (1 - time) * solved).to(x)

    def expected_after(self, prefix):
        """Mean of all steps [H] of chunks that begin with prefix [K]: it stays where it is."""
        count = len(prefix)
        known = self.covariance[:count, :count]
        return self.covariance[:, :count] @ torch.linalg.solve(known, prefix.double())


@pytest.mark.parametrize(
    ("steps", "beta", "error", "shortfall"), [(50, 50, 0.01, 0.25), (10, 5, 0.1, 0.5)]
)
def test_the_guidance_leads_to_the_chunks_that_begin_as_asked(steps, beta, error, shortfall):
    """The better the finer the integration and the looser the bound, at which nothing is exact."""
    flow, count, batch = GaussianFlow(), 5, 200
    noise = torch.randn(batch, HORIZON, 1, generator=torch.Generator().manual_seed(0))
    prefix = torch.linspace(0.2, 1.0, count)
    wanted = torch.zeros(batch, HORIZON, 1)
    wanted[:, :count, 0] = prefix
    mask = soft_mask(HORIZON, count, count).expand(batch, -1)
    free = integrate(flow.velocity, noise, steps)
    guided = guided_integrate(flow.velocity, noise, steps, Inpainting(wanted, mask, beta))
    assert (guided[:, :count, 0] - prefix).abs().mean() < error
    # What is not held goes on from the prefix, as it does in the data.
    expected = flow.expected_after(prefix).float()
    assert free[:, :, 0].mean(0).abs().max() < 0.25
    torch.testing.assert_close(guided[:, :, 0].mean(0), expected, atol=shortfall, rtol=0)


def test_more_guidance_comes_nearer_and_none_is_the_plain_flow():
    flow = GaussianFlow()
    noise = torch.randn(50, HORIZON, 1, generator=torch.Generator().manual_seed(1))
    wanted = torch.ones(50, HORIZON, 1)
    mask = soft_mask(HORIZON, 4, 8).expand(50, -1)
    errors = [
        (guided_integrate(flow.velocity, noise, 10, Inpainting(wanted, mask, beta)) - 1)[:, :4]
        .abs()
        .mean()
        for beta in (0.0, 1.0, 5.0)
    ]
    assert errors[0] > 1.5 * errors[1] > 1.5 * errors[2]
    none = guided_integrate(flow.velocity, noise, 10, Inpainting(wanted, mask, 0.0))
    assert torch.equal(none, integrate(flow.velocity, noise, 10))
    blank = Inpainting(wanted, torch.zeros(50, HORIZON), 5.0)
    assert torch.equal(
        guided_integrate(flow.velocity, noise, 10, blank), integrate(flow.velocity, noise, 10)
    )


# The action expert


@pytest.fixture(scope="module")
def expert():
    config = preset("test")
    torch.manual_seed(0)
    model = ActionExpert(
        config.expert,
        config.backbone.width,
        config.num_queries,
        len(config.expert_cameras),
        10,
        HORIZON,
        SIZE,
    )
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs():
    config = preset("test")
    generator = torch.Generator().manual_seed(0)
    cameras, size = len(config.expert_cameras), config.expert.image_size
    return (
        torch.randint(0, 256, (3, cameras, 3, size, size), generator=generator, dtype=torch.uint8),
        torch.randn(3, config.num_queries, config.backbone.width, generator=generator),
        torch.randn(3, 10, generator=generator),
    )


def seeded():
    return torch.Generator().manual_seed(7)


def test_without_a_chunk_before_the_actions_are_those_of_the_plain_flow(expert, inputs):
    """Bit by bit: who does not use real-time chunking sees no difference."""
    with torch.no_grad():
        context = expert.encode_context(*inputs)
        noise = torch.randn(3, HORIZON, SIZE, generator=seeded())
        plain = integrate(lambda x, times: expert.velocity(context, x, times), noise, 10)
    assert torch.equal(
        sample_actions(expert, *inputs, FlowMatchingConfig(steps=10), seeded()), plain
    )


def test_chunks_of_a_batch_are_drawn_each_to_its_own(expert, inputs):
    wanted = torch.randn(3, HORIZON, SIZE, generator=torch.Generator().manual_seed(1))
    mask = torch.stack([soft_mask(HORIZON, d, c) for d, c in ((2, 6), (5, 12), (0, 0))])
    free = sample_actions(expert, *inputs, FlowMatchingConfig(steps=10), seeded())
    drawn = sample_actions(
        expert, *inputs, FlowMatchingConfig(steps=10), seeded(), Inpainting(wanted, mask)
    )
    for row, count in ((0, 2), (1, 5)):
        before = (free - wanted)[row, :count].abs().mean()
        assert (drawn - wanted)[row, :count].abs().mean() < 0.5 * before
    torch.testing.assert_close(drawn[2], free[2], atol=1e-5, rtol=1e-5)
    assert not drawn.requires_grad
    # The first row alone gives the same.
    noise = torch.randn(3, HORIZON, SIZE, generator=seeded())
    with torch.no_grad():
        context = expert.encode_context(*(part[:1] for part in inputs))
    alone = guided_integrate(
        lambda x, times: expert.velocity(context, x, times),
        noise[:1],
        10,
        Inpainting(wanted[:1], mask[:1]),
    )
    torch.testing.assert_close(drawn[:1], alone, atol=1e-4, rtol=1e-4)


def test_the_gradient_is_that_of_a_backward_pass(expert, inputs):
    """Of the expert's own velocity: the vector-Jacobian product is what autograd gives."""
    wanted = torch.randn(3, HORIZON, SIZE, generator=torch.Generator().manual_seed(1))
    weights = soft_mask(HORIZON, 4, 12).expand(3, -1)
    noise, steps = torch.randn(3, HORIZON, SIZE, generator=seeded()), 10
    with torch.no_grad():
        context = expert.encode_context(*inputs)

    def velocity(x, times):
        return expert.velocity(context, x, times)

    x = noise
    for step in range(steps):
        now = step / steps
        start = x.detach().requires_grad_()
        speed = velocity(start, torch.full((3,), now))
        final = start + (1 - now) * speed
        difference = ((wanted - final) * weights[:, :, None]).detach()
        (gradient,) = torch.autograd.grad(final, start, difference)
        x = x + (speed.detach() + guidance_weight(now, 5.0) * gradient) / steps
    for bound in (5.0, torch.tensor(5.0)):
        found = guided_integrate(velocity, noise, steps, Inpainting(wanted, weights, bound))
        torch.testing.assert_close(found, x, atol=1e-6, rtol=0)


# The policy

STATE = np.array([0.4, 0.0, 0.4, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.08])


@pytest.fixture(scope="module")
def policy(checkpoint):
    return ActionModel.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def scene(policy):
    generator = np.random.default_rng(0)
    images = {
        name: generator.integers(0, 256, (96, 96, 3), dtype=np.uint8) for name in ("front", "wrist")
    }
    return images, STATE, np.zeros(policy.features.latent_shape, dtype=np.float32)


def test_a_policys_chunk_begins_with_the_committed_steps_exactly(policy, scene):
    generator = np.random.default_rng(1)
    actions = generator.uniform(-0.009, 0.009, (9, SIZE))
    actions[:, 6] = 1.0
    before = CommittedActions(actions, 5)
    drawn = policy.action_chunk(*scene, seed=0, before=before)
    assert drawn.shape == (HORIZON, SIZE) and drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn[:5], actions[:5].astype(np.float32))
    assert np.isfinite(drawn).all()
    again = policy.action_chunk(*scene, seed=0, before=before)
    np.testing.assert_array_equal(drawn, again)


def test_soft_steps_draw_the_steps_after_the_committed_ones(policy, scene):
    generator = np.random.default_rng(2)
    actions = generator.uniform(-0.009, 0.009, (HORIZON, SIZE))
    free = policy.action_chunk(*scene, seed=0)
    before = CommittedActions(actions, 0)
    drawn = policy.action_chunk(*scene, seed=0, before=before, max_guidance=5.0)
    near = np.s_[1:6, :6]
    assert np.abs(drawn - actions)[near].mean() < 0.7 * np.abs(free - actions)[near].mean()


def test_a_policy_that_is_given_nothing_to_go_on_from_does_as_before(policy, scene):
    free = policy.action_chunk(*scene, seed=3)
    nothing = CommittedActions(np.zeros((0, SIZE)), 0)
    drawn = policy.action_chunk(*scene, seed=3, before=nothing)
    np.testing.assert_allclose(drawn, free, atol=1e-5)


@pytest.mark.parametrize("shape", [(HORIZON + 1, SIZE), (4, 6)])
def test_a_chunk_of_another_model_is_refused(policy, scene, shape):
    wrong = CommittedActions(np.zeros(shape), 2)
    with pytest.raises(ValueError, match="this model has 16 of 7"):
        policy.action_chunk(*scene, before=wrong)
