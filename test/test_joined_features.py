"""Data sets whose state and action lie in several features, with grippers of either polarity."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from droid_files import FPS, TASKS, VIEWS, frames_of, grey_of, poses_of, write_droid
from lerobot_files import drop_column
from scipy.spatial.transform import Rotation

from vla.contract.embodiment import load_contract
from vla.core.findings import WARNING
from vla.core.resources import contract_path, shared_file
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla.datasets.lerobot.mapping import LeRobotMapping, read_mapping
from vla.datasets.lerobot.meta import DatasetInfo
from vla.datasets.lerobot.vectors import row_reader, states_of
from vla.datasets.plausible import check_polarity
from vla.language_action.segments import read_segmentation
from vla.training.config import RobotData, TrainConfig
from vla.training.sources import open_data
from vla_cli import main

DROID = load_contract(contract_path("droid"))
LA33K = shared_file("config/data/la33k.yaml")
OPTIONS = ("--contract", "droid", "--mapping", "config/data/la33k.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_droid(tmp_path_factory.mktemp("droid") / "set")


def opened(folder, contract=DROID, **changes) -> LeRobotEpisodes:
    return LeRobotEpisodes(folder, replace(read_mapping(LA33K), **changes), contract)


def mapping_file(tmp_path, **changes):
    """The shipped mapping with other entries."""
    path = tmp_path / "mapping.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(LA33K.read_text()) | changes))
    return path


def test_the_check_finds_nothing_wrong(folder, capsys):
    assert main(["data", "check", str(folder), *OPTIONS]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "ready: 0 problems, 0 warnings" in said and "15 frames a second, 15 Hz" in said


def test_training_reads_states_motions_grippers_and_views(folder):
    entry = RobotData(str(folder), "lerobot", "config/data/la33k.yaml")
    data = open_data(TrainConfig(contract="droid", robot=(entry,), validation_share=0.0), DROID)
    generator, row = np.random.default_rng(0), 0
    assert data.robot is not None
    frames = data.robot.datasets[0]
    for episode, task in enumerate(TASKS):
        poses, closed = poses_of(episode)
        turns = Rotation.from_euler("xyz", poses[:, 3:])
        for frame in range(0, frames_of(episode) - 1, 9):
            sample = frames.sample(row + frame, generator)
            expected = [*poses[frame], 1 - closed[frame]]
            np.testing.assert_allclose(sample.state, expected, atol=1e-6)
            moved = poses[frame + 1, :3] - poses[frame, :3]
            turned = (turns[frame + 1] * turns[frame].inv()).as_rotvec()
            np.testing.assert_allclose(sample.actions[0, :6], [*moved, *turned], atol=1e-5)
            assert np.linalg.norm(turned) < 0.02  # although roll jumps by a whole turn
            assert sample.instruction == task
            for camera, view in zip(DROID.cameras, VIEWS, strict=True):
                # Wide images are cropped, not squeezed, so the middle is the view's grey.
                middle = sample.images[camera.name][112, 112].mean()
                assert abs(middle - grey_of(view, frame)) <= 4
        row += frames_of(episode) - 1
    assert row == len(frames)
    told = frames.actions()[:, 6]
    assert (told[0], told[40]) == (1.0, 0.0)


def test_rules_cut_it(folder, tmp_path, capsys):
    assert main(["data", "segment", str(folder), str(tmp_path / "out"), "--rules", *OPTIONS]) == 0
    made = read_segmentation(tmp_path / "out")
    for episode in range(len(TASKS)):
        names = [segment.primitive for segment in made.episodes[episode]]
        assert names == ["move", "grasp", "lift", "transport", "lower", "place", "move"], names
    assert made.episodes[0][3].instruction == "carry the object left"
    assert made.durations[0] == pytest.approx((frames_of(0) - 2) / FPS, abs=1e-3)


@pytest.mark.parametrize(
    ("shut", "wide", "says"),
    [
        (1.0, 0.0, {"state_gripper": "closed"}),
        (0.0, 1.0, {"state_gripper": "open"}),
        (0.0, 255.0, {"state_gripper": "open", "state_gripper_range": (0.0, 255.0)}),
        (1.0, -1.0, {"state_gripper": "closed", "state_gripper_range": (-1.0, 1.0)}),
    ],
)
@pytest.mark.parametrize(
    ("layout", "expected"),
    [("droid", 0.4), ("google_fractal", 0.6), ("fr3", 0.4 * 0.08)],
)
def test_any_polarity_and_scale_becomes_the_contracts(shut, wide, says, layout, expected):
    """0.4 open, in a contract of openings, of shares that are closed, and of metres."""
    rows = pa.table({"pose": [[0.1] * 6] * 2, "grip": [shut, wide + (shut - wide) * 0.6]})
    features = {"pose": {"dtype": "float64", "shape": [6]}, "grip": {"dtype": "float64"}}
    contract = load_contract(contract_path(layout))
    columns = (*[0] * (len(contract.state_names) - 1), 6)
    mapping = LeRobotMapping({}, ("pose", "grip"), columns, **says)
    read = row_reader(rows, DatasetInfo(Path("set"), 15.0, features), "here")
    states = states_of(read, mapping, contract, "here")
    closed = 1.0 if layout == "google_fractal" else 0.0
    assert states[:, -1] == pytest.approx([closed, expected]) and states[1, 0] == np.float32(0.1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state": "observation.state.cartesian_position"},
         "cartesian_position has 6 columns, of which 6 are taken; the contract has 7: x, y"),
        ({"state": ["observation.state.cartesian_position", "observation.state.grip"]},
         "has no feature observation.state.grip; it has: "),
        ({"state_columns": [0, 1, 2, 3, 4, 5, 7]},
         "observation.state.cartesian_position + observation.state.gripper_position has 7 columns"),
        ({"action": ["action.cartesian_position", "task_category"]},
         "task_category is 'string', not numbers; correct the mapping"),
        ({"state_scale": [1.0]}, "1 factors for observation.state.cartesian_position + ob"),
        ({"gripper": "open"},
         "action.gripper_position opens where the fingers of the states close; write "
         "'gripper: closed' into the mapping, or 'state_gripper: open' where that is the wrong"),
        ({"state_gripper": "open"}, "or 'state_gripper: closed' where that is the wrong one"),
        ({"state_gripper_range": [0, 0.1]}, "as 'state_gripper_range' into the mapping"),
        ({"relabel": False}, "are where the tool shall be"),
        ({"gripper_range": [0, 255]}, "such as 'gripper_range: [0, 1]'"),
    ],
)  # fmt: skip
def test_a_mapping_that_does_not_fit_is_one_sentence(folder, tmp_path, capsys, changes, says):
    options = ("--contract", "droid", "--mapping", str(mapping_file(tmp_path, **changes)))
    out = tmp_path / "out"
    status = main(["data", "segment", str(folder), str(out), "--rules", *options])
    said = capsys.readouterr().err
    assert status == 2 and said.strip().count("\n") == 0 and not out.exists()
    assert says in said, said
    assert main(["data", "check", str(folder), *options]) == 1
    assert says.partition(";")[0] in capsys.readouterr().out


def test_a_joined_column_that_a_file_lacks_is_named(tmp_path):
    folder = write_droid(tmp_path / "set")
    drop_column(folder / "data/chunk-000/episode_000001.parquet", "action.gripper_position")
    with pytest.raises(DatasetError, match=r"episode_000001.*action\.gripper_position"):
        opened(folder)


def test_two_wrong_polarities_that_agree_are_doubted():
    """Nothing contradicts them but that arms mostly begin with an open gripper."""
    opening = np.tile(np.r_[np.ones(10), np.zeros(10)], 6)
    ends = np.arange(20, 121, 20)
    assert check_polarity(opening, ends, "s") == []
    (found,) = check_polarity(1 - opening, ends, "s")
    assert found.level == WARNING and "closed where 6 of 6 episodes begin" in found.message
    assert check_polarity(1 - opening[:80], ends[:4], "s") == []


def test_a_contract_without_fingers_has_no_polarity(folder):
    bare = replace(DROID, gripper_open_width=0.0)
    with pytest.raises(DatasetError, match="has state_gripper, and contract 'droid' no gripper"):
        opened(folder, bare)
