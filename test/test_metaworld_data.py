"""Demonstrations of MetaWorld's scripted policies, from a faked MetaWorld to training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from fake_workers import fake_python

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.frames import DatasetError, read_dataset
from vla.datasets.sources import RobotData
from vla.envs.base import SuiteError
from vla.envs.metaworld.demonstrations import MetaWorldDemonstrationConfig, make_shard
from vla.envs.metaworld.environment import turned
from vla.envs.metaworld.sources import METAWORLD
from vla.envs.tabletop.tasks import FIRST_TRAINING_SEED
from vla.policies.config import CheckpointError
from vla_cli.parser import main

CONTRACT = load_contract(contract_path("metaworld"))


def config(tmp_path, fault: str = "", **changes) -> MetaWorldDemonstrationConfig:
    python = fake_python(tmp_path, "metaworld", fault=fault)
    made = MetaWorldDemonstrationConfig(
        episodes=3, episodes_per_shard=2, tail_steps=4, python=str(python)
    )
    return replace(made, **changes)


def shard(tmp_path, task: str = "reach", number: int = 0, **changes):
    folder = tmp_path / "data" / f"shard-{task}-{number:03d}"
    failures = make_shard((task, number, str(folder), CONTRACT, config(tmp_path, **changes)))
    return failures, read_dataset(folder.parent, CONTRACT)[0]


def test_a_frame_has_the_actions_that_the_policy_went_on_to_take(tmp_path):
    failures, made = shard(tmp_path, frame_stride=1)
    assert failures == 0 and [words.family for words in made.episodes] == ["reach", "reach"]
    first = made.episode == 0
    states, chunks = made.state[first], made.action[first]
    # What a chunk begins with is the motion to the next state, to the tail's end and the last step.
    np.testing.assert_allclose(chunks[:-1, 0, :3], np.diff(states[:, :3], axis=0), atol=1e-6)
    for row in range(len(states)):
        known = min(CONTRACT.horizon, len(states) - row)
        np.testing.assert_array_equal(chunks[row, :known], chunks[row : row + known, 0])
        assert (chunks[row, known:, :3] == 0).all() and (chunks[row, known:, 3] == 1).all()
    shift = np.random.default_rng(FIRST_TRAINING_SEED).uniform(-0.1, 0.1, 3)
    goal = np.array([0.6, 0.0, 0.2]) + turned(shift)
    distances = np.linalg.norm(states[:, :3] - goal, axis=1)
    # The last action is not in the states: four are recorded after the one that succeeded.
    assert (distances[:-4] > 0.02).all() and (distances[-4:] < 0.02).all()
    np.testing.assert_allclose(np.diff(made.time[first]), 1 / 80, atol=1e-6)


def test_every_fifth_frame_is_kept_from_another_step_on_in_each_episode(tmp_path):
    _, made = shard(tmp_path)
    starts = [float(made.time[made.episode == number][0]) for number in range(2)]
    assert starts == [0.0, pytest.approx(1 / 80)], "the seeds are 1000000 and 1000001"
    np.testing.assert_allclose(np.diff(made.time[made.episode == 1]), 5 / 80, atol=1e-6)
    assert made.images["corner2"].shape[1:] == (96, 96, 3)


@pytest.mark.slow
def test_what_is_there_is_kept_and_what_is_missing_is_made(tmp_path, capsys):
    options = {"tasks": ["reach", "push"], "episodes": 3, "episodes_per_shard": 2}
    options["python"] = str(fake_python(tmp_path, "metaworld"))
    entry = RobotData(str(tmp_path / "data"), "metaworld", options=options)
    METAWORLD.make(entry, CONTRACT, 1)
    folders = sorted((tmp_path / "data").iterdir())
    assert [folder.name for folder in folders] == [
        "shard-push-000",
        "shard-push-001",
        "shard-reach-000",
        "shard-reach-001",
    ]
    data = METAWORLD.open(entry, CONTRACT)
    assert data.episode_tasks() == ["push"] * 3 + ["reach"] * 3
    sample = data.sample(len(data) - 1, np.random.default_rng(0))
    assert sample.instruction == "Reach a goal position" and sample.actions.shape == (16, 4)
    assert data.sample(0, np.random.default_rng(0), images=False).images == {}
    assert data.states().shape == data.actions().shape == (len(data), 4)
    assert data.timeline().ends[-1] == len(data)
    times = [(folder / "state.npy").stat().st_mtime_ns for folder in folders]
    for file in folders[1].iterdir():
        file.unlink()
    folders[1].rmdir()
    capsys.readouterr()
    METAWORLD.make(entry, CONTRACT, 1)
    assert "1 shards are missing" in capsys.readouterr().out
    again = [(folder / "state.npy").stat().st_mtime_ns for folder in folders]
    assert [a == b for a, b in zip(times, again, strict=True)] == [True, False, True, True]
    (found,) = METAWORLD.check(entry, CONTRACT)
    assert found.message.startswith("4 shards of demonstrations, ")
    METAWORLD.make(replace(entry, options=options | {"python": "/nowhere"}), CONTRACT)


@pytest.mark.slow
def test_a_policy_that_fails_and_a_metaworld_that_dies_are_named(tmp_path):
    with pytest.raises(DatasetError, match="failed in 3 of 3 episodes of stick-pull: leave the"):
        shard(tmp_path, "stick-pull")
    with pytest.raises(DatasetError, match=r"ended while .* for 'image'.*goes on from"):
        shard(tmp_path, fault="kill image")
    assert not (tmp_path / "data").exists()
    assert shard(tmp_path)[0] == 0


def test_what_is_asked_for_wrongly_is_named(tmp_path):
    entry = RobotData(str(tmp_path / "data"), "metaworld", options={"task": ["reach"]})
    with pytest.raises(CheckpointError, match="options: unknown entries: task; known: tasks, "):
        METAWORLD.make(entry, CONTRACT)
    with pytest.raises(SuiteError, match="unknown family 'reachh'"):
        METAWORLD.make(replace(entry, options={"tasks": ["reachh"]}), CONTRACT)
    with pytest.raises(SuiteError, match="has no interpreter '/nowhere': run `make metaworld`"):
        METAWORLD.make(replace(entry, options={"python": "/nowhere"}), CONTRACT)


@pytest.mark.slow
def test_a_policy_is_trained_on_them_and_evaluated(tmp_path, capsys):
    python = str(fake_python(tmp_path, "metaworld"))
    options = {"tasks": ["reach"], "episodes": 2, "episodes_per_shard": 1, "python": python}
    values = {
        "stage": "policy",
        "preset": "nano_policy_head",
        "model": {"use_state": True, "structure": {"window": 2, "history_step": 0.1}},
        "backbone": "checkpoint",
        "backbone_source": "checkpoints/nano_vlm",
        "contract": "metaworld",
        "robot": [{"path": str(tmp_path / "data"), "kind": "metaworld", "options": options}],
        "output": str(tmp_path / "run"),
        "steps": 1,
        "batch_size": 2,
        "precision": "no",
    }
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump(values))
    assert main(["demonstrate", "--config", str(file), "--episodes", "1", "--workers", "1"]) == 0
    assert len(list((tmp_path / "data").iterdir())) == 1
    assert main(["train", "--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert (
        "the model reads the cameras front, wrist, and 'metaworld' has corner2: name those" in said
    )
    values["model"] |= {"cameras": ["corner2"]}
    file.write_text(yaml.safe_dump(values))
    assert main(["train", "--config", str(file)]) == 0
    assert len(list((tmp_path / "data").iterdir())) == 2
    command = ["eval", "--benchmark", "metaworld", "--checkpoint", str(tmp_path / "run/checkpoint")]
    command += ["--set", f"python={python}", "steps=40", "--tasks", "reach", "--seeds", "0:1"]
    assert main(command) == 0
    assert "reach                 1" in capsys.readouterr().out
