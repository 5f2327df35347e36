"""RLDS data sets are read as tfds reads them, and converted as their users' pipelines do."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from rlds_files import BRIDGE, FRACTAL, SETS, bridge, fractal, read_by_tfds

from vla.datasets.images import decode_image
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla.datasets.lerobot.origins import read_origins
from vla.datasets.rlds.conversion import convert_rlds
from vla.datasets.rlds.examples import read_example
from vla.datasets.rlds.features import IMAGE, TEXT, numbers_of, text_of
from vla.datasets.rlds.source import open_source
from vla.datasets.rlds.tfrecords import read_records
from vla_cli.parser import main

GENERATOR = np.random.default_rng(0)
# tfds decodes JPEG by a fast transform that is off by as much in these small, sharp images.
FAST_JPEG = 12


@pytest.mark.parametrize(
    ("folder", "split"), [(BRIDGE, "train"), (BRIDGE, "val"), (FRACTAL, "train")]
)
def test_every_feature_is_what_tfds_reads(folder, split):
    source, expected = open_source(folder, split), read_by_tfds(folder.parent.name, split)
    leaves = [*source.features.steps.values(), *source.features.episode.values()]
    read = {feature.key: [] for feature in leaves}
    for file in source.files:
        for record in read_records(file.path):
            for feature in leaves:
                values = read_example(record, {feature.key})[feature.key]
                if feature.kind == IMAGE:
                    read[feature.key] += [decode_image(value, "here") for value in values]
                elif feature.kind == TEXT:
                    read[feature.key] += [text_of(feature, value) for value in values]
                else:
                    read[feature.key] += list(numbers_of(feature, values))
    compared = 0
    for key, values in read.items():
        if key not in expected:
            assert split == "val" and "image" in key
            continue
        wanted = expected[key]
        if wanted.dtype.kind == "U":
            assert values == wanted.tolist()
        else:
            own = np.reshape(values, wanted.shape)
            jpeg = wanted.ndim == 4 and not key.endswith("image_1")
            np.testing.assert_allclose(own, wanted, rtol=0, atol=FAST_JPEG if jpeg else 0)
        compared += 1
    assert compared >= 11
    for key in [key for key in expected if key.startswith("accurate/")]:
        own = read[key.removeprefix("accurate/")][: len(expected[key])]
        np.testing.assert_array_equal(own, expected[key])


@pytest.mark.parametrize(
    ("storage", "workers"),
    [("image", 1), ("video", 1), pytest.param("image", 2, marks=pytest.mark.slow)],
)
def test_bridge_is_what_its_users_make_of_it(tmp_path, storage, workers):
    """The first and the last step go, the motion is that of the states, the gripper is binary."""
    contract, mapping = bridge()
    report = convert_rlds(
        open_source(BRIDGE), tmp_path / "set", contract, mapping, storage, workers
    )
    expected = read_by_tfds("mini_bridge", "train")
    texts, first = expected["steps/language_instruction"], 0
    kept, actions, worded = [], [], []
    # By episode: the rows that stay, and as many actions of the authors.
    for length, theirs in zip(expected["lengths"], by_episode(expected), strict=True):
        if texts[first]:
            worded.append(length - 2)
            kept += range(first + 1, first + length - 1)
            actions.append(theirs)
        first += length
    rows, actions = np.array(kept), np.concatenate(actions)
    assert (report.kept, report.wordless, report.refused) == (3, 1, [])

    data = LeRobotEpisodes(tmp_path / "set", None, contract)
    assert data.episode_ends.tolist() == np.cumsum(worded).tolist()
    assert data.info.fps == 5 and len(data) == report.frames == len(rows)
    np.testing.assert_allclose(data.actions()[:, :6], actions[:, :6], atol=1e-7)
    np.testing.assert_array_equal(data.actions()[:, 6], actions[:, 6])
    state = expected["steps/observation/state"][rows]
    np.testing.assert_array_equal(data.states()[:, [0, 1, 2, 3, 4, 5, 7]], state)
    assert not data.states()[:, 6].any()
    for index, row in enumerate(rows):
        sample = data.sample(index, GENERATOR)
        assert sample.instruction == texts[row]
        for camera, limit in (("front", FAST_JPEG), ("side", 0)):
            own = sample.images[camera].astype(int)
            wanted = expected[f"steps/observation/image_{int(camera == 'side')}"][row]
            # 4:2:0 halves the resolution of the colours, which change from pixel to pixel here.
            assert np.abs(own - wanted).max() <= limit + (0 if storage == "image" else 80)
            assert np.abs(own - wanted).mean() <= (3 if storage == "image" else 20)


def by_episode(expected: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The authors' actions: two fewer than an episode has steps."""
    return np.split(expected["action"], np.cumsum(expected["lengths"] - 2)[:-1])


def test_fractal_is_what_its_users_make_of_it(tmp_path):
    """Every step stays; the gripper keeps to what its motion says, as they read it."""
    contract, mapping = fractal()
    report = convert_rlds(open_source(FRACTAL), tmp_path / "set", contract, mapping, "image", 1)
    expected = read_by_tfds("mini_fractal", "train")
    assert (report.kept, report.lost, report.warnings) == (4, 0, [])
    data = LeRobotEpisodes(tmp_path / "set", None, contract)
    assert data.episode_ends.tolist() == np.cumsum(expected["lengths"]).tolist()
    np.testing.assert_array_equal(data.actions(), expected["action"])
    assert set(data.actions()[:, 6]) == {0.0, 1.0}
    pose, closed = (
        expected[f"steps/observation/{name}"]
        for name in ("base_pose_tool_reached", "gripper_closed")
    )
    np.testing.assert_array_equal(data.states(), np.hstack([pose, closed]))
    for index in range(len(data)):
        sample = data.sample(index, GENERATOR)
        words = expected["steps/observation/natural_language_instruction"][index]
        assert sample.instruction == words
        image = expected["accurate/steps/observation/image"][index]
        np.testing.assert_array_equal(sample.images["front"], image)
    origins = read_origins(tmp_path / "set")
    ids = [(origin.file_path, origin.episode_id) for origin in origins.values()]
    metadata = [expected[f"episode_metadata/{name}"] for name in ("file_path", "episode_id")]
    assert ids == list(zip(*(values.tolist() for values in metadata), strict=True))
    assert [origin.steps for origin in origins.values()] == expected["lengths"].tolist()


def test_a_higher_rate_is_thinned_out(tmp_path):
    """At twice the contract's rate every second step stays, with the motion of both."""
    contract, mapping = fractal()
    mapping = replace(mapping, rate=6.0)
    convert_rlds(open_source(FRACTAL), tmp_path / "set", contract, mapping, "image", 1)
    data = LeRobotEpisodes(tmp_path / "set", None, contract)
    expected = read_by_tfds("mini_fractal", "train")
    lengths = expected["lengths"]
    assert data.episode_ends.tolist() == np.cumsum(lengths // 2).tolist()
    moved = expected["steps/action/world_vector"][:2].sum(axis=0)
    np.testing.assert_allclose(data.actions()[0, :3], moved, rtol=1e-6)
    origin = read_origins(tmp_path / "set")[0]
    assert (origin.first_step, origin.step_every) == (0, 2)


@pytest.mark.slow
def test_the_shipped_files_convert_from_the_command_line(tmp_path, capsys):
    """And the result passes the check that training makes, with the contract that it carries."""
    for name, split, episodes, contract, kept in (
        ("bridge", "train", ":2", "widowx_bridge", 2),
        ("bridge", "val", ":", "widowx_bridge", 2),
        ("fractal", "train", "1:", "google_fractal", 3),
    ):
        out = tmp_path / f"{name}-{split}"
        command = ["data", "convert", "rlds", str(SETS / f"mini_{name}"), str(out)]
        command += ["--contract", contract, "--mapping", f"config/data/{name}_rlds.yaml"]
        command += ["--split", split, "--episodes", episodes, "--workers", "1", "--json"]
        assert main(command) == 0
        shown = capsys.readouterr()
        report = json.loads(shown.out)
        assert (report["kept"], report["split"]) == (kept, split)
        assert report == json.loads((out / "meta/conversion.json").read_text())
        assert report["lost"] == (1 if split == "val" else 0)
        assert ("is too short: 2 frames" in shown.err) == (split == "val")
        assert main(["data", "check", str(out)]) == 0
        assert main(command) == 2
        assert "exists already" in capsys.readouterr().err
