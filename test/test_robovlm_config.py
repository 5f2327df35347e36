"""Configurations of RoboVLMs that do not go together."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_checkpoint import save_tiny_checkpoint
from tiny_robovlm import STEP, batch_of, observation, tiny

from vla.policies.backbones.internvl import NANO
from vla.policies.config import CheckpointError, with_entries
from vla.policies.parts import ReasoningPart
from vla.policies.registry import policy_type
from vla.policies.robovlms.config import (
    HeadConfig,
    StructureConfig,
    positions_of,
    require_structure,
)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"structure": StructureConfig("sideways")},
            "structure.kind is 'sideways'; it must be one",
        ),
        ({"structure": StructureConfig("policy_head", "discrete")}, "discrete actions go with"),
        ({"structure": StructureConfig("one_step", window=4)}, "set structure.window to 1"),
        ({"structure": StructureConfig("interleaved")}, "set head.trunk to fc"),
        ({"structure": StructureConfig(token_place="last")}, "structure.token_place is 'last'"),
        (
            {"structure": StructureConfig(token_source="text", token_place="before_last")},
            "token_place before_last is about learned tokens, and there are none",
        ),
        (
            {
                "backbone": policy_type("robovlms").presets()["robovlm_kosmos2"].backbone,
                "structure": StructureConfig("interleaved", window=16),
                "head": HeadConfig("fc"),
            },
            "16 frames of 2 views take more than 2064 tokens, but the backbone has 2048 positions",
        ),
        (
            {
                "backbone": tiny("interleaved", "paligemma").backbone,
                "structure": StructureConfig("interleaved", window=128, latent=64),
                "head": HeadConfig("fc"),
            },
            "128 frames of 2 views take more than 12288 tokens, but the backbone has 8192",
        ),
        (
            {
                "backbone": with_entries(
                    NANO, {"architecture": {"text_config": {"max_position_embeddings": 100}}}, "it"
                ),
                "structure": StructureConfig("interleaved", window=2),
                "head": HeadConfig("fc"),
            },
            "2 frames of 2 views take more than 146 tokens, but the backbone has 100 positions",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(change, says):
    with pytest.raises(CheckpointError, match=says):
        require_structure(replace(tiny("policy_head"), **change), "config.json")


def test_a_head_of_another_horizon_is_named(contract, tmp_path):
    folder = save_tiny_checkpoint(tmp_path / "tiny", contract, config=tiny("policy_head"))
    text = (folder / "contract.yaml").read_text()
    assert "horizon: 16" in text
    (folder / "contract.yaml").write_text(text.replace("horizon: 16", "horizon: 9"))
    with pytest.raises(CheckpointError, match=r"head\.output\.\S+ has shape \[96.* need \[54"):
        ReasoningPart.from_pretrained(folder)


def test_a_window_that_its_words_make_too_long_is_named(part_of):
    """The images alone have room."""
    changed = {"architecture": {"text_config": {"max_position_embeddings": 60}}}
    config = tiny("interleaved")
    config = replace(config, backbone=with_entries(config.backbone, changed, "it"))
    require_structure(config, "config.json")
    part, words = part_of(config), "put the can that is red in the bowl"
    part.act(observation(0), words)
    part.act(observation(1, STEP), words)
    frames, says = [observation(n, n * STEP) for n in range(3)], "longer than the backbone's 60"
    with pytest.raises(CheckpointError, match=says):
        part.act(frames[2], words)
    with pytest.raises(CheckpointError, match=says):
        batch_of(part, frames, words)


def test_positions_that_a_configuration_leaves_out_are_those_of_its_language_model():
    assert positions_of(NANO) == 32768
