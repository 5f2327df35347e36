"""`vla eval --jobs`: episodes in several processes, against the same ones in one."""

import json

import numpy as np
import pytest
import torch
from fake_workers import fake_python
from linear_policy import LinearConfig, LinearModel
from tiny_adapter import save_tiny_adapter

from vla.contract.embodiment import dimension_kinds
from vla.contract.normalization import measure
from vla.envs.metaworld.suite import MetaWorldSuite
from vla.policies.checkpoint import save_checkpoint
from vla.policies.robots import Robot
from vla_cli.parser import main

# A policy whose process dies in one episode.
DYING = """
import os

from linear_policy import LinearPart

act = LinearPart.act


def act_or_die(self, observation, instruction, response=None, seed=None):
    if seed == 4:
        os._exit(9)
    return act(self, observation, instruction, response, seed)


LinearPart.act = act_or_die
"""


def episodes(folder, *options: str) -> dict:
    """What a run writes."""
    path = folder / f"{len(list(folder.iterdir()))}.json"
    assert main(["eval", "--json", str(path), *options]) == 0
    return json.loads(path.read_text())


@pytest.mark.slow
def test_episodes_are_those_of_one_process_in_the_same_order(checkpoint, tmp_path):
    adapter = save_tiny_adapter(checkpoint, tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    options = [
        "--checkpoint", str(checkpoint), "--adapter", str(adapter), "--family", "open_drawer",
        "--seeds", "3:5", "--time-limit", "0.2", "--noise", "0", "20", "--execution",
        "ensemble:uniform", "--threads", "1",
    ]  # fmt: skip
    alone = episodes(tmp_path / "out", *options)
    both = episodes(tmp_path / "out", *options, "--jobs", "2")
    assert len(alone["episodes"]) == 4 and both == alone
    # As many beginnings as seeds, and other ends with noise.
    assert len({episode["digest"] for episode in alone["episodes"]}) == 2


@pytest.mark.slow
def test_benchmarks_of_other_environments_and_a_process_that_dies(tmp_path, monkeypatch, capsys):
    python = fake_python(tmp_path, "metaworld")
    suite = MetaWorldSuite(python=str(python))
    names = {"state": suite.contract.state_names, "action": suite.contract.action_names}
    kinds, values = dimension_kinds(suite.contract), np.random.default_rng(0).normal(size=(50, 4))
    stats = {vector: measure(values, own, kinds[vector]) for vector, own in names.items()}
    torch.manual_seed(0)
    weights = LinearModel(LinearConfig(), suite.contract).state_dict()
    checkpoint = tmp_path / "checkpoint"
    save_checkpoint(checkpoint, LinearConfig(), weights, [Robot(suite.contract, stats)], None)
    (tmp_path / "dying_policy.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("VLA_PLUGINS", "dying_policy")
    (tmp_path / "out").mkdir()
    options = [
        "--benchmark", "metaworld", "--set", f"python={python}", "steps=30", "--checkpoint",
        str(checkpoint), "--tasks", "reach", "--blackout", "--seeds",
    ]  # fmt: skip
    alone = episodes(tmp_path / "out", *options, "0:3")
    assert len(alone["episodes"]) == 3
    assert episodes(tmp_path / "out", *options, "0:3", "--jobs", "2") == alone
    assert main(["eval", *options, "3:6", "--jobs", "2"]) == 2
    assert "the process that ran episode reach 4 was killed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--jobs", "0"], "--jobs takes 1 to 256, got 0"),
        (["--jobs", "2", "--video", "a.mp4"], "leave --jobs or --video out"),
        (["--jobs", "2", "--questions", "3"], "--jobs is for episodes, not for --questions"),
        (["--jobs", "2", "--threads", "2"], "each job computes with one thread"),
        (["--threads", "-1"], "--threads takes 0 to 1024, got -1"),
    ],
)
def test_what_does_not_go_together_is_refused(options, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", *options]) == 2
    assert says in capsys.readouterr().err
