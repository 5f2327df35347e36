"""Presets of the published size have the published numbers of parameters."""

from __future__ import annotations

import json

import pytest
import torch
from released_shapes import released_shapes
from tiny_checkpoint import CONTRACT_PATH

from vla.contract.embodiment import load_contract
from vla.policies.checkpoint import build_model
from vla.policies.instructvla.conversion_names import (
    language_names,
    split_groups,
    translate,
    unread_names,
)
from vla.policies.instructvla.presets import PRESETS, with_language_expert, with_state
from vla.policies.loaded import split_unread
from vla.policies.registry import preset
from vla_cli.parser import main

MILLION = 1_000_000
CONTRACT = load_contract(CONTRACT_PATH)


def counts(capsys, name: str) -> dict:
    assert main(["info", "--preset", name, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


PUBLISHED = {
    "action expert": 113.27,
    "output MLP": 43.11,
    "visual projector": 1.38,
    "latent projector": 1.77,
    "action encoder": 1.78,
    "state encoder": 0.60,
}


@pytest.mark.parametrize("name", ["base_state", "published"])
def test_parts_are_of_the_published_size(capsys, name):
    facts = counts(capsys, name)
    parts = facts["parameters"]
    for part, millions in PUBLISHED.items():
        if part == "state encoder" and name == "published":
            assert part not in parts
            continue
        assert parts[part] / MILLION == pytest.approx(millions, abs=0.005), part
    # Of the 24 blocks that are published, those are built that something reads.
    assert facts["of these"]["DINOv2 with FiLM, as published"] == 378_777_600
    blocks = {"base_state": 23, "published": 3}[name]
    each = (378_777_600 - parts["DINOv2 with FiLM"] + 1024 - 2 * 1024) / (24 - blocks)
    assert each == 12_598_272 + 3_147_776


@pytest.mark.slow
def test_stages_train_what_the_paper_says(capsys):
    first = counts(capsys, "base")
    assert first["of these"]["LoRA (per expert)"] == 110_100_480
    # Without the action queries.
    assert first["of these"]["stage 1 trainable, as published"] == 650_174_704
    assert first["of these"]["stage 1 trainable"] < 650_174_704
    assert first["parameters"]["action queries"] == 2 * 64 * 1536
    assert "scale head" not in first["parameters"]
    second = counts(capsys, "base_generalist")
    assert second["parameters"]["scale head"] == 230_018
    assert second["of these"]["LoRA (per expert)"] == 110_100_480
    assert second["of these"]["stage 2 LoRA"] == 220_200_960
    assert second["parameters"]["language model"] / MILLION == pytest.approx(1543.3, abs=0.1)
    assert second["parameters"]["vision encoder"] / MILLION == pytest.approx(413.3, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_counted_without_being_made(capsys, name):
    facts = counts(capsys, name)
    assert facts["total"] == sum(facts["parameters"].values())
    assert all(facts["parameters"].values())
    assert main(["info", "--preset", name]) == 0
    assert f"{facts['total']:,}" in capsys.readouterr().out


def test_the_small_preset_is_small(capsys):
    assert 100 * MILLION < counts(capsys, "small")["total"] < 150 * MILLION


def test_variants_differ_in_what_they_are_named_after():
    base, published = preset("base"), preset("published")
    assert (base.expert.vision_feature_block, base.expert.mask) == (22, "causal")
    assert (published.expert.vision_feature_block, published.expert.mask) == (2, "bias")
    assert published.expert.vision_zoom and not base.expert.vision_zoom
    assert published.backbone == base.backbone
    assert preset("base_two_cameras").expert_cameras == ("front", "wrist")
    assert preset("base_generalist").lora.experts == ("language", "action")
    assert preset("base_generalist").lora.gate == "two_pass"
    assert base.backbone.image_tokens == 256


# Names and shapes at full size


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [("default",), ("0", "1")])
@pytest.mark.parametrize("uses_state", [False, True])
def test_the_documented_layout_maps_at_full_size(adapters, uses_state):
    config = preset("published")
    config = with_state(config) if uses_state else config
    config = with_language_expert(config) if len(adapters) == 2 else config
    theirs, idle = split_groups(
        released_shapes(adapters, len(CONTRACT.state_names) if uses_state else 0)
    )
    language = language_names(theirs, config.num_queries)
    with torch.device("meta"):
        ours = build_model(config, CONTRACT).state_dict()
    found = translate(theirs, ours, language)
    assert {n: v.shape for n, v in found.made.items()} == {n: v.shape for n, v in ours.items()}
    assert not (idle or found.missing or found.odd)
    # Of 24 blocks with FiLM, the published model reads three.
    left_over, unread = split_unread(found.left_over, unread_names(config.expert))
    assert not left_over and len(unread) == 21 * (14 + 4) + 2
