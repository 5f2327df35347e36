"""Policies that act in bfloat16: near those in float32, whatever their head, and never wider."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny_la4vla
import tiny_robovlm
import torch
from tiny_adapter import save_tiny_adapter
from tiny_checkpoint import save_tiny_checkpoint

from vla.control.committed import CommittedActions
from vla.policies.config import CheckpointError
from vla.policies.inference_dtype import inference_dtype
from vla.policies.instructvla.inference import ActionModel
from vla.policies.instructvla.presets import as_published, with_language_expert
from vla.policies.parts import ReasoningTurn
from vla.policies.policy import Policy
from vla.policies.registry import preset
from vla.policies.robovlms.config import MixtureConfig, PointingConfig


def dinov2():
    """The published encoder, mask and two-pass gate, on the tiny backbone."""
    config = with_language_expert(as_published(preset("test")))
    sizes = {"vision": "dinov2", "patch": 14, "image_size": 56, "vision_layers": 3, "keypoints": 0}
    return replace(config, expert=replace(config.expert, vision_mlp=64, **sizes))


POLICIES = {
    "instructvla": lambda: preset("test"),
    "instructvla dinov2": dinov2,
    "la4vla": tiny_la4vla.tiny,
    "la4vla flat": lambda: tiny_la4vla.tiny(head={"pool": "flatten"}),
    "robovlm fc": lambda: tiny_robovlm.tiny("one_step"),
    "robovlm lstm": lambda: tiny_robovlm.tiny("policy_head", pointing=PointingConfig(width=8)),
    "robovlm gpt": lambda: tiny_robovlm.tiny("policy_head", trunk="gpt"),
    "robovlm interleaved": lambda: tiny_robovlm.tiny("interleaved", use_state=True),
    "robovlm flow": lambda: tiny_robovlm.tiny("one_step", output="flow"),
    "robovlm diffusion": lambda: tiny_robovlm.tiny("one_step", output="diffusion"),
    "robovlm mixture": lambda: tiny_robovlm.tiny("one_step", mixture=MixtureConfig(24, 40)),
    "robovlm mixture flow": lambda: tiny_robovlm.tiny(
        "one_step", output="flow", mixture=MixtureConfig(24, 40)
    ),
}


def parts_of(policy: Policy):
    return [part for part in (policy.reasoning, policy.action) if part is not None]


def chunk_of(policy: Policy) -> np.ndarray:
    seen = tiny_robovlm.observation(0)
    policy.reset("pick the red block", seed=3)
    return policy.chunk(seen.images, seen.state)


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICIES)
def test_bfloat16_acts_almost_as_float32_does(name, tmp_path):
    folder = save_tiny_checkpoint(tmp_path, config=POLICIES[name]())
    exact, short = (Policy.from_pretrained(folder, dtype=d) for d in ("auto", "bfloat16"))
    for part in parts_of(exact):
        assert {value.dtype for value in part.module.parameters()} == {torch.float32}
    for wide, part in zip(parts_of(exact), parts_of(short), strict=True):
        assert {value.dtype for value in part.module.parameters()} == {torch.bfloat16}
        # What is computed from the configuration, such as frequencies, keeps its precision.
        for key, value in wide.module.named_buffers():
            assert torch.equal(value, part.module.get_buffer(key)), key
    expected, found = chunk_of(exact), chunk_of(short)
    assert found.dtype == np.float32
    stats = exact.reasoning._base.stats["action"]
    # Without the gripper, which is open or closed.
    difference = np.abs(stats.normalize(found) - stats.normalize(expected))[:, :6]
    # Equal would mean that nothing was computed in the other type. Not the greatest: random weights
    # of a diffusion may lead a value elsewhere.
    assert 0 < difference.mean() < 0.02


@pytest.mark.slow
def test_scores_of_action_tokens_in_bfloat16(tmp_path):
    folder = save_tiny_checkpoint(tmp_path, config=tiny_robovlm.tiny("discrete"))
    scores = []
    for dtype in ("float32", "bfloat16"):
        part = Policy.from_pretrained(folder, dtype=dtype).reasoning
        turn = ReasoningTurn(part, tiny_robovlm.observation(0), "pick the red block")
        rows, *kept = part._newest([part], part._windows([turn]))
        hidden = part.model.hidden_states(rows.ids, rows.mask, rows.prefix, *kept)
        scores.append(part.model.logits(hidden[:, -1]).detach().float())
        assert np.isfinite(part.act(tiny_robovlm.observation(0), "pick the red block")).all()
    spread = scores[0].std()
    assert 0 < (scores[0] - scores[1]).abs().mean() / spread < 0.05


def test_texts_in_bfloat16(checkpoint):
    part = Policy.from_pretrained(checkpoint, dtype="bfloat16").reasoning
    assert isinstance(part.think(tiny_robovlm.observation(0).images, "pick the red block"), str)
    text, latent = part.think_and_act(tiny_robovlm.observation(0), "pick the red block")
    assert isinstance(text, str) and latent.dtype == np.float32 and np.isfinite(latent).all()


def test_chunks_in_bfloat16_are_joined_to_those_before(checkpoint):
    model = ActionModel.from_pretrained(checkpoint, dtype="bfloat16")
    seen, latent = tiny_robovlm.observation(0), np.zeros((4, 32), np.float32)
    plain = model.action_chunk(seen.images, seen.state, latent, seed=1)
    before = CommittedActions(plain[3:], 2)
    joined = model.action_chunk(seen.images, seen.state, latent, seed=2, before=before)
    assert np.array_equal(joined[:2], plain[3:5])


def test_an_adapter_keeps_the_type(checkpoint, tmp_path):
    adapter = save_tiny_adapter(checkpoint, tmp_path)
    for part in parts_of(Policy.from_pretrained(checkpoint, adapter=adapter, dtype="bfloat16")):
        part.set_adapter(None)
        assert {value.dtype for value in part.module.parameters()} == {torch.bfloat16}


def test_names_of_types():
    assert inference_dtype("auto", "cpu") is inference_dtype("float32", "cuda") is torch.float32
    assert inference_dtype("bfloat16", "cpu") is torch.bfloat16
    with pytest.raises(CheckpointError, match="unknown dtype 'half'; known: auto"):
        inference_dtype("half", "cpu")


@pytest.mark.parametrize("fast, chosen", [(True, torch.bfloat16), (False, torch.float32)])
def test_automatic_type_on_a_gpu(monkeypatch, fast, chosen):
    # What torch says of a GPU that is not here.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
    assert inference_dtype("auto", "cuda:1") is chosen


def test_nodes_name_the_types_without_loading_torch():
    code = "import sys, vla.policies.inference_dtype; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
