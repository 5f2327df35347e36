"""Noise on a policy's images: the same for all policies, in every way of execution."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest
import yaml
from following_policies import CONTRACT

from vla.envs.tabletop.suite import TableTop
from vla.evaluation import comparison_run
from vla.evaluation.benchmark import evaluate, summarize, table
from vla.evaluation.grid import Evaluation, cells_of, read_grid
from vla.evaluation.image_noise import with_noise
from vla.policies.config import CheckpointError
from vla_cli.parser import main

SHORT = TableTop(time_limit=0.5)


class Watching:
    """A policy that stays where it is and keeps what it is shown, by time."""

    contract, said, refused, checkpoint_id = CONTRACT, None, False, "watching"

    def __init__(self, window: int = 1):
        self.window, self.seen = window, {}

    def reset(self, instruction, seed=None, think=False):
        pass

    def chunk(self, images, state, time):
        self.observe(images, state, time)
        chunk = np.zeros((CONTRACT.horizon, 7))
        chunk[:, 6] = 1.0
        return chunk

    def observe(self, images, state, time):
        self.seen[round(time, 3)] = images

    def is_due(self, time):
        return True


def watched(
    noise: float = 0.0, window: int = 1, execution: str = "", seed: int = 3, blackout: bool = False
) -> dict:
    policy = Watching(window)
    (result,) = evaluate(
        policy, SHORT, ["pick"], range(seed, seed + 1), execution=execution, noise=noise,
        blackout=blackout,
    )  # fmt: skip
    assert result.noise == noise
    return policy.seen


def test_noise_has_its_strength_and_stays_within_an_image():
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = with_noise(grey, 20.0, (1, 2, 3))
    assert noisy.dtype == np.uint8
    assert noisy.mean() == pytest.approx(128, abs=0.3)
    assert noisy.std() == pytest.approx(20, abs=0.3)
    assert with_noise(0 * grey, 20.0, (1, 2, 3)).min() == 0
    np.testing.assert_array_equal(noisy, with_noise(grey, 20.0, (1, 2, 3)))
    assert (noisy != with_noise(grey, 20.0, (1, 2, 4))).mean() > 0.9


@pytest.mark.slow
def test_all_policies_see_the_same_noise():
    plain, chunks = watched(execution="chunk:3"), watched(20.0, execution="chunk:3")
    steps, shown = watched(20.0, execution="first"), watched(20.0, window=3, execution="chunk:3")
    assert plain.keys() == chunks.keys() and len(chunks) < len(steps) == len(shown)
    for moment, images in chunks.items():
        assert images.keys() == {"front", "wrist"}
        for name, image in images.items():
            np.testing.assert_array_equal(image, steps[moment][name])
            np.testing.assert_array_equal(image, shown[moment][name])
            assert 10 < np.abs(image.astype(float) - plain[moment][name]).mean() < 17
    for moment, images in shown.items():  # those between two chunks, too
        np.testing.assert_array_equal(images["front"], steps[moment]["front"])


@pytest.mark.slow
def test_noise_differs_between_moments_cameras_and_episodes_and_grows_with_its_strength():
    plain, weak, strong = (watched(noise) for noise in (0.0, 10.0, 20.0))

    def added(seen, moment, name):
        return seen[moment][name].astype(float) - plain[moment][name]

    first, second, *_ = sorted(plain)
    inside = (plain[first]["front"] > 80) & (plain[first]["front"] < 175)
    assert inside.mean() > 0.05
    doubled = 2 * added(weak, first, "front")[inside]
    assert np.abs(added(strong, first, "front")[inside] - doubled).max() <= 1.5, "rounding"
    noise = added(strong, first, "front")[inside]
    for moment, name in ((second, "front"), (first, "wrist")):
        other = added(strong, moment, name)[inside]
        assert abs(np.corrcoef(noise, other)[0, 1]) < 0.1
    assert (watched(20.0, seed=4)[first]["wrist"] != strong[first]["wrist"]).any()


@pytest.mark.slow
def test_a_sweep_is_reported_by_strength(tmp_path, checkpoint, capsys):
    file = tmp_path / "noise.json"
    given = ["eval", "--checkpoint", str(checkpoint), "--family", "pick", "--seeds", "2:4",
             "--time-limit", "0.5", "--json", str(file)]  # fmt: skip
    assert main([*given, "--noise", "0", "40", "12.5", "40"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["family", "noise", "episodes"]
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["pick", strength, "2"] for strength in ("0", "40", "12.5")
    ]
    assert "pick with noise 40 failed: 2 nothing grasped" in lines
    written = json.loads(file.read_text())
    assert [entry["noise"] for entry in written["summary"]] == [0.0, 40.0, 12.5]
    told = [(entry["noise"], entry["seed"]) for entry in written["episodes"]]
    assert told == [(noise, seed) for noise in (0.0, 40.0, 12.5) for seed in (2, 3)]
    assert len({entry["digest"] for entry in written["episodes"]}) == 2, "the scenes are the same"
    assert main(given) == 0
    assert "noise" not in capsys.readouterr().out.splitlines()[0]
    plain = json.loads(file.read_text())
    assert plain["episodes"] == written["episodes"][:2]


@pytest.mark.slow
def test_families_and_strengths_are_summed_up_apart():
    results = [
        result
        for noise in (0.0, 30.0)
        for result in evaluate(Watching(), SHORT, ["pick", "open_drawer"], range(1), noise=noise)
    ]
    summaries = summarize(results)
    assert [(entry.family, entry.noise) for entry in summaries] == [
        ("pick", 0.0), ("open_drawer", 0.0), ("pick", 30.0), ("open_drawer", 30.0)
    ]  # fmt: skip
    assert all(entry.episodes == 1 for entry in summaries)
    assert len(table(summaries).splitlines()) == 9


@pytest.mark.parametrize("noise", [["-1"], ["0", "256"], ["nan"], ["inf"]])
def test_noise_that_cannot_be_is_refused(checkpoint, capsys, noise):
    assert main(["eval", "--checkpoint", str(checkpoint), "--noise", *noise]) == 2
    assert "--noise takes 0 to 255 grey levels" in capsys.readouterr().err


@pytest.mark.parametrize("disturbance", [["--noise", "5"], ["--blackout"]])
def test_questions_have_no_disturbance(checkpoint, capsys, disturbance):
    given = ["eval", "--checkpoint", str(checkpoint), "--questions", "2", *disturbance]
    assert main(given) == 2
    assert "are for episodes, not for --questions" in capsys.readouterr().err


@pytest.mark.slow
def test_a_blackout_leaves_nothing_to_be_seen_and_is_told(tmp_path, checkpoint, capsys):
    plain, black = (watched(window=3, blackout=blackout) for blackout in (False, True))
    assert plain.keys() == black.keys()
    assert not any(image.any() for images in black.values() for image in images.values())
    assert all(image.any() for images in plain.values() for image in images.values())
    file = tmp_path / "black.json"
    given = ["eval", "--checkpoint", str(checkpoint), "--family", "pick", "--seeds", "2:3",
             "--time-limit", "0.3", "--json", str(file), "--blackout"]  # fmt: skip
    assert main(given) == 0
    assert json.loads(file.read_text())["settings"]["blackout"] is True
    assert main([*given, "--noise", "5"]) == 2
    assert "black images have no noise" in capsys.readouterr().err


# In grids


def test_an_evaluation_of_a_grid_may_have_noise(tmp_path, monkeypatch):
    train = tmp_path / "train.yaml"
    train.write_text(
        yaml.safe_dump(
            {"stage": "policy", "preset": "nano_one_step", "robot": [{"path": "somewhere"}],
             "batch_size": 4, "steps": 10}
        )
    )  # fmt: skip
    path = tmp_path / "grid.yaml"
    episodes = {"families": ["pick"], "episodes": 1, "settings": {"time_limit": 0.3}}
    grid = {"train": str(train), "evaluations": {"clean": episodes,
            "noisy": episodes | {"noise": 25}, "black": episodes | {"blackout": True}}}  # fmt: skip
    path.write_text(yaml.safe_dump(grid))
    read = read_grid(path)
    assert read.evaluations["noisy"].noise == 25 and Evaluation().noise == 0
    policies = {}
    for cell in cells_of(read, "grid"):
        policy = policies[cell.kind["evaluation"]] = Watching()
        monkeypatch.setattr(
            comparison_run.Policy, "from_pretrained", lambda *_, kept=policy, **__: kept
        )
        now = time.time()
        run = comparison_run.Run(
            read, [cell], tmp_path / "out", {}, "cpu", 1, np.inf, now, os.getppid()
        )
        comparison_run.cell_folder(run.output, cell).mkdir(parents=True)
        comparison_run.run_cell(run, cell, tmp_path)
    clean, noisy, black = (
        policies[name].seen[0.0]["front"] for name in ("clean", "noisy", "black")
    )
    assert not black.any()
    assert 10 < np.abs(noisy.astype(float) - clean).mean() < 22
    path.write_text(yaml.safe_dump(grid | {"evaluations": {"noisy": {"noise": 300}}}))
    with pytest.raises(CheckpointError, match=r"noise .*0 to 255"):
        read_grid(path)
