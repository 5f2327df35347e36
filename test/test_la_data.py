"""Language-action data sets: segments as episodes without images, and their twin with images."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bag_files import write_demonstration
from lerobot_files import write_v3

from vla.bags.episodes import BagEpisodes
from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.frames import EpisodeWords, Shard, write_shard
from vla.datasets.sources import RobotData
from vla.language_action.segments import (
    Segment,
    Segmentation,
    read_segmentation,
    write_segmentation,
)
from vla.training.source_registry import ROBOT_SOURCES
from vla_cli import main

PANDA, BRIDGE = (load_contract(contract_path(name)) for name in ("sim_panda", "widowx_bridge"))
GENERATOR = np.random.default_rng(0)


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Two bags and their segments."""
    folder = tmp_path_factory.mktemp("bags")
    for name in ("a", "b"):
        write_demonstration(folder / "bags" / name, PANDA, 4.0)
    assert main(["data", "segment", str(folder / "bags"), str(folder / "out"), "--rules"]) == 0
    return folder


def la(capsys, *options) -> tuple[int, str]:
    capsys.readouterr()
    status = main(["data", "la", *map(str, options)])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def opened(folder: Path):
    return ROBOT_SOURCES["lerobot"].open(RobotData(str(folder), "lerobot"), PANDA)


@pytest.mark.slow
def test_bags_become_both_data_sets(bags, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    status, printed = la(capsys, bags / "out", tmp_path / "la", "--json", figures)
    assert status == 0, printed
    source = BagEpisodes(bags / "bags", PANDA)
    segments = [
        (index, segment)
        for index, found in read_segmentation(bags / "out").episodes.items()
        for segment in found
    ]
    blind, seen = opened(tmp_path / "la"), opened(tmp_path / "la_images")
    assert blind.episode_ends.tolist() == seen.episode_ends.tolist()
    assert len(blind.episode_ends) == len(segments) >= 4
    assert blind.episode_tasks() == [segment.instruction for _, segment in segments]
    starts = [0, *source.episode_ends]
    times, row = source.timeline().times, 0
    for index, segment in segments:
        begin, end = starts[index], starts[index + 1]
        stamps = times[begin:end] - times[begin]
        for frame in begin + np.flatnonzero(
            (stamps > segment.start - 1e-3) & (stamps < segment.end - 1e-3)
        ):
            sample, told = seen.sample(row, GENERATOR), source.sample(int(frame), GENERATOR)
            assert blind.sample(row, GENERATOR).images == {}
            assert np.array_equal(blind.states()[row], told.state)
            assert np.array_equal(blind.actions()[row], told.actions[0])
            assert np.array_equal(sample.state, told.state)
            assert sample.images.keys() == told.images.keys()
            for name, image in told.images.items():
                assert np.abs(sample.images[name].astype(int) - image).max() <= 3
            row += 1
    assert row == len(blind)
    assert not list((tmp_path / "la").rglob("*.mp4"))
    values = json.loads(figures.read_text())
    assert values["source"] == {"episodes": 2, "frames": len(source),
                                "frames_per_episode": len(source) / 2}  # fmt: skip
    assert values["candidates"] == values["kept"]
    assert values["kept"]["frames"] == len(blind) and values["kept_share"] == 1
    assert values["growth"] == values["candidates_per_episode"] == len(segments) / 2
    assert "nobody has rated these segments: all of them are taken" in printed
    for name in ("la", "la_images"):
        kept = json.loads((tmp_path / name / "meta" / "language_action.json").read_text())
        cut_from = str(bags / "bags")
        digest = read_segmentation(bags / "out").digest
        assert kept == values | {"cut_from": cut_from, "segments": digest}


@pytest.mark.slow
def test_the_chart_shows_every_primitive_and_direction(bags, tmp_path, capsys):
    assert la(capsys, bags / "out", tmp_path / "la", "--no-twin")[0] == 0
    assert not (tmp_path / "la_images").exists()
    chart = ElementTree.parse(tmp_path / "la" / "meta" / "coverage.svg").getroot()
    texts = [element.text for element in chart.iter() if element.tag.endswith("text")]
    values = json.loads((tmp_path / "la" / "meta" / "language_action.json").read_text())
    for kind in ("primitives", "directions"):
        for name, (candidates, kept) in values[kind].items():
            assert texts[texts.index(name) + 1] == f"{kept} of {candidates}"
    # The tool moves by 0.1 m/s forward, 0.05 m/s to the right and 0.02 m/s up.
    assert values["directions"]["forward"] == [values["kept"]["episodes"]] * 2
    assert len(values["primitives"]) == 13 and values["primitives"]["grasp"] == [2, 2]


def rated(bags: Path, folder: Path, *qualities: float | None) -> Path:
    """The segments of the bags, with qualities of the first ones."""
    made = read_segmentation(bags / "out")
    first, *rest = made.episodes
    given = [*qualities, *[None] * (len(made.episodes[first]) - len(qualities))]
    found = [
        replace(segment, quality=quality)
        for segment, quality in zip(made.episodes[first], given, strict=True)
    ]
    episodes = {first: tuple(found)} | {index: made.episodes[index] for index in rest}
    folder.mkdir()
    write_segmentation(replace(made, episodes=episodes), folder / "segments.json")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("options", "more"), [((), 0), (("--unrated",), 1)])
def test_only_what_was_kept_is_written(bags, tmp_path, capsys, options, more):
    out = rated(bags, tmp_path / "out", 2.0, 1.5)
    total = sum(map(len, read_segmentation(out).episodes.values()))
    status, printed = la(capsys, out, tmp_path / "la", "--no-twin", *options)
    assert status == 0 and "nobody has rated" not in printed
    kept = 1 + more * (total - 2)
    values = json.loads((tmp_path / "la" / "meta" / "language_action.json").read_text())
    assert values["kept"]["episodes"] == kept and values["candidates"]["episodes"] == total
    assert f"{kept / total:.1%} of them kept" in printed


def test_nothing_is_written_where_nothing_is_kept(bags, tmp_path, capsys):
    out = rated(bags, tmp_path / "out", 1.0)
    status, printed = la(capsys, out, tmp_path / "la")
    assert status == 2 and "segments none is kept that has a frame; rate them" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_lerobot_data_set_is_read_as_it_was_cut(tmp_path, capsys):
    folder = write_v3(tmp_path / "set", images=True)
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("cameras: {}\nimages: false\n")
    options = ("--contract", "widowx_bridge", "--mapping", str(mapping))
    out = tmp_path / "out"
    assert main(["data", "segment", str(folder), str(out), "--rules", *options]) == 0
    status, printed = la(capsys, out, tmp_path / "la")
    assert status == 2 and "has no images for the twin; leave it out by --no-twin" in printed
    assert la(capsys, out, tmp_path / "la", "--no-twin")[0] == 0
    data = ROBOT_SOURCES["lerobot"].open(RobotData(str(tmp_path / "la"), "lerobot"), BRIDGE)
    assert len(data) and data.sample(0, GENERATOR).images == {}


def shard(folder: Path, stride: int) -> str:
    """One episode of a tool that moves to the left, every so many steps of 0.1 s."""
    frames = 24
    states = np.zeros((frames, len(PANDA.state_names)), np.float32)
    states[:, 0], states[:, 1] = 0.4, 0.02 * stride * np.arange(frames)
    states[:, 3] = states[:, 7] = 1.0
    states[:, 9] = 0.08
    actions = np.zeros((frames, PANDA.horizon, 7), np.float32)
    actions[..., 1], actions[..., 6] = 0.02, 1.0
    images = {c.name: np.full((frames, c.height, c.width, 3), 90, np.uint8) for c in PANDA.cameras}
    words = EpisodeWords("pick", "pick up the can", "pick up the red can .", {"red can": [0.5, 0]})
    numbers, times = np.zeros(frames, np.int32), 0.1 * stride * np.arange(frames)
    still = np.zeros(frames, np.float32)
    made = Shard(folder, images, states, actions, numbers, still, [""] * frames, [words], times)
    folder.mkdir()
    write_shard(folder / "shard-00000", made, PANDA)
    return str(folder)


@pytest.mark.parametrize("stride", [1, 3])
def test_shards_of_every_step_are_written_and_others_refused(tmp_path, capsys, stride):
    source, out = shard(tmp_path / "shards", stride), tmp_path / "out"
    assert main(["data", "segment", source, str(out), "--rules", "--contract", "sim_panda"]) == 0
    status, printed = la(capsys, out, tmp_path / "la")
    if stride == 3:
        assert status == 2 and "are 0.3 s apart, and a step of contract 'sim_panda'" in printed
        assert "frame_stride: 1" in printed and not (tmp_path / "la").exists()
        return
    assert status == 0, printed
    assert opened(tmp_path / "la").episode_tasks() == ["move the gripper left"]
    image = opened(tmp_path / "la_images").sample(0, GENERATOR).images["front"]
    assert np.abs(image.astype(int) - 90).max() <= 3


@pytest.mark.slow
def test_a_folder_that_is_there_is_kept(bags, tmp_path, capsys):
    for name in ("la", "la_images"):
        (tmp_path / name).mkdir()
        status, printed = la(capsys, bags / "out", tmp_path / "la")
        assert status == 2 and f"{name} exists already; choose another name" in printed
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).rmdir()


@pytest.fixture
def moved(bags, tmp_path):
    """A copy of the segments that name a copy of the bags."""
    shutil.copytree(bags / "bags", tmp_path / "bags")
    made = replace(read_segmentation(bags / "out"), source=str(tmp_path / "bags"))
    (tmp_path / "out").mkdir()
    write_segmentation(made, tmp_path / "out" / "segments.json")
    return tmp_path


@pytest.mark.slow
def test_a_source_that_is_gone_may_lie_elsewhere(moved, capsys):
    (moved / "bags").rename(moved / "elsewhere")
    status, printed = la(capsys, moved / "out", moved / "la", "--no-twin")
    assert status == 2 and "are gone: there is no" in printed and "--source" in printed
    options = ("--no-twin", "--source", moved / "elsewhere")
    assert la(capsys, moved / "out", moved / "la", *options)[0] == 0


@pytest.mark.slow
def test_a_source_that_has_changed_is_refused(moved, capsys):
    shutil.rmtree(moved / "bags" / "b")
    status, printed = la(capsys, moved / "out", moved / "la", "--no-twin")
    assert status == 2 and "has 1 episodes, and segments of episode 1" in printed
    write_demonstration(moved / "bags" / "b", PANDA, 4.2)
    status, printed = la(capsys, moved / "out", moved / "la", "--no-twin")
    assert status == 2 and "episode 1 of" in printed and "has changed since it was cut" in printed
    status = main(["data", "verify", str(moved / "out"), "--page", str(moved / "page.html")])
    assert status == 2 and "has changed since it was cut" in capsys.readouterr().err
    assert not (moved / "la").exists() and not (moved / "page.html").exists()


@pytest.mark.slow
def test_segments_that_are_longer_than_their_episode_are_refused(moved, capsys):
    far = Segment("move", 0.0, 6.0, "EMPTY", "move the gripper left")
    made = Segmentation(str(moved / "bags"), "someone", {1: 6.0}, {1: (far,)})
    write_segmentation(made, moved / "out" / "segments.json")
    status, printed = la(capsys, moved / "out", moved / "la")
    assert status == 2 and "lasts 3." in printed and "its segment 0 to 6.00 s" in printed
    near = [replace(far, start=start, end=start + 0.02) for start in (0.0, 0.52, 1.0)]
    made = replace(made, episodes={1: tuple(near)})
    write_segmentation(made, moved / "out" / "segments.json")
    status, printed = la(capsys, moved / "out", moved / "la", "--no-twin")
    assert status == 0 and "left out: 1 segments that have no frame" in printed


def test_without_segments_there_is_nothing_to_write(tmp_path, capsys, bags):
    status, printed = la(capsys, tmp_path, tmp_path / "la")
    assert status == 2 and "segments.json" in printed and printed.strip().count("\n") == 0
    made = Segmentation(str(bags / "bags"), "rules", {0: 1.0}, {0: ()})
    write_segmentation(made, tmp_path / "segments.json")
    status, printed = la(capsys, tmp_path, tmp_path / "la")
    assert status == 2 and "there is no segment of" in printed
