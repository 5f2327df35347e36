"""A mixture of experts against transformers' pi0, and what must not see the actions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_robovlm import batch_of, observation, tiny
from transformers import PI0Config, PI0Model

from vla.policies.backbones import KINDS, build_backbone
from vla.policies.config import BackboneConfig, CheckpointError
from vla.policies.robovlms.build import build_model
from vla.policies.robovlms.config import MixtureConfig, require_structure
from vla.policies.robovlms.mixture import ExpertDecoder, Prefix
from vla.policies.sequence import IMAGE

MIXTURE = MixtureConfig(24, 40)


def pi0() -> tuple[PI0Model, BackboneConfig]:
    """A tiny pi0, and the configuration of its vision-language model."""
    text = {
        "model_type": "gemma",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 320,
        "initializer_range": 0.3,
    }
    tiny_kind = KINDS["paligemma"].tiny()
    architecture = tiny_kind.architecture | {"text_config": text, "image_token_id": 1}
    architecture.pop("image_token_index")
    torch.manual_seed(0)
    config = PI0Config(
        vlm_config={"model_type": "paligemma", **architecture},
        dit_config=text | {"hidden_size": 24, "intermediate_size": 40},
    )
    return PI0Model(config).eval(), BackboneConfig(
        "paligemma", "", architecture, 32, 320, 28, image_tokens=16
    )


@torch.no_grad()
def test_it_is_pi0():
    oracle, config = pi0()
    backbone = build_backbone(config).eval()
    backbone.model.model.load_state_dict(oracle.vlm.state_dict())
    expert = ExpertDecoder(backbone, MIXTURE).eval()
    weights = oracle.dit.state_dict()
    weights.pop("embed_tokens.weight")
    expert.decoder.load_state_dict(weights)

    generator = torch.Generator().manual_seed(1)
    words = torch.randint(2, 320, (2, 6), generator=generator)
    ids = torch.cat([torch.full((2, 16), IMAGE), words], dim=1)
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0  # padding
    pixels = torch.randn(2, 3, 28, 28, generator=generator)
    embeddings = backbone.embed_text(ids.clamp(min=0))
    features = backbone.image_features(pixels)
    embeddings = embeddings.masked_scatter((ids == IMAGE)[..., None], features)
    state_and_actions = torch.randn(2, 5, 24, generator=generator)

    expected = oracle(
        action_embeds=state_and_actions,
        pixel_values=pixels[:, None],
        pixel_attention_mask=torch.ones(2, 1, dtype=torch.long),
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
    ).last_hidden_state

    cache = backbone.new_cache()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    backbone.run(embeddings, positions, mask, cache, prefix=mask)
    prefix = Prefix(cache.adapted, mask, positions.amax(-1) + 1)
    allowed = torch.ones(5, 5, dtype=torch.bool)
    allowed[0, 1:] = False  # the state does not see the actions
    for _ in range(2):  # the prefix stays as it was
        hidden = expert(prefix, state_and_actions, allowed)
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)
    assert prefix.cache.get_seq_length() == 22


ROTARY = sorted(KINDS.keys() - {"kosmos2", "idefics"})


@pytest.mark.parametrize("output", ["regression", "flow"])
@pytest.mark.parametrize("kind", ROTARY)
def test_it_learns_and_acts_on_every_rotary_backbone(part_of, kind, output):
    # Qwen2.5-VL's heads are as wide as the decoder allows.
    mixture = MixtureConfig(32, 40) if kind == "qwen2_5_vl" else MIXTURE
    part = part_of(tiny("one_step", kind, output, mixture=mixture))
    losses = part.model(batch_of(part, [observation(0)]), flow_samples=2)
    part.model.zero_grad()
    losses["action"].backward()
    for name in ("backbone.", "head.expert.", "head.action_out."):
        grads = [p.grad for n, p in part.model.named_parameters() if n.startswith(name)]
        assert any(g is not None and g.abs().sum() > 0 for g in grads), name
    part.model.zero_grad()
    chunk = part.act(observation(0), "pick the red block", seed=3)
    assert chunk.shape == (part.contract.horizon, 7)
    again = part.act(observation(0), "pick the red block", seed=3)
    torch.testing.assert_close(torch.tensor(chunk), torch.tensor(again))
    other = part.act(observation(1), "pick the red block", seed=3)
    assert abs(chunk - other).max() > 1e-6


@torch.no_grad()
def test_nothing_of_the_prompt_sees_the_actions(part_of):
    part = part_of(tiny("one_step", "internvl", "flow", mixture=MIXTURE))
    batch = batch_of(part, [observation(0)])
    tokens = part.model.encode_images(batch.images)
    prefix = part.model.read(batch.rows, tokens, batch.frames.state)
    before = [layer.keys.clone() for layer in prefix.cache.layers]
    chunk = torch.randn(1, part.contract.horizon, 7)
    first = part.model.head.velocity(prefix, chunk, torch.tensor([0.5]))
    for layer, keys in zip(prefix.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
    # Steps see each other both ways.
    changed = chunk.clone()
    changed[:, -1] += 1.0
    second = part.model.head.velocity(prefix, changed, torch.tensor([0.5]))
    assert (first - second)[:, 0].abs().max() > 1e-5


def test_a_backbone_without_rotary_positions_is_refused(contract):
    with pytest.raises(CheckpointError, match="needs rotary positions, which backbone 'kosmos2'"):
        build_model(tiny("one_step", "kosmos2", mixture=MIXTURE), contract)
    with pytest.raises(CheckpointError, match=r"mixture\.width must be 32"):
        build_model(tiny("one_step", "qwen2_5_vl", mixture=MIXTURE), contract)


@pytest.mark.parametrize("change", [{"kind": "policy_head"}, {"actions": "discrete"}])
def test_it_goes_with_one_step_and_continuous_actions(change):
    config = tiny("one_step", mixture=MIXTURE)
    config = replace(config, structure=replace(config.structure, **change))
    with pytest.raises(CheckpointError, match="a mixture of experts goes with"):
        require_structure(config, "config.json")
