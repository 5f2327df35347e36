"""Frame shards: what is written is read, what is wrong is named."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from vla.contract.embodiment import ContractError
from vla.datasets.frames import DatasetError, read_dataset, read_shard, write_shard


def test_a_shard_reads_as_it_was_written(tmp_path, shards, contract):
    write_shard(tmp_path / "shard-00000", shards[0], contract)
    (again,) = read_dataset(tmp_path, contract)
    assert again.episodes == shards[0].episodes and again.held == shards[0].held
    for name, images in shards[0].images.items():
        np.testing.assert_array_equal(again.images[name], images)
        assert isinstance(again.images[name], np.memmap), "images stay on disk"
    for name in ("state", "action", "episode", "drawer_opening"):
        np.testing.assert_array_equal(getattr(again, name), getattr(shards[0], name))


def test_missing_datasets_and_unfinished_shards(tmp_path, dataset, contract):
    with pytest.raises(DatasetError, match="vla demonstrate --out"):
        read_dataset(tmp_path / "nowhere", contract)
    shutil.copytree(dataset / "shard-00000", tmp_path / "shard-00000.part")
    with pytest.raises(DatasetError, match="no shards in"):
        read_dataset(tmp_path, contract)


def damage_words(folder):
    (folder / "frames.json").write_text("{")


def damage_array(folder):
    (folder / "state.npy").write_bytes(b"not an array")


def remove_camera(folder):
    (folder / "image_wrist.npy").unlink()


@pytest.mark.parametrize("damage", [damage_words, damage_array, remove_camera])
def test_damaged_shards_are_named(tmp_path, dataset, contract, damage):
    folder = tmp_path / "shard-00000"
    shutil.copytree(dataset / "shard-00000", folder)
    damage(folder)
    with pytest.raises(DatasetError, match=r"shard-00000 is damaged .* delete it"):
        read_shard(folder, contract)


def test_arrays_of_different_lengths_are_refused(tmp_path, dataset, contract):
    folder = tmp_path / "shard-00000"
    shutil.copytree(dataset / "shard-00000", folder)
    np.save(folder / "action.npy", np.load(folder / "action.npy")[1:])
    with pytest.raises(DatasetError, match="different lengths"):
        read_shard(folder, contract)


def test_another_robots_dataset_is_refused(dataset, contract):
    with pytest.raises(ContractError, match=r"rate: ours 20\.0, the dataset's 10\.0"):
        read_dataset(dataset, replace(contract, rate=20.0))
