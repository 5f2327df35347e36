"""The RoboVLM that ships: its size, what it offers, and that it acts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla.envs.tabletop.suite import TableTop
from vla.evaluation.benchmark import evaluate
from vla.policies.checkpoint import open_checkpoint
from vla.policies.policy import Policy

FOLDER = Path(__file__).parents[1] / "checkpoints/nano_policy_head"


def test_it_is_small_and_says_what_it_is():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12e6
    checkpoint = open_checkpoint(FOLDER)
    assert checkpoint.config.structure.kind == "policy_head"
    features = checkpoint.features
    assert features.window == 2 and features.latent_shape is None
    assert not features.thinks and not features.answers


@pytest.mark.slow
def test_it_does_the_easy_tasks():
    policy = Policy.from_pretrained(FOLDER)
    results = evaluate(policy, TableTop(), ["open_drawer", "close_drawer"], range(3))
    assert [result.success for result in results] == [True] * 6
