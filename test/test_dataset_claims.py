"""What the description of a data set claims is bounded, and compared with its files."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from foreign_datasets import BRIDGE, GENERATOR, MAPPING, edit_info
from lerobot_files import (
    LENGTHS,
    write_v2,
    write_v3,
)

from vla.core.findings import PROBLEM
from vla.datasets.dataset_check import check_lerobot
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla.datasets.lerobot.meta import path_in, read_description
from vla.training.config import RobotData
from vla.training.sources import open_robot


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"fps": 0}, "fps is 0, not a rate"),
        ({"fps": 1e12}, "fps is 1000000000000.0, not a rate"),
        ({"fps": "fast"}, "fps is 'fast', not a rate"),
        ({"fps": True}, "fps is True"),
        ({"total_episodes": 500}, "total_episodes is 500, but the list of episodes has 3"),
        ({"total_frames": 9}, "total_frames is 9, but the list of episodes has 24"),
        ({"total_frames": -1}, "total_frames is -1, not a whole number"),
        ({"chunks_size": 0}, "chunks_size is 0, not a whole number from 1"),
        ({"features": []}, "features is no mapping"),
        ({"codebase_version": "v9.9"}, "is LeRobot v9.9"),
        ({"data_path": "/etc/{episode_index}"}, "leads out of the data set"),
        ({"data_path": "../{episode_index}"}, "leads out of the data set"),
        ({"data_path": "a/{episode_chunk}/../../../{episode_index}"}, "leads out"),
        ({"data_path": "{episode_index:0999999999d}"}, "a width of at most 99"),
        ({"data_path": "{episode_index.__class__}"}, "something else in braces"),
        ({"data_path": "{episode_index!r}"}, "something else in braces"),
        ({"data_path": "{nothing}"}, "names 'nothing', which is none of"),
        ({"data_path": None}, "data_path is None, not a path"),
    ],
)
def test_what_info_claims_is_bounded(tmp_path, values, says):
    folder = write_v2(tmp_path / "set", images=True)
    edit_info(folder, **values)
    with pytest.raises(DatasetError, match=says) as caught:
        LeRobotEpisodes(folder, MAPPING, BRIDGE)
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["info.json", "tasks.*", "*.parquet", "*.mp4"])
@pytest.mark.parametrize("write", [write_v2, write_v3])
def test_pipes_are_refused_and_not_waited_for(tmp_path, write, pattern):
    folder = write(tmp_path / "set")
    path = next(folder.rglob(pattern))
    path.unlink()
    os.mkfifo(path)
    (tmp_path / "map.yaml").write_text("cameras: {front: camera}")
    with pytest.raises(DatasetError, match=rf"{path.name}.* is a pipe|{path.name}|missing"):
        open_robot(RobotData(str(folder), "lerobot", str(tmp_path / "map.yaml")), BRIDGE)
    assert any(f.level == PROBLEM for f in check_lerobot(folder, BRIDGE, MAPPING))


@pytest.mark.parametrize("write", [write_v2, write_v3])
@pytest.mark.parametrize("pattern", ["data/**/*.parquet", "videos/**/*.mp4"])
def test_a_pipe_in_the_place_of_a_file_is_a_problem(tmp_path, write, pattern):
    folder = write(tmp_path / "set", fps=10)
    path = sorted(folder.glob(pattern))[0]
    path.unlink()
    os.mkfifo(path)
    assert any(f.level == PROBLEM for f in check_lerobot(folder, BRIDGE, MAPPING))


@pytest.mark.slow
def test_few_bytes_that_stand_for_very_many_values_are_refused(tmp_path):
    folder = write_v2(tmp_path / "set", images=True)
    path = folder / "data/chunk-000/episode_000001.parquet"
    table = pa.table({"episode_index": pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(120_000_000, np.int8)), pa.array([1]))})  # fmt: skip
    parquet.write_table(table, path, row_group_size=len(table))
    del table
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DatasetError, match=r"000001\.parquet claims 120000000 values"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)


def test_templates_give_what_they_say(tmp_path):
    names = {"episode_chunk": 2, "episode_index": 17, "video_key": "a.b"}
    path = path_in(tmp_path, "v/{episode_chunk:03d}/{video_key}/{episode_index:06d}.mp4", names)
    assert path == tmp_path / "v/002/a.b/000017.mp4"
    with pytest.raises(DatasetError, match="leads out"):
        path_in(tmp_path, "{video_key}/x", names | {"video_key": "/etc"})


@pytest.mark.parametrize("write", [write_v2, write_v3])
def test_shapes_and_columns_are_compared(tmp_path, write):
    folder = write(tmp_path / "set", images=True)
    features = read_description(folder).features
    edit_info(folder, features=features | {"action": {"dtype": "float32", "shape": [9]}})
    with pytest.raises(DatasetError, match=r"action has 7 columns, meta/info\.json says 9"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)
    edit_info(folder, features=features | {"action": {"dtype": "int64", "shape": [7]}})
    with pytest.raises(DatasetError, match=r"action is claimed to be int64, but the column holds"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)
    edit_info(folder, features=features | {"camera": {"dtype": "image", "shape": [48, 64, 3]}})
    data = LeRobotEpisodes(folder, MAPPING, BRIDGE)
    with pytest.raises(DatasetError, match=r"has 64 x 64 pixels, meta/info\.json says 64 x 48"):
        data.sample(0, GENERATOR)
    edit_info(folder, features=features | {"more": {"dtype": "float32", "shape": [1]}})
    assert len(LeRobotEpisodes(folder, MAPPING, BRIDGE)) == sum(LENGTHS)
