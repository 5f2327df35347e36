"""Metrics of following directions: policies with known figures, loops written out, bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla.datasets.language_motion import motion_words
from vla.evaluation.language_following import (
    DIRECTIONS,
    FollowingFigure,
    displacement,
    language_following,
)

NAMES = list(DIRECTIONS)
STEP = 0.05  # how far a demonstration goes [m]


def demonstrations(generator, each: int, names=NAMES, spread: float = 0.002):
    """Labels [N] and displacements [N, 3] in tight clusters, one for each direction."""
    labels = [name for name in names for _ in range(each)]
    units = np.array([DIRECTIONS[name] for name in labels])
    return labels, STEP * units + generator.normal(0, spread, (len(labels), 3))


# The metrics once more, as section 9 has them: one trial and one pair after the other


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def loop_separability(labels, points) -> float:
    of = {name: [p for n, p in zip(labels, points, strict=True) if n == name] for name in labels}
    within = mean(
        mean(math.dist(p, q) for p, q in itertools.combinations(group, 2))
        for group in of.values()
        if len(group) > 1
    )
    between = mean(
        mean(math.dist(p, q) for p in of[one] for q in of[other])
        for one, other in itertools.combinations(of, 2)
    )
    return between / (within + 1e-8)


def loop_silhouette(labels, points) -> float:
    values = []
    for i, label in enumerate(labels):
        to = {name: [] for name in labels}
        for j, name in enumerate(labels):
            if i != j:
                to[name].append(math.dist(points[i], points[j]))
        if not to[label]:
            values.append(0.0)
            continue
        a, b = mean(to[label]), min(mean(to[name]) for name in to if name != label)
        values.append((b - a) / max(a, b) if max(a, b) > 0 else 0.0)
    return mean(values)


# What chunks add up to, and what directions are


def test_a_displacement_is_the_sum_of_the_increments_of_the_position():
    chunk = np.array([[0.01, 0, -0.02, 9, 9, 9, 1], [0.02, 0.005, -0.01, 9, 9, 9, 0]])
    assert displacement(chunk) == pytest.approx([0.03, 0.005, -0.03])
    assert displacement(chunk[:1, :3].astype(np.float32)) == pytest.approx([0.01, 0, -0.02])
    turning = np.array([[0, 0, 0, np.nan]])
    assert displacement(turning) == pytest.approx([0, 0, 0]), "other columns are not looked at"


def test_directions_are_those_of_the_motion_in_words():
    for name, unit in DIRECTIONS.items():
        assert motion_words(np.array(unit), np.eye(3), 0) == f"move {name}"


# Policies whose figures are known


def test_the_demonstrations_themselves_follow():
    labels, goals = demonstrations(np.random.default_rng(0), 20)
    found = language_following(labels, goals, goals)
    assert found.cases == 120
    assert found.direction_alignment == FollowingFigure(1.0, 1.0, 1.0)
    for bound in (found.direction_consistency.low, found.direction_consistency.value):
        assert bound == pytest.approx(1.0)
    assert 0.9 < found.silhouette.low < found.silhouette.value < found.silhouette.high < 1
    assert found.separability.low > 10


def test_the_opposite_of_every_instruction():
    labels, goals = demonstrations(np.random.default_rng(0), 20)
    found, same = (language_following(labels, sign * goals, goals) for sign in (-1, 1))
    assert found.direction_alignment.value == 0
    assert found.direction_consistency.value == pytest.approx(-1)
    # Where a prediction goes is another matter than whether instructions tell predictions apart.
    assert found.silhouette.value == pytest.approx(same.silhouette.value)


def test_random_directions_are_aligned_by_chance():
    generator = np.random.default_rng(3)
    labels, goals = demonstrations(generator, 50)
    found = language_following(labels, generator.normal(0, STEP, goals.shape), goals)
    alignment, consistency = found.direction_alignment, found.direction_consistency
    assert alignment.low < 0.5 < alignment.high
    assert consistency.low < 0 < consistency.high
    # The spreads of a coin, and of the cosine of a random direction in space.
    for figure, spread in ((alignment, 0.5), (consistency, 1 / math.sqrt(3))):
        width = 2 * 1.96 * spread / math.sqrt(300)
        assert figure.high - figure.low == pytest.approx(width, rel=0.1)


@pytest.mark.parametrize("names", [["left", "right"], NAMES])
def test_a_policy_deaf_to_its_instruction(names):
    generator = np.random.default_rng(4)
    labels, goals = demonstrations(generator, 150, names)
    always_forward = generator.normal((STEP, 0, 0), 0.02, goals.shape)
    found = language_following(labels, always_forward, goals)
    assert found.separability.value == pytest.approx(1, abs=0.05)
    assert found.silhouette.value == pytest.approx(0, abs=0.05)
    assert found.separability.low < 1 < found.separability.high


@pytest.mark.slow
def test_with_many_labels_and_few_cases_a_deaf_policy_has_a_lower_silhouette():
    generator = np.random.default_rng(5)
    labels, goals = demonstrations(generator, 17)
    values = [
        language_following(labels, generator.normal(size=goals.shape), goals).silhouette.value
        for _ in range(30)
    ]
    assert np.mean(values) == pytest.approx(-0.10, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "each", "silhouette"), [(["up", "down"], 50, 0.0), (NAMES, 17, -0.098)]
)
def test_intervals_do_not_see_directions_in_deaf_policies(names, each, silhouette):
    """Resamples that count the copies of a case as pairs leave 1 out in most of these."""
    generator, separable, score = np.random.default_rng(6), 0, 0
    for seed in range(40):
        labels, goals = demonstrations(generator, each, names)
        found = language_following(labels, generator.normal(size=goals.shape), goals, seed)
        separable += found.separability.low <= 1 <= found.separability.high
        score += found.silhouette.low <= silhouette <= found.silhouette.high
    assert separable >= 37 and score >= 37


# Separability and silhouette, number by number


def test_separability_and_silhouette_by_hand():
    labels = ["up", "down", "up", "down"]
    points = np.array([[0, 0, 0], [0, 4, 0], [3, 0, 0], [3, 4, 0]])  # a rectangle of 3 by 4
    found = language_following(labels, points, points)
    # Within: 3 and 3. Between: 4, 5, 5, 4. Of every trial a = 3 and b = (4 + 5) / 2.
    assert found.separability.value == pytest.approx(4.5 / 3)
    assert found.silhouette.value == pytest.approx((4.5 - 3) / 4.5)

    found = language_following([*labels, "left"], [*points, [0, 0, 12]], [*points, [0, 1, 0]])
    far, farther = math.sqrt(160), math.sqrt(153)  # from the new one to (0, 4, 0), (3, 0, 0)
    to_up, to_down = (12 + farther) / 2, (far + 13) / 2
    assert found.separability.value == pytest.approx((4.5 + to_up + to_down) / 3 / 3)
    assert found.silhouette.value == pytest.approx(4 * (1.5 / 4.5) / 5), "the lone one counts as 0"


@pytest.mark.parametrize("sizes", [(2, 3), (7, 1, 4), (5, 6, 7, 8, 9, 10), (1, 2, 1)])
def test_separability_and_silhouette_are_those_of_loops(sizes):
    generator = np.random.default_rng(7)
    labels = [name for name, size in zip(NAMES, sizes, strict=False) for _ in range(size)]
    units = np.array([DIRECTIONS[name] for name in labels])
    points = 0.7 * units + generator.normal(size=(len(labels), 3))
    found = language_following(labels, points, points)
    assert found.separability.value == pytest.approx(loop_separability(labels, points))
    assert found.silhouette.value == pytest.approx(loop_silhouette(labels, points))


@pytest.mark.slow
def test_intervals_are_those_of_a_bootstrap_in_loops():
    generator = np.random.default_rng(11)
    labels, _ = demonstrations(generator, 5, ["left", "right"])
    units = np.array([DIRECTIONS[name] for name in labels])
    points = units + generator.normal(0, 0.8, units.shape)
    drawn = []
    while len(drawn) < 2500:
        left, right = generator.integers(5, size=(2, 5))
        if min(len(set(left)), len(set(right))) > 1:
            drawn.append(resampled(labels, points, [*left, *(right + 5)]))
    ratios, scores = np.transpose(drawn)
    found = language_following(labels, points, units)
    scores += found.silhouette.value - scores.mean()
    for figure, draws in ((found.separability, ratios), (found.silhouette, scores)):
        low, high = np.quantile(draws, [0.025, 0.975])
        assert [figure.low, figure.high] == pytest.approx([low, high], abs=0.08 * (high - low))


def resampled(labels, points, chosen) -> tuple[float, float]:
    """Separability and silhouette of these indices, where copies of a case are no pair."""
    distance = {(i, j): math.dist(points[i], points[j]) for i in chosen for j in chosen}
    of = {name: [i for i in chosen if labels[i] == name] for name in labels}
    within = [
        mean(distance[p] for p in itertools.combinations(group, 2) if p[0] != p[1])
        for group in of.values()
    ]
    between = [
        mean(distance[i, j] for i in of[one] for j in of[other])
        for one, other in itertools.combinations(of, 2)
    ]
    values = []
    for i in chosen:
        a = mean(distance[i, j] for j in of[labels[i]] if j != i)
        b = min(mean(distance[i, j] for j in of[name]) for name in of if name != labels[i])
        values.append((b - a) / max(a, b))
    return mean(between) / (mean(within) + 1e-8), mean(values)


def test_one_and_the_same_prediction_for_every_instruction():
    labels, goals = demonstrations(np.random.default_rng(9), 5)
    found = language_following(labels, np.tile([0.05, 0, 0], (30, 1)), goals)
    assert found.silhouette == FollowingFigure(0.0, 0.0, 0.0)
    assert found.separability == FollowingFigure(0.0, 0.0, 0.0)
    assert found.direction_alignment.value == pytest.approx(1 / 6)


# What is short, and what is undefined


def test_displacements_below_a_millimetre_have_no_direction():
    def figures(predicted, demonstrated):
        found = language_following(["up"], [[0, 0, predicted]], [[0, 0, demonstrated]])
        return found.direction_alignment.value, found.direction_consistency.value

    assert figures(0.0011, 0.0011) == (1, pytest.approx(1))
    assert figures(0.0009, 0.0500) == (0, 0)
    assert figures(0.0500, 0.0009) == (1, 0), "a prediction is aligned without a demonstration"
    assert figures(0.0, 0.0) == (0, 0)
    assert figures(-0.05, 0.05) == (0, pytest.approx(-1))


def test_rounding_takes_no_cosine_beyond_one():
    same = np.array([[0.05, -0.02, 0.01]])
    assert np.vdot(same, same) / np.linalg.norm(same) ** 2 > 1
    assert language_following(["forward"], same, same).direction_consistency.high == 1


def test_a_motion_across_the_direction_is_not_aligned():
    across = [[0, 0.05, 0]]
    assert language_following(["forward"], across, across).direction_alignment.value == 0


def test_with_one_label_there_is_nothing_to_tell_apart():
    labels, goals = demonstrations(np.random.default_rng(1), 10, ["left"])
    found = language_following(labels, goals, goals)
    assert found.direction_alignment.value == 1
    for figure in (found.separability, found.silhouette):
        assert (figure.value, figure.low, figure.high) == (None, None, None)
        assert "one label" in figure.missing


def test_without_two_cases_of_a_label_there_is_no_distance_within():
    labels, goals = demonstrations(np.random.default_rng(1), 1)
    found = language_following(labels, goals, goals)
    assert found.separability.value is None and "no label has two" in found.separability.missing
    assert found.silhouette.value == 0 and found.silhouette.low is None


def test_few_cases_of_a_label_give_no_interval_of_what_is_between_labels():
    labels, goals = demonstrations(np.random.default_rng(1), 5, ["left", "right"])
    whole = language_following(labels, goals, goals)
    short = language_following(labels[:-1], goals[:-1], goals[:-1])
    for figure in (whole.separability, whole.silhouette):
        assert figure.low <= figure.value <= figure.high and not figure.missing
    for figure in (short.separability, short.silhouette):
        assert figure.value is not None and figure.low is None and "fewer than 5" in figure.missing


# Properties


def noisy_cases(seed: int, sizes: list[int]):
    generator = np.random.default_rng(seed)
    labels = [name for name, size in zip(NAMES, sizes, strict=False) for _ in range(size)]
    units = np.array([DIRECTIONS[name] for name in labels])
    predicted, demonstrated = STEP * (units + generator.normal(size=(2, len(labels), 3)))
    return labels, predicted, demonstrated


def values(figures) -> list[float]:
    metrics = ["direction_alignment", "direction_consistency", "separability", "silhouette"]
    return [getattr(figures, name).value for name in metrics]


SIZES = st.lists(st.integers(2, 8), min_size=2, max_size=6)


@settings(max_examples=40)
@given(st.integers(0, 10_000), SIZES, st.randoms(use_true_random=False))
def test_the_order_of_the_cases_does_not_matter(seed, sizes, random):
    labels, predicted, demonstrated = noisy_cases(seed, sizes)
    order = random.sample(range(len(labels)), len(labels))
    found = language_following([labels[i] for i in order], predicted[order], demonstrated[order])
    assert values(found) == pytest.approx(
        values(language_following(labels, predicted, demonstrated))
    )


@settings(max_examples=40)
@given(st.integers(0, 10_000), SIZES)
def test_a_common_motion_of_all_predictions_leaves_what_is_between_them(seed, sizes):
    labels, predicted, demonstrated = noisy_cases(seed, sizes)
    rotation = Rotation.random(rng=np.random.default_rng(seed))
    moved = rotation.apply(predicted) + np.random.default_rng(seed).uniform(-1, 1, 3)
    one, other = (language_following(labels, p, demonstrated) for p in (predicted, moved))
    for name in ("separability", "silhouette"):
        first, second = getattr(one, name), getattr(other, name)
        assert second.value == pytest.approx(first.value, rel=1e-6)
        if first.low is not None:
            bounds = pytest.approx([first.low, first.high], rel=1e-6)
            assert [second.low, second.high] == bounds


@settings(max_examples=40)
@given(st.integers(0, 10_000), SIZES)
def test_figures_stay_in_their_ranges(seed, sizes):
    found = language_following(*noisy_cases(seed, sizes), seed=seed)
    assert found == language_following(*noisy_cases(seed, sizes), seed=seed), "by the seed alone"
    for name, least in (("direction_alignment", 0), ("direction_consistency", -1)):
        figure = getattr(found, name)
        assert least <= figure.low <= figure.value <= figure.high <= 1
    assert -1 <= found.silhouette.value <= 1
    assert found.separability.value > 0


# Bad input

TWO = np.array([[0.05, 0, 0], [0, 0.05, 0]])
HOLED = np.array([[0.05, 0, 0], [0, np.nan, 0]])
ENDLESS = np.array([[np.inf, 0, 0], [0, 0.05, 0]])


@pytest.mark.parametrize(
    ("labels", "predicted", "demonstrated", "message"),
    [
        ([], np.zeros((0, 3)), np.zeros((0, 3)), "there are no cases"),
        (["forward", "sideways"], TWO, TWO, "'sideways' is no direction; use one of forward, ba"),
        (["forward", ["left"]], TWO, TWO, r"\['left'\] is no direction"),
        (["forward"], TWO, TWO, "1 labels and 2 predicted"),
        (["forward", "left"], TWO, TWO[:1], "2 labels and 1 demonstrated"),
        (["forward", "left"], TWO[:, :2], TWO, r"predicted .* shape \[2, 2\]; give \[2, 3\]"),
        (["forward", "left"], TWO, TWO[0], r"demonstrated .* shape \[3\]"),
        (["forward", "left"], HOLED, TWO, "predicted displacement of case 1 holds NaN"),
        (["forward", "left"], TWO, ENDLESS, "demonstrated displacement of case 0 holds NaN"),
    ],
)
def test_bad_cases_are_refused(labels, predicted, demonstrated, message):
    with pytest.raises(ValueError, match=message) as error:
        language_following(labels, predicted, demonstrated)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros(7), r"shape \[7\]; give \[H, A\]"),
        (np.zeros((16, 2)), r"shape \[16, 2\]"),
        (np.zeros((0, 7)), r"shape \[0, 7\]"),
        (np.zeros((1, 16, 7)), r"shape \[1, 16, 7\]"),
        (np.array([[0, 0, 0], [0, -np.inf, 0]]), "action 1 of a chunk holds NaN or infinity"),
    ],
)
def test_bad_chunks_are_refused(chunk, message):
    with pytest.raises(ValueError, match=message):
        displacement(chunk)
