"""What is kept of LeRobot data sets is what they hold, and is read again when they change."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from lerobot_files import LENGTHS, write_v2, write_v3

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.lerobot import kept_tracks
from vla.datasets.lerobot.dataset import LeRobotEpisodes, LeRobotMapping
from vla.datasets.lerobot.index import read_info

CONTRACT = load_contract(contract_path("widowx_bridge"))
MAPPING = LeRobotMapping(cameras={"front": "camera"})
WRITERS = pytest.mark.parametrize("write", [write_v2, write_v3])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@WRITERS
def test_episodes_are_those_of_the_list(tmp_path, write):
    folder = write(tmp_path / "set")
    found, listed = LeRobotEpisodes(folder, MAPPING, CONTRACT).info.episodes, read_info(folder)
    assert list(found) == listed.episodes and len(found) == len(LENGTHS)
    assert [found[number] for number in (0, 1, -1)] == [listed.episodes[n] for n in (0, 1, -1)]
    assert found[1:] == listed.episodes[1:]
    with pytest.raises(IndexError):
        found[len(LENGTHS)]


@WRITERS
def test_a_set_is_read_once_until_a_file_changes(tmp_path, write, monkeypatch):
    folder, reads = write(tmp_path / "set"), []
    monkeypatch.setattr(
        kept_tracks, "read_info", lambda path: reads.append(path) or read_info(path)
    )
    first, again = (LeRobotEpisodes(folder, MAPPING, CONTRACT) for _ in range(2))
    assert len(reads) == 1
    generator = np.random.default_rng(0)
    for index in (0, LENGTHS[0], sum(LENGTHS) - 1):
        one, two = first.sample(index, generator), again.sample(index, generator)
        assert one.source == two.source and np.array_equal(one.actions, two.actions)
        assert np.array_equal(one.images["front"], two.images["front"])
    copy = pickle.dumps(again)
    assert len(copy) < 20_000 and len(pickle.loads(copy)) == sum(LENGTHS)
    LeRobotEpisodes(folder, replace(MAPPING, relabel=True), CONTRACT)
    assert len(reads) == 2
    (data, *_) = sorted(folder.glob("data/*/*.parquet"))
    data.write_bytes(data.read_bytes())
    LeRobotEpisodes(folder, MAPPING, CONTRACT)
    assert len(reads) == 3
