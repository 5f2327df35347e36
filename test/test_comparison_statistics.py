"""Statistics of comparisons, against known cases and simulated experiments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.evaluation.comparison_statistics import (
    CONFIRMED,
    REFUTED,
    UNDECIDED,
    at_floor,
    holm,
    paired_bootstrap,
    verdict,
)

SHARES = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12)


def experiment(
    generator: np.random.Generator,
    difference: float,
    seeds: int = 3,
    episodes: int = 60,
    training: float = 0.2,
    scene: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Two kinds of policy on the same scenes, whose true means differ by `difference`."""
    scenes = generator.normal(0, 1, episodes)
    kinds = []
    for mean in (difference, 0.0):
        own = generator.normal(0, scene, episodes)  # what suits this kind of policy
        seed = generator.normal(0, training, (seeds, 1))
        kinds.append(mean + scenes + own + seed + generator.normal(0, 1, (seeds, episodes)))
    return kinds[0], kinds[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "episodes", "training", "scene"),
    [(3, 40, 0.2, 0.5), (3, 30, 1.0, 0.0), (6, 30, 0.1, 2.0)],
)
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds, episodes, training, scene):
    generator, hits, rejected, count = np.random.default_rng(5), 0, 0, 150
    for _ in range(count):
        pair = experiment(generator, 0.3, seeds, episodes, training, scene)
        found = paired_bootstrap(*pair, draws=200)
        hits += found.low <= 0.3 <= found.high
        null = experiment(generator, 0.0, seeds, episodes, training, scene)
        rejected += paired_bootstrap(*null, draws=200).p_value < 0.05
    assert 0.91 <= hits / count <= 1.0, hits / count
    assert rejected / count <= 0.08


@pytest.mark.slow
def test_what_is_detectable_is_detected_half_of_the_time():
    """A difference as large as its own detectable one is, by definition, on the edge."""
    generator = np.random.default_rng(0)
    sizes = [
        paired_bootstrap(*experiment(generator, 0.0, 4), draws=400).detectable for _ in range(60)
    ]
    size = float(np.median(sizes))
    found = [paired_bootstrap(*experiment(generator, size, 4), draws=400) for _ in range(200)]
    assert 0.3 < np.mean([entry.p_value < 0.05 for entry in found]) < 0.7
    large = [paired_bootstrap(*experiment(generator, 4 * size, 4), draws=400) for _ in range(50)]
    assert all(entry.low > 0 for entry in large)


@pytest.mark.slow
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 20))
def test_the_other_way_round_gives_the_opposite(seed, seeds, episodes):
    generator = np.random.default_rng(seed)
    first, second = generator.integers(0, 6, (2, seeds, episodes)).astype(float)
    one, other = (paired_bootstrap(*pair, draws=200) for pair in ((first, second), (second, first)))
    assert one.difference == pytest.approx(-other.difference)
    assert one.low <= one.difference <= one.high
    assert one.detectable == pytest.approx(other.detectable)
    assert 0 < one.p_value <= 1 and 0 < one.p_equal <= 1
    assert paired_bootstrap(first, second, draws=200) == one, "no draw is left to chance"


def test_pairing_takes_the_scenes_out():
    generator = np.random.default_rng(1)
    first, second = experiment(generator, 0.5, training=0.0, scene=0.0)
    paired = paired_bootstrap(first, second)
    shuffled = paired_bootstrap(first, second[:, generator.permutation(second.shape[1])])
    assert paired.detectable < 0.9 * shuffled.detectable


def test_one_training_and_equal_policies():
    values = np.array([[1.0, 0, 0, 1, 1, 0]])
    same = paired_bootstrap(values, values)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    always = paired_bootstrap(np.ones((2, 5)), np.zeros((2, 5)))
    assert (always.difference, always.low, always.high) == (1, 1, 1) and always.p_value == 1e-4
    with pytest.raises(ValueError, match="are expected"):
        paired_bootstrap(np.zeros((0, 3)), np.zeros((0, 3)))


def test_holm_by_hand():
    # Sorted: .005 * 4 = .02, .01 * 3 = .03, .03 * 2 = .06, .04 * 1 = .04, which is not below .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []


@given(SHARES)
def test_holm_keeps_the_order_and_stands_between(p_values):
    adjusted = holm(p_values)
    for plain, corrected in zip(p_values, adjusted, strict=True):
        assert plain <= corrected <= min(1.0, len(p_values) * plain) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_verdicts():
    generator = np.random.default_rng(2)
    better = paired_bootstrap(*experiment(generator, 1.5))
    worse = paired_bootstrap(*experiment(generator, -1.5))
    alike = paired_bootstrap(*experiment(generator, 0.0, 3, 400, 0.02, 0.1), margin=0.6)

    def decide(found, p_value=None, trainings=3, floor=False, margin=None):
        p_value = found.p_value if p_value is None else p_value
        return verdict(found, p_value, trainings, floor, margin)[0]

    assert decide(better) == CONFIRMED and decide(worse) == REFUTED
    assert decide(better, 0.06) == UNDECIDED, "what counts is the corrected p value"
    assert decide(better, trainings=1) == UNDECIDED
    assert verdict(better, 0.001, 3, True, None) == (
        UNDECIDED,
        "floor: both fail nearly always",
    )
    assert alike.p_equal < 0.05 and decide(alike, alike.p_equal, margin=0.6) == CONFIRMED
    assert decide(better, 1.0, margin=0.2) == REFUTED
    assert decide(alike, 0.3, margin=0.05) == UNDECIDED


def test_a_floor_is_where_both_fail():
    none, some = np.zeros((3, 20)), np.full((3, 20), 0.5)
    assert at_floor(none, none, 1.0) and not at_floor(none, some, 1.0)
    assert at_floor(none + 0.2, none, 5.0) and not at_floor(none + 0.3, none, 5.0)
