"""Checkpoints of RoboVLMs' authors, converted, act as transformers' and torch's modules do."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from released_robovlms import HORIZON, SIDE, Run

from vla.policies.base import Observation
from vla.policies.checkpoint import open_checkpoint
from vla.policies.parts import ReasoningPart
from vla_cli.parser import main

INSTRUCTION = "pick up the red block"


def scenes(count: int) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(1)
    return [
        {
            name: generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            for name in ("front", "wrist")
        }
        for _ in range(count)
    ]


def acts_as(run: Run, folder: Path, units: tuple[float, float] = (1.0, 1.0)) -> None:
    """Whether the chunks of a converted run are those of its modules, from frame to frame."""
    part, frames, step = ReasoningPart.from_pretrained(folder), scenes(5), run.contract.time_step
    scale = 0.65 * np.array([units[0]] * 3 + [units[1]] * 3)
    for index, images in enumerate(frames):
        seen = Observation(images, np.zeros(len(run.contract.state_names)), step * index)
        given = part.act(seen, INSTRUCTION)
        wanted = run.chunk(frames[: index + 1][-run.window :], INSTRUCTION)
        np.testing.assert_allclose(given[:, :6] / scale, wanted[:, :6], atol=1e-5)
        np.testing.assert_array_equal(given[:, 6], wanted[:, 6])
    assert np.ptp(wanted[:, :6]) > 0.01 and given.shape == (HORIZON, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"trunk": "gpt", "latent": 1, "hand": False},
        {"trunk": "fc", "history": "pre", "latent": 2},
        {"trunk": "fc", "window": 1},
        {"resampler": True, "latent": 2},
        {"pooled": "vision", "latent": 2},
        {"pooled": "all", "trunk": "fc", "history": "pre"},
        {"kind": "paligemma", "latent": 2},
        {"kind": "paligemma", "trunk": "fc", "history": "pre", "hand": False},
    ],
    ids=lambda options: " ".join(map(str, options.values())) or "usual",
)
def test_a_converted_policy_acts_as_the_released_one(tmp_path, options, capsys):
    run, folder = Run(tmp_path, **options), tmp_path / "converted"
    assert main(run.words(folder, "--units", "0.02", "0.05")) == 0
    acts_as(run, folder, (0.02, 0.05))
    assert main(["info", "--checkpoint", str(folder), "--json"]) == 0


# How transformers named PaliGemma's weights when the authors used it.
OLD = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


@pytest.mark.parametrize("prefix", ["module.model.", "_forward_module.model."])
def test_names_are_read_as_any_tool_writes_them(tmp_path, prefix):
    run = Run(tmp_path, "paligemma", window=1)
    tensors = {}
    for name, value in run.tensors().items():
        for new, old in OLD:
            name = name.replace(f"backbone.{new}", f"backbone.{old}")
        tensors[name] = value
    assert "backbone.language_model.model.embed_tokens.weight" in tensors
    # What they store and nothing needs.
    tensors |= {
        "backbone.vision_tower.vision_model.embeddings.position_ids": torch.arange(16)[None],
        "backbone.language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "embed_arm_state.weight": torch.zeros(32, 6),
    }
    run.write(tensors, prefix)
    if prefix == "module.model.":
        torch.save({prefix + name: value for name, value in tensors.items()}, run.file)
    assert main(run.words(tmp_path / "converted")) == 0
    acts_as(run, tmp_path / "converted")


def test_published_choices_come_over(tmp_path, capsys):
    run = Run(tmp_path)
    assert main(run.words(tmp_path / "converted", "--dtype", "bfloat16")) == 0
    assert "written" in capsys.readouterr().out
    checkpoint = open_checkpoint(tmp_path / "converted")
    config, features = checkpoint.config, checkpoint.features
    structure = config.structure
    assert (structure.kind, structure.token_place) == ("policy_head", "before_last")
    assert not structure.both_ways and structure.history_step == run.contract.time_step
    assert config.cameras == ("wrist", "front") and features.window == 3
    assert (config.loss.arm, config.loss.gripper_weight) == ("huber", 0.01)
    assert checkpoint.stats["action"].kinds[-1] == "binary"
    np.testing.assert_allclose(checkpoint.stats["action"].q99[:6], 0.65)


def test_both_of_their_normalisations_are_one(tmp_path):
    run = Run(tmp_path)
    action = {"q01": [-0.1] * 6 + [0.0], "q99": [0.3] * 6 + [1.0], "mask": [True] * 6 + [False]}
    (tmp_path / "stats.json").write_text(json.dumps({"bridge_orig": {"action": action}}))
    assert main(run.words(tmp_path / "converted", "--stats", str(tmp_path / "stats.json"))) == 0
    stats = open_checkpoint(tmp_path / "converted").stats["action"]
    # Between the quantiles first, and then cut at 0.65 and stretched.
    values = np.linspace(-0.1, 0.3, 9)
    normalised = np.clip((2 * (values + 0.1) / 0.4 - 1) / 0.65, -1, 1)
    for value, wanted in zip(values, normalised, strict=True):
        given = stats.normalize(np.array([value] * 6 + [1.0]))
        np.testing.assert_allclose(given, [wanted] * 6 + [1.0], atol=1e-6)


@pytest.mark.slow
def test_action_tokens_are_the_rows_before_the_special_ones(tmp_path):
    run = Run(tmp_path, window=1)
    head = run.config["act_head"] | {"type": "DiscreteDecoder", "action_space": "discrete"}
    run.write_config(act_head=head | {"n_bin": 16})
    run.write({name: v for name, v in run.tensors().items() if name.startswith("backbone.")})
    assert main(run.words(tmp_path / "converted")) == 0
    part = ReasoningPart.from_pretrained(tmp_path / "converted")
    special = run.tokenizer.special_tokens_map
    count = sum(len(v) if isinstance(v, list) else 1 for v in special.values())
    assert part.model.tokens.base == run.tokenizer.vocab_size - count - 10
    assert part.config.action_tokens.rows == "reused"
    assert part.config.prompts.act == "What 4 step actions should the robot take to {instruction}?"
    seen = Observation(scenes(1)[0], np.zeros(10))
    assert part.act(seen, INSTRUCTION).shape == (HORIZON, 7)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("usual"))


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def without(name: str):
    return lambda tensors: {n: v for n, v in tensors.items() if n != name}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("act_head.rnn.weight_hh_l1"), "missing head.trunk.rnn.weight_hh_l1"),
        (without("action_token"), "missing action_token"),
        (
            without("backbone.text_model.model.layers.1.ffn.fc1.weight"),
            "do not fit backbone .*: missing text_model.model.layers.1.ffn.fc1.weight",
        ),
        (lambda t: t | {"act_head.extra": torch.zeros(2)}, "left over act_head.extra"),
        (lambda t: t | {"backbone.extra": torch.zeros(2)}, "left over extra"),
        (
            lambda t: t | {"act_head.rnn.bias_hh_l0": torch.zeros(4)},
            r"of another shape head.trunk.rnn.bias_hh_l0 \[4\], not \[64\]",
        ),
        (
            lambda t: t | {"backbone.text_model.model.layers.0.ffn.fc1.bias": torch.zeros(3)},
            r"of another shape text_model.model.layers.0.ffn.fc1.bias \[3\], not \[48\]",
        ),
        (
            lambda t: {n: v for n, v in t.items() if not n.startswith("act_head.")},
            "the weights have no act_head of type LSTMDecoder",
        ),
        (lambda t: {"action_token": t["action_token"]}, r"has no backbone\.\*"),
        (lambda t: t | {"epoch": 3}, "'model.epoch' is no tensor of RoboVLMs"),
        (lambda t: t | {"harm": Harm()}, "holds objects that are no tensors, whose code is not"),
    ],
)
def test_weights_that_do_not_fit_are_named(usual, tmp_path, monkeypatch, capsys, change, says):
    monkeypatch.chdir(tmp_path)
    usual.write(change(usual.tensors()))
    refused(usual, capsys, says)
    usual.write(usual.tensors())
    assert not Path("harmed").exists()


def refused(run: Run, capsys, says: str, *more: str) -> None:
    """Whether a conversion ends with one sentence, and leaves nothing behind."""
    before = sorted(run.folder.iterdir())
    capsys.readouterr()
    assert main(run.words(run.folder / "converted", *more)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vla")]
    assert re.search(says, line), line
    assert sorted(run.folder.iterdir()) == before


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (
            {"robovlm_name": "RoboFlamingo"},
            "robovlm_name is 'RoboFlamingo', which is not",
        ),
        ({"robovlm_name": None}, "missing entries: robovlm_name"),
        ({"act_head": None}, "has no act_head; give the configuration that was stored"),
        ({"use_mu_law": True}, "use_mu_law is True, which is not converted"),
        ({"tcp_rel": True}, "tcp_rel is True, which is not converted"),
        ({"window_size": "many"}, "window_size must be a whole number"),
        ({"fwd_pred_next_n": 9}, "chunks of 9 steps, but contract 'sim_panda' has 4"),
        ({"norm_action": False}, "give --stats"),
        ({"act_head": {"type": "LSTMDecoder", "history_type": "pre"}}, "set head.trunk to fc"),
        ({"act_head": {"history_type": "video"}}, "history_type is 'video', which is not"),
        (
            {"act_head": {"action_space": "down_sample", "token_source": "text"}},
            "token_source is 'text', which is not converted",
        ),
        ({"robovlm_name": "RoboPaligemma"}, "needs paligemma"),
    ],
)
def test_configurations_that_can_not_be_had_are_named(usual, capsys, entries, says):
    if isinstance(entries.get("act_head"), dict):
        entries = {"act_head": usual.config["act_head"] | entries["act_head"]}
    usual.write_config(**entries)
    refused(usual, capsys, says)
    usual.write_config()


def test_damaged_files_are_named(usual, capsys):
    run = usual
    whole = run.file.read_bytes()
    for content in (whole[: len(whole) // 2], b"PK", b""):
        run.file.write_bytes(content)
        refused(run, capsys, "last.pt cannot be read")
    (run.folder / "config.json").write_text("[1, 2]")
    refused(run, capsys, "config.json is no mapping")
    run.write_config()
    run.file.write_bytes(whole)
    refused(run, capsys, "unnorm-key|cannot read", "--stats", str(run.folder / "none"))


def test_a_disk_that_is_full_leaves_nothing(usual, capsys, monkeypatch):

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vla.policies.checkpoint.save_file", full)
    refused(usual, capsys, "No space left on device")
