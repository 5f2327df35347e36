"""Compiled LA4VLAs and RoboVLMs: equal to the plain ones, and nothing is compiled afterwards."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_la4vla
import tiny_robovlm
from tiny_checkpoint import save_tiny_checkpoint
from tracing import graphs

from vla.policies import padded_prompts
from vla.policies.base import Observation
from vla.policies.config import CheckpointError
from vla.policies.parts import ReasoningPart
from vla.policies.robovlms.config import MixtureConfig
from vla_cli.parser import main

INSTRUCTIONS = ["red block " * words for words in range(20)]


def plain_and_compiled(folder, config):
    """The policy as it is and compiled, and how many graphs that made."""
    save_tiny_checkpoint(folder, config=config, scale=1.5)
    plain, compiled = (
        ReasoningPart.from_pretrained(folder, compile=mode) for mode in ("none", "inductor")
    )
    assert [*plain.warm_up()] == []
    assert len([*compiled.warm_up()]) == graphs()
    return plain, compiled, graphs()


def assert_same(plain, compiled, seen: Observation, instruction: str, seed: int):
    chunks = [part.act(seen, instruction, seed=seed) for part in (plain, compiled)]
    np.testing.assert_allclose(chunks[1], chunks[0], atol=1e-5, rtol=0)
    return chunks[0]


@pytest.mark.slow
def test_la4vla_is_one_graph_for_each_length_of_prompts(traced, tmp_path, monkeypatch):
    monkeypatch.setattr(padded_prompts, "ROOM", (8, 40))
    plain, compiled, made = plain_and_compiled(tmp_path, tiny_la4vla.tiny())
    assert made == 2
    chunks = []
    for seed, instruction in enumerate(INSTRUCTIONS):
        seen = tiny_robovlm.observation(seed)
        chunks.append(assert_same(plain, compiled, seen, instruction, seed))
        hidden = [part.head_input() for part in (plain, compiled)]
        np.testing.assert_allclose(hidden[1], hidden[0], atol=1e-4, rtol=0)
    assert np.ptp(chunks, axis=0).max() > 1e-3
    # Without images, and longer than the longest prompt: as it is.
    assert_same(plain, compiled, Observation({}, seen.state), "pick the can", 1)
    assert_same(plain, compiled, seen, "red block " * 90, 1)
    assert graphs() == made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "trunk", "output"),
    [
        ("policy_head", "lstm", "regression"),
        ("policy_head", "gpt", "flow"),
        ("interleaved", "fc", "diffusion"),
    ],
)
def test_a_policy_head_is_one_graph_however_full_the_window(
    layout, trunk, output, traced, tmp_path
):
    config = tiny_robovlm.tiny(layout, trunk=trunk, output=output)
    plain, compiled, made = plain_and_compiled(tmp_path, config)
    assert made == 1
    chunks = []
    for instruction in INSTRUCTIONS[:6]:
        for step in range(config.structure.window + 2):
            seen = tiny_robovlm.observation(step, step * tiny_robovlm.STEP)
            chunks.append(assert_same(plain, compiled, seen, instruction, step))
    assert np.ptp(chunks, axis=0).max() > 1e-3
    assert graphs() == made


def test_what_can_not_be_compiled_says_why(tmp_path):
    mixture = replace(tiny_robovlm.tiny("one_step"), mixture=MixtureConfig(width=32, mlp=32))
    refused = {
        "action tokens are computed on a cache that grows": tiny_robovlm.tiny("discrete"),
        "a mixture's actions are computed on a cache that grows": mixture,
        "with mask attention_only the backbone reads masks": tiny_la4vla.tiny(
            mask="attention_only"
        ),
        "the passes of backbone 'paligemma' depend on what": tiny_la4vla.tiny("paligemma"),
    }
    for number, (why, config) in enumerate(refused.items()):
        folder = save_tiny_checkpoint(tmp_path / str(number), config=config)
        with pytest.raises(CheckpointError, match=why):
            ReasoningPart.from_pretrained(folder, compile="inductor")


@pytest.mark.slow
def test_eval_compiles_before_the_first_episode(traced, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(padded_prompts, "ROOM", (24,))
    folder = save_tiny_checkpoint(tmp_path / "la4vla", config=tiny_la4vla.tiny())
    options = ["--family", "pick", "--seeds", "0:1", "--time-limit", "0.2", "--threads", "1"]
    command = ["eval", "--checkpoint", str(folder), *options, "--json", str(tmp_path / "a.json")]
    assert main([*command, "--compile", "inductor"]) == 0
    (episode,) = json.loads((tmp_path / "a.json").read_text())["episodes"]
    assert not episode["error"]
    assert graphs() == 1 and "warming up: chunks of prompts of" in capsys.readouterr().err
    assert main([*command, "--compile", "manual"]) == 2
    assert "'manual' records CUDA graphs" in capsys.readouterr().err
