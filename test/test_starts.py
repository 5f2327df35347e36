"""What runs start from: what they print, and what they refuse unless it is allowed."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from released_instructvla import QUERIES, Action, Language, tiny_preset, tiny_tokenizer
from released_instructvla import VISION as VISION_WIDTH
from tiny_checkpoint import save_tiny_checkpoint
from tiny_dinov2 import save_dinov2, save_timm, tiny_dinov2

from vla.policies.checkpoint import (
    build_model,
    open_checkpoint,
    read_weights,
    save_checkpoint,
    stored_shapes,
)
from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.instructvla.conversion import convert_eagle, convert_released
from vla.policies.instructvla.inference import ActionModel
from vla.policies.instructvla.presets import PRESETS
from vla.policies.instructvla.vision_source import VISION, read_vision
from vla.policies.loaded import Allowed, matches
from vla.policies.robots import Robot
from vla.training.config import TrainConfig
from vla.training.loop import Trainer, open_start

LORA = LoraConfig(("action",), rank=4, alpha=8.0)


@pytest.fixture
def policy(monkeypatch):
    """The configuration of a policy with DINOv2, by the name of its preset."""
    config = replace(tiny_preset(tiny_tokenizer().get_vocab_size()), preset="tiny")
    monkeypatch.setitem(PRESETS, "tiny", config)
    return config


@pytest.fixture
def eagle(tmp_path, policy, contract):
    """A checkpoint of its vision-language model alone, as vla convert eagle2 makes one."""
    torch.manual_seed(1)
    plain = replace(policy, lora=LoraConfig())
    weights = build_model(plain, contract).state_dict()
    reasoning = {n: value for n, value in weights.items() if n.startswith("reasoning.")}
    folder = tmp_path / "eagle"
    save_checkpoint(folder, plain, reasoning, [Robot(contract, {})], tiny_tokenizer())
    return str(folder)


def started(config: TrainConfig, contract) -> torch.nn.Module:
    return Trainer(config, contract, open_start(config)).plain_model


@pytest.mark.slow
def test_a_start_without_pretrained_vision_is_refused(tmp_path, policy, eagle, contract, capsys):
    config = TrainConfig(preset="tiny", lora=LORA, initialize_from=eagle)
    with pytest.raises(
        CheckpointError, match=r"would start at random: give vision_source, or name"
    ):
        started(config, contract)
    model = started(replace(config, allow_missing=("expert.vision",)), contract)
    assert not any(parameter.is_meta for parameter in model.parameters())

    source, _ = save_dinov2(tmp_path / "dinov2")
    capsys.readouterr()
    model = started(replace(config, vision_source=source), contract)
    state, given = model.state_dict(), read_vision(source, policy.expert).weights
    assert len(given) > 40 and all(torch.equal(state[n], value) for n, value in given.items())
    for name, value in read_weights(open_checkpoint(eagle)).items():
        place = name if name in state else ".base.".join(name.rsplit(".", 1))
        assert torch.equal(state[place], value.float()), name
    said = capsys.readouterr().out
    stored = len(stored_shapes(open_checkpoint(eagle)))
    assert f"initialize_from: {eagle}\n  loaded: {stored} tensors, " in said
    assert f"vision_source: {source}\n  loaded: {len(given)} tensors, " in said
    assert "stays random" in said and "    expert.layers: " in said
    assert re.search(r"    expert\.vision: \d+ tensors, .* parameters: expert\.vision\.films", said)
    assert "reasoning.backbone, LoRA" in said


def test_a_checkpoint_keeps_its_own_vision_unless_told(tmp_path, policy, contract, capsys):
    first = save_tiny_checkpoint(tmp_path / "first", config=policy)
    config = TrainConfig(preset="tiny", lora=policy.lora, initialize_from=str(first))
    stored = read_weights(open_checkpoint(first))
    own = [name for name in stored if name.startswith(f"{VISION}.")]
    kept = started(config, contract).state_dict()
    assert own and all(torch.equal(kept[name], stored[name].float()) for name in own)
    assert "stays random" not in capsys.readouterr().out
    source = save_timm(tmp_path / "timm.pth", tiny_dinov2())
    other = started(replace(config, vision_source=source), contract).state_dict()
    assert not any(torch.equal(other[name], stored[name].float()) for name in own)


@pytest.mark.slow
def test_what_a_start_lacks_or_leaves_over_is_refused_unless_allowed(tmp_path, policy, contract):
    first = save_tiny_checkpoint(tmp_path / "first", config=policy)
    config = TrainConfig(preset="tiny", lora=policy.lora, initialize_from=str(first))
    with_state = replace(config, model={"expert": {"use_state": True}})
    message = r"missing expert\.state_projector.* name them in allow_missing$"
    with pytest.raises(CheckpointError, match=message):
        started(with_state, contract)
    started(replace(with_state, allow_missing=("expert.state_projector",)), contract)

    second = save_tiny_checkpoint(
        tmp_path / "second", config=replace(policy, expert=replace(policy.expert, use_state=True))
    )
    without = replace(config, initialize_from=str(second), model={"expert": {"use_state": False}})
    message = r"left over expert\.state_projector.* name them in allow_unexpected$"
    with pytest.raises(CheckpointError, match=message):
        started(without, contract)
    started(replace(without, allow_unexpected=("*.state_projector",)), contract)


@pytest.mark.slow
def test_a_frozen_part_never_starts_at_random(tmp_path, policy, eagle, contract):
    both = replace(LORA, experts=("language", "action"), gate="two_pass")
    source, _ = save_dinov2(tmp_path / "dinov2")
    config = TrainConfig("instruct", "tiny", lora=both, initialize_from=eagle, vision_source=source)
    with pytest.raises(CheckpointError, match=r"missing expert\.action_embedding"):
        started(config, contract)
    first = save_tiny_checkpoint(tmp_path / "first", config=policy)
    # New experts are what the stage adds.
    started(replace(config, initialize_from=str(first), vision_source=""), contract)


@pytest.mark.slow
def test_missing_weights_of_a_backbone_are_drawn_as_transformers_draws_them(
    tmp_path, policy, contract
):
    weights = build_model(policy, contract).state_dict()
    gone = "reasoning.backbone.model.model.vision_tower.encoder.layers.1.mlp.fc1.weight"
    assert gone in weights
    kept = {name: value for name, value in weights.items() if name != gone}
    folder = tmp_path / "damaged"
    save_checkpoint(folder, policy, kept, [Robot(contract, {})], tiny_tokenizer())
    config = TrainConfig(preset="tiny", lora=policy.lora, initialize_from=str(folder))
    with pytest.raises(CheckpointError, match=f"missing {re.escape(gone)}"):
        started(config, contract)
    state = started(replace(config, allow_missing=(gone,)), contract).state_dict()
    assert 0.001 < state[gone].std() < 1.0
    bias = gone.replace("weight", "bias")
    assert torch.equal(state[bias], weights[bias].half().float()), "the rest of its layer is kept"


@pytest.mark.slow
def test_checkpoints_with_blocks_that_nothing_reads_still_act(tmp_path, policy, contract, capsys):
    """As they were written before those blocks were left out."""
    whole = save_tiny_checkpoint(tmp_path / "whole", config=policy)
    expected = read_weights(open_checkpoint(whole))
    more = dict(expected)
    for name, value in expected.items():
        for part in ("model.encoder.layer", "films"):
            if name.startswith(f"expert.vision.{part}.2."):
                more[name.replace(f"{part}.2.", f"{part}.3.")] = value + 1
    more["expert.vision.model.layernorm.weight"] = torch.ones(VISION_WIDTH)
    more["expert.vision.model.embeddings.mask_token"] = torch.ones(1, VISION_WIDTH)
    opened = open_checkpoint(whole)
    robots = [Robot(contract, opened.stats)]
    save_checkpoint(tmp_path / "older", policy, more, robots, tiny_tokenizer())
    loaded = ActionModel.from_pretrained(tmp_path / "older").module.state_dict()
    assert len(more) > len(expected)
    assert all(torch.equal(v, expected[f"expert.{n}"].float()) for n, v in loaded.items())
    started(
        TrainConfig(preset="tiny", lora=policy.lora, initialize_from=str(tmp_path / "older")),
        contract,
    )
    said = capsys.readouterr().out
    assert f"left over, since nothing reads them: {len(more) - len(expected)} tensors" in said
    deeper = {"expert": {"vision_feature_block": 3}}
    config = TrainConfig(preset="tiny", lora=policy.lora, initialize_from=str(whole), model=deeper)
    with pytest.raises(
        CheckpointError, match=r"expert\.vision\.model.* would start at random|miss"
    ):
        started(config, contract)


def test_vision_sources_are_for_dinov2(tmp_path, contract):
    source, _ = save_dinov2(tmp_path / "dinov2")
    for preset in ("test", "nano_policy_head"):
        with pytest.raises(CheckpointError, match="vision_source is for a policy whose action"):
            config = TrainConfig("policy" if "head" in preset else "action", preset, lora=LORA)
            started(replace(config, vision_source=source), contract)


def test_patterns_name_what_is_below_them():
    assert matches("expert.vision.films.0.gamma.weight", ["expert.vision"])
    assert not matches("expert.vision_projector.0.weight", ["expert.vision"])
    assert matches("expert.vision_projector.0.weight", ["*.vision_*"])
    assert not matches("expert.head.0.weight", [])


# Conversion


@pytest.mark.parametrize("kind", ["eagle", "instructvla"])
def test_converted_weights_take_vision_from_elsewhere(tmp_path, policy, contract, kind):
    torch.manual_seed(2)
    language = Language(tiny_tokenizer().get_vocab_size() + QUERIES, ("default",))
    groups = language.groups() | {"action_model": Action().group()}
    source = save_timm(tmp_path / "timm.safetensors", tiny_dinov2())
    given = read_vision(source, policy.expert).weights
    if kind == "eagle":
        plain = Language(tiny_tokenizer().get_vocab_size(), ()).groups()
        converted = convert_eagle(plain, policy, contract, source)
        assert {n for n in converted.weights if n.startswith("expert.")} == given.keys()
        assert all(name.startswith("reasoning.query_") for name in converted.random)
    else:
        theirs = convert_released(groups, policy, contract).weights
        converted = convert_released(groups, policy, contract, source)
        changed = {n for n, v in theirs.items() if not torch.equal(v, converted.weights[n])}
        assert changed == given.keys() and not converted.random
        # What they had there is left over, and that is known.
        known = converted.loaded[0].unread
        assert any(name.endswith("vision_model.pos_embed") for name in known)
    assert all(torch.equal(converted.weights[n], value) for n, value in given.items())
    assert converted.loaded[1].taken.keys() == given.keys()
    with_conv = replace(policy, expert=replace(policy.expert, vision="conv", patch=16))
    with pytest.raises(CheckpointError, match=r"expert\.vision is 'conv', which has no pretrained"):
        convert_released(groups, with_conv, contract, source)


def test_a_conversion_allows_what_it_is_told(tmp_path, policy, contract):
    groups = Language(tiny_tokenizer().get_vocab_size() + QUERIES, ("default",)).groups()
    groups["action_model"] = Action().group()
    groups["mlp1"]["9.bias"] = torch.zeros(2)
    del groups["action_model"]["cog_projector.0.bias"]
    message = r"missing action_model\.cog_projector\.0\.bias; left over mlp1\.9\.bias; if that is"
    with pytest.raises(CheckpointError, match=message):
        convert_released(groups, policy, contract)
    allowed = Allowed(("action_model.cog_projector",), ("mlp1.9.*",))
    converted = convert_released(groups, policy, contract, allowed=allowed)
    assert converted.random.keys() == {"expert.latent_projector.0.bias"}
    said = converted.loaded[0].text()
    assert said.endswith("  left over: 1 tensor, 2 parameters\n    mlp1: 1 tensor, 2 parameters: "
                         "mlp1.9.bias")  # fmt: skip
