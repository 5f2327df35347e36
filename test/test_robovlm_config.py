"""Configurations of RoboVLMs that do not go together."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_robovlm import tiny

from vla.policies.config import CheckpointError
from vla.policies.registry import policy_type
from vla.policies.robovlms.config import HeadConfig, StructureConfig, require_structure


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
    ],
)
def test_what_does_not_go_together_is_refused(change, says):
    with pytest.raises(CheckpointError, match=says):
        require_structure(replace(tiny("policy_head"), **change), "config.json")
