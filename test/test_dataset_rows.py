"""Data sets' rows and instructions: found wherever they lie, and none without a sentence."""

import json
from dataclasses import replace

import numpy as np
import pytest
from foreign_datasets import BRIDGE, DATA, GENERATOR, MAPPING, panda
from lerobot_files import (
    LENGTHS,
    STATES,
    drop_column,
    grey_of,
    replace_column,
    write_v2,
    write_v3,
)

from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla_cli.parser import main


def test_sets_of_lerobots_own_converter_are_read():
    """It lists the first episode of a file under the file before; the index tells where it is."""
    data = panda("lerobot-v21-to-v30")
    assert len(data) == 216 and data.episode_ends[-2] == 188
    states = data.states()
    np.testing.assert_allclose(states[187:189, 0], [0.56, 0.3], rtol=1e-6)
    assert data.sample(188, GENERATOR).instruction == "pick the can"
    assert data.sample(21, GENERATOR).instruction == "open the drawer"
    assert data.sample(215, GENERATOR).images["wrist"].shape == (96, 96, 3)
    assert main(["data", "check", str(DATA / "lerobot-v21-to-v30/set")]) == 0


@pytest.mark.parametrize("images", [True, False])
def test_rows_are_found_in_whatever_file_they_lie(tmp_path, images):
    folder = write_v3(tmp_path / "set", images)
    (folder / "data/chunk-000/file-001.parquet").rename(folder / "data/chunk-000/file-007.parquet")
    data = LeRobotEpisodes(folder, MAPPING, BRIDGE)
    np.testing.assert_allclose(data.states(), np.concatenate(STATES))
    sample = data.sample(sum(LENGTHS) - 1, GENERATOR)
    assert abs(float(sample.images["front"].mean()) - grey_of(2, LENGTHS[2] - 1)) < 2


def test_the_instruction_of_a_frame_is_that_of_its_row(tmp_path):
    folder = write_v2(tmp_path / "set", images=True)
    path = folder / "data/chunk-000/episode_000001.parquet"
    replace_column(path, "task_index", [0] * 8 + [1] * 4)
    data = LeRobotEpisodes(folder, MAPPING, BRIDGE)
    first = LENGTHS[0]
    told = [data.sample(first + row, GENERATOR).instruction for row in (0, 7, 8, 11)]
    assert told == ["pick the can", "pick the can", "open the drawer", "open the drawer"]
    replace_column(path, "task_index", [5] * 12)
    with pytest.raises(DatasetError, match="episode 1: task 5 is not in the list of tasks"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_instruction_is_never_empty(tmp_path, text):
    folder = write_v2(tmp_path / "set", images=True)
    lines = [{"task_index": 0, "task": "pick the can"}, {"task_index": 1, "task": text}]
    (folder / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DatasetError, match="episode 1 has no instruction in frame 0"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)
    data = LeRobotEpisodes(folder, replace(MAPPING, drop_wordless=True), BRIDGE)
    assert len(data) == LENGTHS[0] + LENGTHS[2]
    assert data.sample(LENGTHS[0], GENERATOR).source.endswith("episode 2, frame 0")
    drop_column(folder / "data/chunk-000/episode_000001.parquet", "task_index")
    assert len(LeRobotEpisodes(folder, MAPPING, BRIDGE)) == sum(LENGTHS)
