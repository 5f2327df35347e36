"""Frame shards and normalisation: what is written is read, what is wrong is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla.contract import ContractError
from vla.data.frames import DatasetError, read_dataset, read_shard, write_shard
from vla.data.normalization import (
    NormalizationError,
    measure,
    read_norm_stats,
    write_norm_stats,
)

NAMES = {"state": ("x", "y", "gripper")}


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


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (40, 3), elements=st.floats(-10, 10)))
def test_values_between_the_quantiles_come_back(values):
    stats = measure(values, NAMES["state"], smallest_span=0.02)
    inside = np.clip(values, stats.q01, stats.q99)
    normalized = stats.normalize(inside)
    assert normalized.dtype == np.float32 and np.abs(normalized).max() <= 1.0
    np.testing.assert_allclose(stats.denormalize(normalized), inside, atol=1e-4)


def test_quantiles_become_plus_and_minus_one_and_the_rest_is_cut():
    values = np.linspace(0.0, 100.0, 101)[:, None] * [1.0, 2.0, 0.01]
    stats = measure(values, NAMES["state"])
    np.testing.assert_allclose(stats.q01, [1.0, 2.0, 0.01])
    np.testing.assert_allclose(stats.normalize(np.array([1.0, 198.0, 0.5])), [-1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(stats.normalize(np.array([-9.0, 999.0, 0.5])), [-1, 1, 0], atol=1e-6)


def test_a_constant_dimension_becomes_zero_and_comes_back():
    stats = measure(np.full((10, 3), 0.3), NAMES["state"])
    np.testing.assert_array_equal(stats.normalize(np.array([0.3, 0.3, 7.0])), [0.0, 0.0, 0.0])
    np.testing.assert_allclose(stats.denormalize(np.array([0.7, -1.0, 0.0])), 0.3)


def test_smallest_span_keeps_noise_small():
    noise = np.random.default_rng(0).normal(0.0, 1e-4, (1000, 3))
    stats = measure(noise, NAMES["state"], smallest_span=0.04)
    np.testing.assert_allclose(stats.q99 - stats.q01, 0.04)
    assert np.abs(stats.normalize(noise)).max() < 0.03


def test_binary_dimensions_pass_and_are_decided_on_the_way_back():
    stats = measure(np.random.default_rng(0).uniform(0, 1, (50, 3)), NAMES["state"], ("gripper",))
    assert stats.normalize(np.array([[0.5, 0.5, 1.0]]))[0, 2] == 1.0
    assert [stats.denormalize(np.array([0, 0, v]))[2] for v in (-3, 0.49, 0.5, 2)] == [0, 0, 1, 1]


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.array([[0.0, np.nan, 0.0]])])
def test_statistics_of_nothing_or_nonsense_are_refused(values):
    with pytest.raises(NormalizationError, match="at least one value, all of them finite"):
        measure(values, NAMES["state"])


def test_statistics_files(tmp_path):
    path = tmp_path / "norm_stats.json"
    stats = {"state": measure(np.random.default_rng(0).normal(size=(50, 3)), NAMES["state"])}
    write_norm_stats(stats, path)
    again = read_norm_stats(path, NAMES)["state"]
    np.testing.assert_array_equal(again.q01, stats["state"].q01)
    assert again.names == NAMES["state"] and again.scaled.all()
    with pytest.raises(NormalizationError, match="no statistics for 'action'"):
        read_norm_stats(path, {"action": ("x",)})
    with pytest.raises(NormalizationError, match=r"'state' is for .* the contract has \['x'\]"):
        read_norm_stats(path, {"state": ("x",)})
    plain = json.loads(path.read_text())
    plain["state"]["q01"].pop()
    path.write_text(json.dumps(plain))
    with pytest.raises(NormalizationError, match="other dimensions"):
        read_norm_stats(path, NAMES)
    for text in ("{", '{"state": {}}', "[]"):
        path.write_text(text)
        with pytest.raises(NormalizationError, match="cannot be read"):
            read_norm_stats(path, NAMES)
    with pytest.raises(NormalizationError, match="cannot be read"):
        read_norm_stats(tmp_path / "none.json", NAMES)
