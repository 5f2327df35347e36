"""Data sets without images: written, read as samples without vision, and refused where in doubt."""

import json
import shutil

import numpy as np
import pytest
from lerobot_files import LENGTHS, write_v2, write_v3

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import LeRobotEpisodes, read_mapping
from vla.datasets.lerobot.episode_files import NO_IMAGES, episode_without_images
from vla.datasets.lerobot.writer import LeRobotWriter
from vla.datasets.sources import RobotData
from vla.training.source_registry import ROBOT_SOURCES
from vla_cli import main

PANDA, BRIDGE = (load_contract(contract_path(name)) for name in ("sim_panda", "widowx_bridge"))
GENERATOR = np.random.default_rng(0)


def states_of(length: int) -> np.ndarray:
    states = np.zeros((length, len(PANDA.state_names)), np.float32)
    states[:, 0], states[:, 3], states[:, 7] = 0.3 + 0.01 * np.arange(length), 1.0, 1.0
    return states


@pytest.fixture
def folder(tmp_path):
    with LeRobotWriter(tmp_path / "set", PANDA, NO_IMAGES) as writer:
        for length in (6, 9):
            actions = np.full((length, 7), 0.01, np.float32)
            texts = [f"move the gripper forward {length}"] * length
            place = writer.episode_folder()
            writer.add(episode_without_images(place, states_of(length), actions, texts))
    return tmp_path / "set"


def test_it_is_read_as_samples_without_vision(folder, capsys):
    source = ROBOT_SOURCES["lerobot"]
    data = source.open(RobotData(str(folder), "lerobot"), PANDA)
    assert len(data) == 15 and data.episode_ends.tolist() == [6, 15]
    samples = [data.sample(index, GENERATOR) for index in range(len(data))]
    assert all(sample.images == {} for sample in samples)
    assert np.array_equal([sample.state for sample in samples[6:]], states_of(9))
    assert samples[6].instruction == "move the gripper forward 9"
    assert not list(folder.rglob("*.mp4"))
    assert main(["data", "check", str(folder)]) == 0
    assert "samples without vision" in capsys.readouterr().out


def test_without_the_marker_its_images_are_missing(folder):
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    del info["without_images"]
    path.write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=r"has no feature observation\.images\.front"):
        LeRobotEpisodes(folder, None, PANDA)


@pytest.mark.parametrize(
    ("value", "says"),
    [(True, "without_images is True beside the images camera"), ("yes", "without_images is 'yes'")],
)
def test_a_marker_that_contradicts_the_set_is_refused(tmp_path, value, says):
    folder = write_v3(tmp_path / "set", images=True)
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"without_images": value}))
    (tmp_path / "mapping.yaml").write_text("cameras: {}\n")
    with pytest.raises(DatasetError, match=says):
        LeRobotEpisodes(folder, read_mapping(tmp_path / "mapping.yaml"), BRIDGE)


def test_a_mapping_may_say_that_nothing_is_seen(tmp_path):
    folder = write_v2(tmp_path / "set")
    shutil.rmtree(folder / "videos")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("cameras: {}\nimages: false\n")
    data = LeRobotEpisodes(folder, read_mapping(mapping), BRIDGE)
    assert len(data) == sum(LENGTHS) and data.sample(0, GENERATOR).images == {}
    mapping.write_text("cameras: {}\n")
    black = LeRobotEpisodes(folder, read_mapping(mapping), BRIDGE).sample(0, GENERATOR).images
    assert black and not any(image.any() for image in black.values())
    mapping.write_text("cameras: {view: camera}\nimages: false\n")
    with pytest.raises(DatasetError, match=r"'images: false' goes with 'cameras: \{\}'"):
        read_mapping(mapping)


def test_it_cannot_become_bags(folder, tmp_path, capsys):
    assert main(["data", "export", str(folder), str(tmp_path / "bags")]) == 2
    assert "has no images to put into bags" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("states", "texts", "says"),
    [
        (states_of(3), ["go"] * 2, "3 states, 3 actions and 2 instructions"),
        (np.full((3, 10), np.inf), ["go"] * 3, "not finite"),
        (states_of(0), [], "0 states"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused(tmp_path, states, texts, says):
    with pytest.raises(DatasetError, match=says):
        episode_without_images(tmp_path / "x", states, np.zeros((len(states), 7)), texts)
