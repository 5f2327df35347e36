"""Normalisation: every kind comes back, what is stored is read, what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla.contract.embodiment import dimension_kinds, load_contract
from vla.contract.normalization import (
    KINDS,
    NormalizationError,
    NormStats,
    clipped_share,
    measure,
    measure_all,
    read_norm_stats,
    write_norm_stats,
)
from vla.core.resources import contract_path
from vla.policies.config import CheckpointError
from vla.policies.robots import NORM_STATS, read_stats

NAMES = {"state": ("x", "y", "gripper")}
NAN = float("nan")
SHIPPED = ["nano", "nano_vlm"]


def of_kind(kind: str, values: np.ndarray) -> NormStats:
    """Statistics of one dimension of that kind."""
    return measure(values[:, None], ("value",), (kind,))


# There and back


@settings(max_examples=100)
@given(
    arrays(np.float64, (40, 3), elements=st.floats(-10, 10)),
    st.sampled_from(["absolute", "relative"]),
)
def test_values_between_the_quantiles_come_back(values, kind):
    stats = measure(values, NAMES["state"], (kind,) * 3, smallest_span=0.02)
    inside = np.clip(values, stats.q01, stats.q99)
    normalized = stats.normalize(inside)
    assert normalized.dtype == np.float32 and np.abs(normalized).max() <= 1.0
    np.testing.assert_allclose(stats.denormalize(normalized), inside, atol=1e-4)


@pytest.mark.slow
@settings(max_examples=200)
@given(arrays(np.float64, 20, elements=st.floats(-50, 50)), st.integers(-3, 3))
@example(np.array([np.pi, -np.pi, -1e-20, 3 * np.pi, np.nextafter(-np.pi, -4)]), 1)
def test_angles_come_back_up_to_whole_turns(angles, turns):
    stats = of_kind("angle", angles)
    normalized = stats.normalize(angles[:, None])
    assert np.abs(normalized).max() <= 1.0
    back = stats.denormalize(normalized)[:, 0]
    assert (back >= -np.pi).all() and (back < np.pi).all()
    np.testing.assert_allclose(np.exp(1j * back), np.exp(1j * angles), atol=1e-5)
    turned = stats.normalize(angles[:, None] + 2 * np.pi * turns)
    gap = np.abs(turned - normalized)
    assert np.minimum(gap, 2 - gap).max() < 1e-5, "whole turns change nothing"


def test_an_angle_passes_its_seam_where_a_model_goes_beyond():
    stats = of_kind("angle", np.linspace(-3.1, 3.1, 100))
    steps = stats.denormalize(np.linspace(0.9, 1.1, 50)[:, None])[:, 0]
    moved = np.angle(np.exp(1j * np.diff(steps)))
    np.testing.assert_allclose(moved, 0.2 / 49 * np.pi)
    assert steps[0] > 2.8 and steps[-1] < -2.8


@settings(max_examples=100)
@given(arrays(np.float64, 50, elements=st.floats(-0.3, 0.3)))
def test_a_step_over_the_seam_is_a_small_one(steps):
    """Differences of angles that go round, as they are and a whole turn off."""
    angles = 3.0 + np.cumsum(np.append(0.0, steps))
    differences = np.diff(np.angle(np.exp(1j * angles)))
    stats = of_kind("relative_angle", differences)
    assert np.abs([stats.q01, stats.q99]).max() <= np.abs(steps).max() + 1e-9
    inside = np.clip(steps, stats.q01, stats.q99)[:, None]
    for values in (inside, inside - 2 * np.pi):
        normalized = stats.normalize(values)
        np.testing.assert_allclose(stats.denormalize(normalized), inside, atol=1e-6)


@given(arrays(np.float64, 20, elements=st.sampled_from([0.0, 1.0])))
def test_binary_values_pass_and_are_decided_on_the_way_back(values):
    stats = of_kind("binary", values)
    np.testing.assert_array_equal(stats.normalize(values[:, None])[:, 0], values)
    np.testing.assert_array_equal(stats.denormalize(stats.normalize(values[:, None]))[:, 0], values)
    decided = [stats.denormalize(np.array([v]))[0] for v in (-3, 0.49, 0.5, 2)]
    assert decided == [0, 0, 1, 1]


@given(st.floats(-100, 100), st.sampled_from(["absolute", "relative"]), st.floats(-2, 2))
def test_a_constant_becomes_zero_and_comes_back(value, kind, output):
    stats = of_kind(kind, np.full(10, value))
    np.testing.assert_array_equal(stats.normalize(np.array([[value], [value + 7.0]])), 0.0)
    assert stats.denormalize(np.array([output]))[0] == value, "whatever the model says"


def test_quantiles_become_plus_and_minus_one_and_the_rest_is_cut():
    values = np.linspace(0.0, 100.0, 101)[:, None] * [1.0, 2.0, 0.01]
    stats = measure(values, NAMES["state"])
    np.testing.assert_allclose(stats.q01, [1.0, 2.0, 0.01])
    np.testing.assert_allclose(stats.normalize(np.array([1.0, 198.0, 0.5])), [-1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(stats.normalize(np.array([-9.0, 999.0, 0.5])), [-1, 1, 0], atol=1e-6)
    wider = stats.normalize(np.array([120.0, 999.0, 0.5]), limit=2.0)
    np.testing.assert_allclose(wider, [2 * 119 / 98 - 1, 2, 0], atol=1e-6)


def test_smallest_span_keeps_noise_small():
    noise = np.random.default_rng(0).normal(0.0, 1e-4, (1000, 3))
    stats = measure(noise, NAMES["state"], smallest_span=0.04)
    np.testing.assert_allclose(stats.q99 - stats.q01, 0.04)
    assert np.abs(stats.normalize(noise)).max() < 0.03


def test_several_arrays_are_measured_as_one():
    values = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    one, many = (
        measure(values, NAMES["state"]),
        measure_all([values[:1], values[1:]], NAMES["state"]),
    )
    for name in ("q01", "q99", "count", "min", "max"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))
    np.testing.assert_allclose(many.mean, values.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(many.std, values.std(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.zeros((0, 3)), "at least one value"), (np.array([[0.0, NAN, 0.0]]), "finite values: y")],
)
def test_statistics_of_nothing_or_nonsense_are_refused(values, message):
    with pytest.raises(NormalizationError, match=message):
        measure(values, NAMES["state"])


def test_the_share_that_kept_bounds_cut_off():
    kinds = ("absolute", "angle", "binary")
    generator = np.random.default_rng(0)

    def drawn(count: int) -> np.ndarray:
        columns = (generator.normal(size=count), generator.uniform(-9, 9, count))
        return np.stack([*columns, generator.integers(0, 2, count)], axis=1)

    values = drawn(100_000)
    stats = measure(values, NAMES["state"], kinds)
    np.testing.assert_allclose(clipped_share(stats, values), [0.02, 0.0, 0.0], atol=1e-3)
    moved = values + np.array([10.0, 10.0, 0.0])
    moved[:25_000, 2] = 0.5
    np.testing.assert_array_equal(clipped_share(stats, moved), [1.0, 0.0, 0.25])
    np.testing.assert_array_equal(clipped_share(stats, np.zeros((0, 3))), 0.0)
    still = measure(np.full((10, 3), 0.3), NAMES["state"])
    np.testing.assert_array_equal(clipped_share(still, np.array([[0.3, 0.30001, 0.2]])), [0, 1, 1])


# Kinds of the contracts


def test_kinds_follow_from_the_contract():
    turns = {"sim_panda": "relative", "widowx_bridge": "relative_angle"}
    for name, turn in turns.items():
        kinds = dimension_kinds(load_contract(contract_path(name)))
        assert kinds["action"] == ("relative",) * 3 + (turn,) * 3 + ("binary",)
    assert kinds["state"] == ("absolute",) * 3 + ("angle",) * 3 + ("absolute",) * 2
    for name in ("sim_panda", "google_fractal"):
        assert set(dimension_kinds(load_contract(contract_path(name)))["state"]) == {"absolute"}
    assert {kind for entry in kinds.values() for kind in entry} <= set(KINDS)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_statistics_fit_their_contract(name):
    folder = Path(__file__).parents[1] / "checkpoints" / name
    contract = load_contract(folder / "contract.yaml")
    stats = read_stats(folder, contract)
    for vector, kinds in dimension_kinds(contract).items():
        assert stats[vector].kinds == kinds
    # Numbers that the model has learned from: two by hand, of x and of the gripper.
    low, high = stats["action"].q01[0], stats["action"].q99[0]
    action = np.array([low + 0.75 * (high - low), 0, 0, 0, 0, 0, 1.0])
    np.testing.assert_allclose(stats["action"].normalize(action)[[0, 6]], [0.5, 1.0], atol=1e-6)


# Files


@settings(max_examples=30)
@given(
    arrays(np.float64, (20, 3), elements=st.floats(-1e6, 1e6)),
    st.tuples(*[st.sampled_from(KINDS)] * 3),
)
def test_what_is_stored_is_read(tmp_path_factory, values, kinds):
    path = tmp_path_factory.mktemp("stats") / NORM_STATS
    stats = {"state": measure(values, NAMES["state"], kinds)}
    write_norm_stats(stats, path)
    again = read_norm_stats(path, NAMES)["state"]
    assert (again.names, again.kinds) == (NAMES["state"], kinds)
    for entry in ("count", "mean", "std", "min", "max", "q01", "q99"):
        np.testing.assert_array_equal(getattr(again, entry), getattr(stats["state"], entry))
    new = np.linspace(-3, 3, 30).reshape(10, 3)
    np.testing.assert_array_equal(again.normalize(new), stats["state"].normalize(new))


def test_what_is_not_known_may_be_null(tmp_path):
    bounds = np.array([-1.0, -2.0, 0.0]), np.array([1.0, 2.0, 1.0])
    path = tmp_path / NORM_STATS
    write_norm_stats({"state": NormStats(NAMES["state"], ("absolute",) * 3, *bounds)}, path)
    assert json.loads(path.read_text())["state"]["mean"] is None
    assert read_norm_stats(path, NAMES)["state"].mean is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["x", "z", "gripper"]}, r"'state' is for .*'z'.*, the contract has .*'y'"),
        ({"names": "xyz"}, r"'state' is for 'xyz', the contract"),
        ({"kinds": ["absolute", "spiral", "binary"]}, "unknown kinds: spiral; known are absolute"),
        ({"kinds": ["absolute"] * 2}, "kinds has values for other dimensions: 2, not 3"),
        ({"kinds": None}, "kinds must be a list of words, got None"),
        ({"q01": [0.0, 0.0]}, "q01 has values for other dimensions: 2, not 3"),
        ({"std": [0.0] * 4}, "std has values for other dimensions: 4, not 3"),
        ({"q99": [1.0, NAN, 1.0]}, "q99 holds nan for a number"),
        ({"mean": [1.0, float("inf"), 1.0]}, "mean holds inf for a number"),
        ({"q01": None}, "q01 must be a list of finite numbers, got None"),
        ({"q01": ["0", "0", "0"]}, "q01 must be a number from .*, got '0'"),
        ({"q01": [0.0, 99.0, 0.0]}, "q01 of 'y' is greater than its q99"),
        ({"min": [99.0, 0.0, 0.0], "max": [1.0] * 3}, "min of 'x' is greater than its max"),
        ({"scaled": [True] * 3}, "unknown entries: scaled"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(tmp_path, change, message):
    path = tmp_path / NORM_STATS
    values = np.random.default_rng(0).normal(size=(50, 3))
    write_norm_stats({"state": measure(values, NAMES["state"])}, path)
    plain = json.loads(path.read_text())
    plain["state"] |= change
    path.write_text(json.dumps(plain))
    with pytest.raises(NormalizationError, match=message):
        read_norm_stats(path, NAMES)


@pytest.mark.parametrize(
    "entry", ["names", "kinds", "count", "mean", "std", "min", "max", "q01", "q99"]
)
def test_a_missing_entry_is_named(tmp_path, entry):
    path = tmp_path / NORM_STATS
    write_norm_stats({"state": measure(np.zeros((5, 3)), NAMES["state"])}, path)
    plain = json.loads(path.read_text())
    del plain["state"][entry]
    path.write_text(json.dumps(plain))
    with pytest.raises(NormalizationError, match=f"'state' lacks {entry}$"):
        read_norm_stats(path, NAMES)


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / NORM_STATS
    for text, says in (("{", "not valid JSON"), ("[]", "no mapping"), ("7", "no mapping")):
        path.write_text(text)
        with pytest.raises(NormalizationError, match=says):
            read_norm_stats(path, NAMES)
    path.write_text("{}")
    with pytest.raises(NormalizationError, match="no statistics for 'state'"):
        read_norm_stats(path, NAMES)
    path.write_text('{"state": 3}')
    with pytest.raises(NormalizationError, match="'state' must be a mapping of names, kinds"):
        read_norm_stats(path, NAMES)
    with pytest.raises(NormalizationError, match=r"cannot read .*No such file"):
        read_norm_stats(tmp_path / "none.json", NAMES)


def test_a_length_that_wraps_is_refused_and_an_angle_between_quantiles_is_not(tmp_path):
    """The authors have angles between quantiles; another robot has its angles elsewhere."""
    contract = load_contract(contract_path("widowx_bridge"))
    generator = np.random.default_rng(0)

    def write(state_kinds: tuple[str, ...]) -> None:
        stats = {
            "state": measure(generator.normal(size=(9, 8)), contract.state_names, state_kinds),
            "action": measure(generator.normal(size=(9, 7)), contract.action_names),
        }
        write_norm_stats(stats, tmp_path / NORM_STATS)

    write(("absolute",) * 8)
    assert read_stats(tmp_path, contract)["state"].kinds == ("absolute",) * 8
    write(("angle", *dimension_kinds(contract)["state"][1:]))
    with pytest.raises(CheckpointError, match="'x' as angle, but in contract 'widowx_bridge' it"):
        read_stats(tmp_path, contract)
