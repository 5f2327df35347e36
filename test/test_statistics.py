"""Streaming statistics: those of numpy, whatever the blocks and the order, in bounded memory."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla.core import statistics
from vla.core.statistics import KEPT_ROWS, NormalizationError, RunningStatistics

NAMES = ("x", "y")
# What the text beside SKETCH_SIZE promises.
RANK_ERROR = 1e-4


def rows(draw_column, count: int) -> np.ndarray:
    return np.stack([draw_column(count), draw_column(count)], axis=1)


def distributions(seed: int) -> dict:
    generator = np.random.default_rng(seed)
    return {
        "normal": generator.standard_normal,
        "far": lambda size: generator.normal(1e6, 1e-3, size),
        "skewed": lambda size: generator.lognormal(0.0, 3.0, size),
        "heavy": lambda size: generator.standard_cauchy(size),
        "one-sided": lambda size: generator.pareto(0.5, size),
        "rarely moving": lambda size: np.where(generator.random(size) < 0.985, 0.25, 1.0),
        "binary": lambda size: (generator.random(size) < 0.5).astype(float),
        "drifting": lambda size: np.linspace(-1.0, 1.0, size),
    }


def in_parts(values: np.ndarray, generator: np.random.Generator) -> RunningStatistics:
    """Statistics of the values, in blocks and parts of random sizes, merged in random order."""
    ends = np.sort(generator.integers(0, len(values) + 1, generator.integers(0, 6)))
    parts = []
    for part in np.split(values, ends):
        running = RunningStatistics(NAMES)
        for block in np.split(part, np.sort(generator.integers(0, len(part) + 1, 5))):
            running.add(block)
        parts.append(running)
    total = RunningStatistics(NAMES)
    for index in generator.permutation(len(parts)):
        total.merge(parts[index])
    return total


def check_moments(running: RunningStatistics, values: np.ndarray) -> None:
    summary = running.summary()
    values = values.astype(np.float64)
    scale = np.abs(values).max(axis=0) + 1e-300
    np.testing.assert_array_equal(summary.count, len(values))
    np.testing.assert_array_equal(summary.min, values.min(axis=0))
    np.testing.assert_array_equal(summary.max, values.max(axis=0))
    np.testing.assert_allclose(summary.mean / scale, values.mean(axis=0) / scale, atol=1e-12)
    # numpy's own std of values that are all the same has a rounding error; ours has none.
    spread = np.where(summary.max > summary.min, values.std(axis=0), 0.0)
    np.testing.assert_allclose(summary.std, spread, rtol=1e-6, atol=1e-13 * scale.max())


@pytest.mark.slow
@settings(max_examples=100)
@given(
    arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(st.integers(1, 60), st.just(2)),
        elements=st.floats(-1e9, 1e9, width=32),
    ),
    st.integers(0, 2**31),
)
@example(np.full((1, 2), 0.3), 0)
@example(np.full((60, 2), 0.1), 3)
def test_a_few_values_have_the_statistics_of_numpy(values, seed):
    running = in_parts(values, np.random.default_rng(seed))
    check_moments(running, values)
    exact = np.quantile(values.astype(np.float64), [0.01, 0.99], axis=0)
    summary = running.summary()
    np.testing.assert_allclose([summary.q01, summary.q99], exact, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("name", distributions(0))
@pytest.mark.parametrize("seed", [0, 1])
def test_quantiles_of_many_values_are_near_those_of_numpy(name, seed):
    values = rows(distributions(seed)[name], 3 * KEPT_ROWS)
    running = in_parts(values, np.random.default_rng(seed))
    check_moments(running, values)
    summary = running.summary()
    for column, low, high in zip(values.T, summary.q01, summary.q99, strict=True):
        for value, share in ((low, 0.01), (high, 0.99)):
            # Equal values take a range of ranks; any of them will do.
            below, up_to = (column < value).mean(), (column <= value).mean()
            assert below - RANK_ERROR <= share <= up_to + RANK_ERROR, (name, share, below, up_to)
    again = in_parts(values, np.random.default_rng(seed)).summary()
    np.testing.assert_array_equal(again.q01, summary.q01)


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 4 * KEPT_ROWS])
def test_another_process_may_go_on(count):
    """Measured in a process of its own, as conversion does, the same numbers come back."""
    halves = np.split(rows(np.random.default_rng(0).standard_normal, count), 2)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        one, two = pool.map(measured, halves)
    one.merge(two)
    here = measured(halves[0])
    here.merge(measured(halves[1]))
    here, there = here.summary(), one.summary()
    for entry in ("count", "mean", "std", "min", "max"):
        np.testing.assert_array_equal(getattr(here, entry), getattr(there, entry))
    # A sketch is condensed on its way, which may move an estimate by as much as its error.
    tolerance = 0.0 if count < KEPT_ROWS else 0.01
    np.testing.assert_allclose(there.q01, here.q01, atol=tolerance)
    np.testing.assert_allclose(there.q99, here.q99, atol=tolerance)
    one.add(halves[0])
    assert len(one) == 3 * len(halves[0])


def measured(values: np.ndarray) -> RunningStatistics:
    running = RunningStatistics(NAMES)
    for block in np.array_split(values, 3):
        running.add(block)
    return running


def test_many_equal_values_stay_constant():
    running = RunningStatistics(NAMES)
    for _ in range(3):
        running.add(np.full((KEPT_ROWS, 2), 0.3))
    summary = running.summary()
    for value in (summary.mean, summary.min, summary.max, summary.q01, summary.q99):
        np.testing.assert_array_equal(value, 0.3)
    np.testing.assert_array_equal(summary.std, 0.0)


@pytest.mark.slow
def test_memory_stays_bounded():
    """No more after 60 blocks than after ten, and never a copy of what was added at once."""
    block = rows(np.random.default_rng(0).standard_normal, KEPT_ROWS).astype(np.float32)
    running = RunningStatistics(NAMES)

    def retained() -> int:
        sketches = sum(len(sketch.serialize()) for sketch in running._sketches)
        return sketches + sum(kept.nbytes for kept in running._kept)

    for _ in range(10):
        running.add(block)
    before = retained()
    for _ in range(50):
        running.add(block)
    assert retained() < 1.2 * before < 300_000
    long = np.broadcast_to(block[:1], (100 * KEPT_ROWS, 2))
    tracemalloc.start()
    running.add(long)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * statistics.BLOCK_ROWS * 2 * 8 < long.nbytes / 4
    assert len(running) == 160 * KEPT_ROWS


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(value):
    running = RunningStatistics(NAMES)
    running.add(np.zeros((3, 2)))
    wrong = np.zeros((70_000, 2))
    wrong[69_000, 1] = value
    with pytest.raises(NormalizationError, match=r"finite values: y has some .* in row 69000$"):
        running.add(wrong)
    assert len(running) == 3, "nothing of a refused block is counted"


def test_rows_and_statistics_of_other_dimensions_are_refused():
    running = RunningStatistics(NAMES)
    with pytest.raises(NormalizationError, match=r"need rows of 2 values, got .* shape \[4, 3\]"):
        running.add(np.zeros((4, 3)))
    with pytest.raises(NormalizationError, match=r"\['x', 'z'\] cannot be merged into .*'y'\]"):
        running.merge(RunningStatistics(("x", "z")))
    running.add(np.zeros((0, 2)))
    with pytest.raises(NormalizationError, match="at least one value"):
        running.summary()
