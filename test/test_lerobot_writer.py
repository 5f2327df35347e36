"""Writing LeRobot data sets: what is read back is what was written, whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as parquet
import pytest

from vla.contract.embodiment import ContractError, load_contract
from vla.contract.normalization import read_norm_stats
from vla.core.resources import contract_path
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla.datasets.lerobot.writer import LeRobotWriter
from vla.datasets.sample import Annotation
from vla.datasets.vla_it import write_vla_it

CONTRACT = load_contract(contract_path("sim_panda"))
CAMERAS = [camera.name for camera in CONTRACT.cameras]
LENGTHS = (9, 14, 6, 11)
ALL = tuple(range(len(LENGTHS)))
GENERATOR = np.random.default_rng(0)


def smooth_image(generator: np.random.Generator) -> np.ndarray:
    """Random, but without the fine colour that 4:2:0 video leaves out."""
    rows, columns = np.mgrid[0:96, 0:96] / 96
    low, wave = generator.uniform(40, 120, 3), generator.uniform(0.5, 2, 3)
    values = low + 60 * (1 + np.sin(2 * np.pi * (rows[..., None] * wave + columns[..., None])))
    return values.astype(np.uint8)


def episode(index: int) -> tuple[list[dict], np.ndarray, np.ndarray, list[str]]:
    generator = np.random.default_rng(index)
    length = LENGTHS[index]
    images = [{name: smooth_image(generator) for name in CAMERAS} for _ in range(length)]
    states = generator.normal(index, 0.1, (length, 10)).astype(np.float32)
    actions = generator.normal(0, 0.01, (length, 7)).astype(np.float32)
    actions[:, 6] = np.arange(length) % 2
    instructions = [f"task {index % 2}"] * (length - 3) + ["put it down"] * 3
    return images, states, actions, instructions


def write(folder, episodes=ALL, **options) -> None:
    with LeRobotWriter(folder, CONTRACT, **options) as writer:
        for index in episodes:
            images, *rest = episode(index)
            files = writer.begin()
            for frame in images:
                files.add(frame)
            writer.add(files.finish(*rest))


def assert_same(data: LeRobotEpisodes, exact: bool) -> None:
    places = [(number, row) for number, length in enumerate(LENGTHS) for row in range(length)]
    assert len(data) == len(places)
    known = [episode(number) for number in range(len(LENGTHS))]
    for index in np.random.default_rng(1).permutation(len(places)):
        number, row = places[index]
        images, states, actions, instructions = known[number]
        sample = data.sample(int(index), GENERATOR)
        assert sample.instruction == instructions[row]
        np.testing.assert_array_equal(sample.state, states[row])
        np.testing.assert_array_equal(sample.actions[0], actions[row])
        for name in CAMERAS:
            error = sample.images[name].astype(float) - images[row][name]
            assert np.abs(error).mean() < (1e-9 if exact else 4.0)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["video", "image"])
def test_every_frame_is_read_back(tmp_path, storage):
    write(tmp_path / "set", storage=storage)
    assert_same(LeRobotEpisodes(tmp_path / "set", None, CONTRACT), storage == "image")
    assert not list(tmp_path.glob(".*")), "nothing is left of the temporary folder"


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["video", "image"])
def test_files_end_at_their_size_and_episodes_are_not_split(tmp_path, storage):
    write(tmp_path / "set", storage=storage, data_size=1, video_size=1)
    files = {path.suffix: path for path in (tmp_path / "set").glob("*/**/file-003.*")}
    assert set(files) == ({".parquet", ".mp4"} if storage == "video" else {".parquet"})
    assert len(list((tmp_path / "set/data").glob("*/*"))) == len(LENGTHS)
    assert_same(LeRobotEpisodes(tmp_path / "set", None, CONTRACT), storage == "image")


def test_the_data_set_s_own_contract_and_annotations_are_used(tmp_path):
    write(tmp_path / "set", [0, 1])
    with pytest.raises(ContractError, match=r"rate: ours 5.0, that of .*set 10.0"):
        LeRobotEpisodes(tmp_path / "set", None, replace(CONTRACT, rate=5.0))
    annotation = Annotation(caption="a table")
    labels = {("set", "1"): (["move up"] * LENGTHS[1], annotation)}
    write_vla_it(tmp_path / "set/meta/annotations.json", labels)
    data = LeRobotEpisodes(tmp_path / "set", None, CONTRACT)
    assert data.episode_ends.tolist() == [LENGTHS[0], LENGTHS[0] + LENGTHS[1]]
    assert data.sample(LENGTHS[0] - 1, GENERATOR).annotation is None
    assert data.sample(LENGTHS[0], GENERATOR).annotation == annotation
    assert data.sample(LENGTHS[0], GENERATOR).motion == "move up"
    (tmp_path / "set/meta/contract.yaml").unlink()
    with pytest.raises(DatasetError, match="say by a mapping"):
        LeRobotEpisodes(tmp_path / "set", None, CONTRACT)


@pytest.mark.slow
def test_what_is_said_of_the_data_is_so(tmp_path):
    write(tmp_path / "set")
    meta = tmp_path / "set" / "meta"
    info = json.loads((meta / "info.json").read_text())
    assert info["total_frames"] == sum(LENGTHS) and info["total_episodes"] == len(LENGTHS)
    assert info["features"]["observation.state"]["names"] == list(CONTRACT.state_names)
    data = parquet.read_table(tmp_path / "set/data/chunk-000/file-000.parquet").to_pydict()
    assert data["index"] == list(range(sum(LENGTHS)))
    ends = np.cumsum(LENGTHS) - 1
    assert [i for i, done in enumerate(data["next.done"]) if done] == ends.tolist()
    tasks = parquet.read_table(meta / "tasks.parquet").to_pydict()
    said = [tasks["__index_level_0__"][index] for index in data["task_index"]]
    assert said == [text for index in range(len(LENGTHS)) for text in episode(index)[3]]
    rows = parquet.read_table(meta / "episodes/chunk-000/file-000.parquet").to_pylist()
    states = [episode(index)[1].astype(np.float64) for index in range(len(LENGTHS))]
    for row, own in zip(rows, states, strict=True):
        np.testing.assert_allclose(row["stats/observation.state/mean"], own.mean(axis=0))
        np.testing.assert_allclose(
            row["stats/observation.state/q90"], np.quantile(own, 0.9, axis=0)
        )
    assert rows[1]["tasks"] == ["task 1", "put it down"]
    stats = json.loads((meta / "stats.json").read_text())
    everything = np.concatenate(states)
    for name, value in (
        ("mean", everything.mean(axis=0)),
        ("std", everything.std(axis=0)),
        ("max", everything.max(axis=0)),
        ("q01", np.quantile(everything, 0.01, axis=0)),
    ):
        np.testing.assert_allclose(stats["observation.state"][name], value, rtol=1e-9)
    pixels = np.concatenate(
        [[frame["front"] for frame in episode(index)[0]] for index in range(len(LENGTHS))]
    )
    own = stats["observation.images.front"]
    np.testing.assert_allclose(np.ravel(own["mean"]), pixels.mean(axis=(0, 1, 2)) / 255, atol=0.005)
    np.testing.assert_allclose(np.ravel(own["std"]), pixels.std(axis=(0, 1, 2)) / 255, atol=0.005)
    assert load_contract(meta / "contract.yaml") == CONTRACT
    norm = read_norm_stats(
        meta / "norm_stats.json",
        {"state": CONTRACT.state_names, "action": CONTRACT.action_names},
    )
    np.testing.assert_allclose(norm["state"].q99, np.quantile(everything, 0.99, axis=0))
    assert norm["action"].kinds[-1] == "binary"


def test_a_failure_leaves_nothing_and_an_existing_folder_is_kept(tmp_path):
    with pytest.raises(RuntimeError), LeRobotWriter(tmp_path / "set", CONTRACT) as writer:
        images, *_ = episode(0)
        writer.begin().add(images[0])
        raise RuntimeError("interrupted")
    assert not list(tmp_path.iterdir())
    with pytest.raises(DatasetError, match="no episode"), LeRobotWriter(tmp_path / "set", CONTRACT):
        pass
    assert not list(tmp_path.iterdir())
    write(tmp_path / "set", [0])
    with pytest.raises(DatasetError, match="exists already"):
        LeRobotWriter(tmp_path / "set", CONTRACT)
    assert (tmp_path / "set/meta/info.json").is_file()


def test_two_processes_do_not_write_one_data_set_and_leftovers_are_taken_away(tmp_path):
    first = LeRobotWriter(tmp_path / "set", CONTRACT)
    with pytest.raises(DatasetError, match="another process is writing"):
        LeRobotWriter(tmp_path / "set", CONTRACT)
    first.abandon()
    (tmp_path / ".set.part/data/old").mkdir(parents=True)
    write(tmp_path / "set", [0])
    assert not (tmp_path / "set/data/old").exists()


def test_frames_that_do_not_fit_are_refused(tmp_path):
    images, states, actions, instructions = episode(0)
    with pytest.raises(DatasetError), LeRobotWriter(tmp_path / "set", CONTRACT) as writer:
        files = writer.begin()
        with pytest.raises(DatasetError, match=r"camera 'wrist' is missing"):
            files.add({"front": images[0]["front"]})
        with pytest.raises(DatasetError, match=r"is \(48, 96, 3\)"):
            files.add(dict.fromkeys(CAMERAS, images[0]["front"][::2]))
        files.add(images[0])
        files.finish(states, actions, instructions)
    odd = replace(CONTRACT, cameras=(replace(CONTRACT.cameras[0], width=97),))
    with (
        pytest.raises(DatasetError, match="sizes must be even"),
        LeRobotWriter(tmp_path / "odd", odd) as writer,
    ):
        writer.begin()
