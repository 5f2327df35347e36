"""LA4VLA's head: against the paper's, put together of torch's own attention; its flow; padding."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_la4vla import seeded, tiny
from torch import nn
from torch.nn import functional as F

from vla.policies.config import CheckpointError, from_dict
from vla.policies.heads.flow_matching import draw_noise, sample_times
from vla.policies.la4vla.config import CrossAttentionConfig, LA4VLAConfig
from vla.policies.la4vla.head import CrossAttentionHead
from vla.policies.la4vla.policy import POLICY
from vla_cli.parser import main

HORIZON = 5
# Two robots, of 7 and 3 actions.
USED = torch.arange(24) < torch.tensor([[7], [3], [7]])


class PublishedHead(nn.Module):
    """As the paper's code describes it: torch's attention, loops and formulas written out."""

    def __init__(self, head: CrossAttentionHead, width: int, heads: int, context: int):
        super().__init__()
        self.own, self.width = head, width
        self.attention = nn.ModuleList()
        for layer, seen in zip(head.layers, head.contexts, strict=True):
            made = nn.MultiheadAttention(
                width, heads, dropout=0.2, kdim=context, vdim=context, batch_first=True
            )
            own = layer.attention
            projections = own.query, seen.key, seen.value
            weights = [part.weight for part in projections]
            parts = {
                "in_proj_bias": torch.cat([part.bias for part in projections]),
                "out_proj.weight": own.output.weight,
                "out_proj.bias": own.output.bias,
            }
            if context == width:
                parts["in_proj_weight"] = torch.cat(weights)
            else:
                names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
                parts |= dict(zip(names, weights, strict=True))
            made.load_state_dict(parts)
            self.attention.append(made)

    def row(self, number: int) -> torch.Tensor:
        waves = torch.zeros(self.width)
        for index in range(self.width):
            angle = number / 10_000 ** (2 * (index // 2) / self.width)
            waves[index] = math.sin(angle) if index % 2 == 0 else math.cos(angle)
        return waves

    def forward(self, context, mask, state, chunk, times):
        own = self.own
        token = own.state_encoder[2](F.relu(own.state_encoder[0](state)))
        context = torch.cat([context, token[:, None]], 1)
        mask = torch.cat([mask, torch.ones(len(mask), 1)], 1)
        x = F.relu(own.action_in(chunk)) + torch.stack([self.row(i) for i in range(HORIZON)])
        x = own.action_encoder[2](F.relu(own.action_encoder[0](x)))
        time = torch.stack([self.row(math.floor(999 * t)) for t in times.tolist()])[:, None]
        for attention, layer in zip(self.attention, own.layers, strict=True):
            x = x + attention(layer.norm1(x), context, context, key_padding_mask=mask == 0)[0]
            x = x + layer.mlp[2](F.gelu(layer.mlp[0](layer.norm2(x) + time)))
        x = own.norm(x)
        if own.pool is not None:
            x = own.pool(x.reshape(len(x), -1))
        return own.output[2](F.relu(own.output[0](x))).reshape(len(x), HORIZON, 24)


def head_of(pool: str = "per_token", **changes) -> CrossAttentionHead:
    torch.manual_seed(0)
    head = CrossAttentionHead(tiny(head={"pool": pool}, **changes), HORIZON).eval()
    for weight in head.parameters():
        nn.init.normal_(weight, std=0.3)
    return head


def inputs(rows: int = 3, length: int = 6):
    """Hidden states, a mask with padding, and states."""
    hidden = torch.randn(rows, length, 32, generator=seeded())
    mask = (torch.arange(length) < torch.tensor([[length], [length - 2], [1]])[:rows]).long()
    return hidden, mask, torch.randn(rows, 24, generator=seeded(1))


@pytest.mark.parametrize("pool", ["per_token", "flatten"])
@torch.no_grad()
def test_it_is_the_published_head_of_torch_s_attention(pool):
    head = head_of(pool)
    published = PublishedHead(head, 16, 2, 32).eval()
    given = inputs()
    chunk, times = torch.randn(3, HORIZON, 24, generator=seeded(2)), torch.tensor([0.0, 0.37, 1.0])
    found = head.velocity(head.read(*given), chunk, times)
    torch.testing.assert_close(found, published(*given, chunk, times), atol=1e-5, rtol=1e-5)
    assert found.std() > 0.1


@pytest.mark.slow
@torch.no_grad()
def test_at_the_published_size_it_is_the_published_head():
    """Widths, heads and layers of InternVL3-1B; flatten for 5 steps, since 50 are 40M weights."""
    config = replace(POLICY.presets()["la4vla_1b"], head=CrossAttentionConfig(pool="flatten"))
    torch.manual_seed(0)
    head = CrossAttentionHead(config, HORIZON).eval()
    published = PublishedHead(head, 896, 8, 896).eval()
    hidden, mask = torch.randn(2, 9, 896), torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    given = hidden, mask, torch.randn(2, 24)
    chunk, times = torch.randn(2, HORIZON, 24), torch.tensor([0.2, 0.9])
    found = head.velocity(head.read(*given), chunk, times)
    torch.testing.assert_close(found, published(*given, chunk, times), atol=1e-5, rtol=1e-5)


def test_the_command_counts_the_published_head(capsys):
    assert main(["info", "--preset", "la4vla_1b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["of these"]["head flatten"] == 122_029_360
    assert found["language model"] == "first 14 layers"
    published = LA4VLAConfig().head
    assert found["parameters"]["head"] == found["of these"]["head per_token"]
    assert (published.dropout, published.layers, published.heads) == (0.2, 8, 8)


@torch.no_grad()
def test_padding_of_the_context_is_not_read():
    head = head_of()
    hidden, mask, state = inputs()
    chunk, times = torch.randn(3, HORIZON, 24), torch.rand(3)
    found = head.velocity(head.read(hidden, mask, state), chunk, times)
    garbage = torch.where(mask[..., None] == 1, hidden, 1e6)
    assert torch.equal(found, head.velocity(head.read(garbage, mask, state), chunk, times))
    other = torch.where(mask[..., None] == 0, hidden, hidden + 1)
    assert not torch.allclose(found, head.velocity(head.read(other, mask, state), chunk, times))


@torch.no_grad()
def test_draws_of_a_row_share_its_context():
    head = head_of()
    hidden, mask, state = inputs()
    chunk, times = torch.randn(6, HORIZON, 24), torch.rand(6)
    together = head.velocity(head.read(hidden, mask, state), chunk, times)
    for index in range(6):
        row = slice(index // 2, index // 2 + 1)
        context = head.read(hidden[row], mask[row], state[row])
        one = slice(index, index + 1)
        alone = head.velocity(context, chunk[one], times[one])
        torch.testing.assert_close(together[one], alone, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_head_of_steps_apart_takes_any_horizon_and_a_flat_one_its_own():
    short, long = head_of(), CrossAttentionHead(tiny(), 1020).eval()
    long.load_state_dict(short.state_dict())
    hidden, mask, state = inputs()
    chunk, times = torch.randn(3, 1020, 24), torch.rand(3)
    found = long.velocity(long.read(hidden, mask, state), chunk, times)
    first = short.velocity(short.read(hidden, mask, state), chunk[:, :HORIZON], times)
    torch.testing.assert_close(found[:, :HORIZON], first, atol=1e-5, rtol=1e-5)
    flat = CrossAttentionHead(tiny(head={"pool": "flatten"}), HORIZON + 1)
    with pytest.raises(RuntimeError, match="size mismatch"):
        flat.load_state_dict(head_of("flatten").state_dict())


@pytest.mark.parametrize("pool", ["per_token", "flatten"])
def test_the_loss_is_the_published_one_on_what_counts(pool):
    head = head_of(pool)
    context, actions = head.read(*inputs()), torch.randn(3, HORIZON, 24, generator=seeded(3))
    valid = torch.arange(HORIZON) < torch.tensor([[5], [2], [4]])
    found = head.losses(context, actions, valid, USED, 1, seeded(4))["action"]
    draws = seeded(4)
    noise = (2 * torch.rand(3, HORIZON, 24, generator=draws) - 1) * USED[:, None]
    seed = int(torch.randint(2**63 - 1, (1,), generator=draws))
    times = torch.from_numpy(np.random.default_rng(seed).beta(2, 2, 3)).float()
    times = times.clamp(0.02, 0.98)
    # Times are 1 - z, and Beta(2, 2) is the same from both ends.
    times, total, count = 1 - times, 0.0, 0
    for row in range(3):
        own = actions[row] * USED[row]
        point = (1 - times[row]) * noise[row] + times[row] * own
        one = head.read(*(x[row : row + 1] for x in inputs()))
        velocity = head.velocity(one, point[None], times[row : row + 1])[0]
        wrong = (velocity - (own - noise[row])) ** 2
        weights = valid[row][:, None] * USED[row]
        total, count = total + (wrong * weights).sum(), count + weights.sum()
    torch.testing.assert_close(found, total / count, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["per_token", "flatten"])
def test_padded_actions_change_neither_loss_nor_gradient_nor_chunk(pool):
    head = head_of(pool)
    actions, valid = torch.randn(3, HORIZON, 24), torch.ones(3, HORIZON, dtype=torch.bool)
    garbage = torch.where(USED[:, None], actions, 1e4 * torch.randn(3, HORIZON, 24))
    found = []
    for given in (actions, garbage):
        head.zero_grad()
        loss = head.losses(head.read(*inputs()), given, valid, USED, 2, seeded(5))["action"]
        loss.backward()
        found.append((loss.detach(), [weight.grad.clone() for weight in head.parameters()]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(map(torch.equal, found[0][1], found[1][1]))
    chunk = head.sample(head.read(*inputs()), USED, seeded())
    assert (chunk[~USED[:, None].expand_as(chunk)] == 0).all()
    # Output rows of dimensions that no robot here has stay as they are.
    gradient = found[0][1][-1].reshape(-1, 24)
    assert (gradient[:, 7:] == 0).all() and (gradient[:, :7] != 0).all()


@torch.no_grad()
def test_chunks_are_integrated_in_32_steps_from_uniform_noise():
    head = head_of()
    context, x = head.read(*inputs()), 2 * torch.rand(3, HORIZON, 24, generator=seeded()) - 1
    x = x * USED[:, None]
    for step in range(32):
        x = (x + head.velocity(context, x, torch.full((3,), step / 32)) / 32) * USED[:, None]
    torch.testing.assert_close(head.sample(context, USED, seeded()), x, atol=1e-5, rtol=1e-5)


def test_defaults_of_the_flow_are_the_published_ones():
    flow = LA4VLAConfig().flow
    assert (flow.steps, flow.sigma_min, flow.noise) == (32, 0.0, "uniform")
    times = sample_times(20_000, flow, seeded()).numpy()
    inner = times[(times > 0.02) & (times < 0.98)]
    assert stats.kstest(inner, stats.beta(2, 2).cdf).pvalue > 1e-3
    assert draw_noise((1000,), flow, seeded()).abs().max() <= 1


def test_what_does_not_fit_is_refused():
    wrong = from_dict(LA4VLAConfig, {"head": {"width": 30, "heads": 4}})
    with pytest.raises(CheckpointError, match=r"it: head\.width 30 is no multiple of head\.heads"):
        POLICY.check_config(wrong, "it")
    attends = replace(tiny("idefics"), mask="attention_only")
    with pytest.raises(CheckpointError, match="'idefics' attends to images by layers of their own"):
        POLICY.check_config(attends, "it")
    for entry in ({"mask": "zeros"}, {"head": {"pool": "mean"}}, {"bounds": "z-score"}):
        with pytest.raises(CheckpointError, match="must be one of"):
            from_dict(LA4VLAConfig, entry)
    with pytest.raises(CheckpointError, match="braces"):
        POLICY.check_config(from_dict(LA4VLAConfig, {"prompts": {"act": "{task}"}}), "it")
