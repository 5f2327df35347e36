"""What a difference between two kinds of policy says: intervals, Holm's correction, verdicts.

Values are of episodes [S, E]: S trainings, E episodes, the same scenes for every training and both
kinds, so that differences are paired. Trainings and episodes are both samples: another seed gives
another policy, another scene another episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"
LEVEL = 0.05
DRAWS = 10_000
# Both kinds are at the floor where each mean is below this share of the best possible value.
FLOOR = 0.05


@dataclass(frozen=True)
class Difference:
    """A mean difference, and how well it is known."""

    difference: float
    low: float  # of its 95% interval
    high: float
    p_value: float  # two-sided, of no difference
    # One-sided ones of "no more than -margin" and "no less than +margin", the larger of both.
    p_equal: float
    detectable: float  # the smallest difference whose interval would leave out zero


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    margin: float = 0.0,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """The mean of first - second over trainings and episodes, both [S, E], with its interval.

    The bootstrap draws trainings and then episodes, which all trainings share (Owen, 2007). Means
    of trainings and of episodes are set apart by as much as a sample of S or E falls short of the
    population's spread, and the interval is widened from the normal to the t distribution with the
    degrees of freedom of both spreads together (Satterthwaite). With one training, its spread is
    unknown and left out. margin: of equality, for p_equal.
    """
    deltas = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if deltas.ndim != 2 or not deltas.size:
        raise ValueError(f"differences [S, E] are expected, got {deltas.shape}")
    mean = float(deltas.mean())
    trainings, episodes = deltas.mean(axis=1) - mean, deltas.mean(axis=0) - mean
    rest = deltas - mean - trainings[:, None] - episodes
    spread = rest + _unbiased(trainings)[:, None] + _unbiased(episodes)
    generator = np.random.default_rng(seed)
    count, scenes = deltas.shape
    by_training = generator.multinomial(count, np.full(count, 1 / count), draws) / count
    by_episode = generator.multinomial(scenes, np.full(scenes, 1 / scenes), draws) / scenes
    errors = np.einsum("ds,se,de->d", by_training, spread, by_episode, optimize=True)
    wide = _widening(trainings, episodes)
    errors *= wide
    low, high = mean + np.quantile(errors, [LEVEL / 2, 1 - LEVEL / 2])
    below = [float(np.mean(errors <= -abs(mean))), float(np.mean(errors >= abs(mean)))]
    equal = max(
        float(np.mean(errors <= mean - margin)) if mean < margin else 1.0,
        float(np.mean(errors >= mean + margin)) if mean > -margin else 1.0,
    )
    resolution = 1 / draws
    detectable = float(norm.ppf(1 - LEVEL / 2) * errors.std())
    return Difference(
        mean,
        float(low),
        float(high),
        min(1.0, max(sum(below), resolution)) if deltas.size > 1 else 1.0,
        max(equal, resolution),
        detectable,
    )


def _unbiased(means: np.ndarray) -> np.ndarray:
    """Deviations [N] of means, whose mean square is that of the population; zero for one."""
    count = len(means)
    return means * np.sqrt(count / (count - 1)) if count > 1 else np.zeros_like(means)


def _widening(trainings: np.ndarray, episodes: np.ndarray) -> float:
    """How much wider an interval by the t distribution is than one by the normal."""
    total, weighted = 0.0, 0.0
    for deviations in (trainings, episodes):
        count = len(deviations)
        if count > 1:
            variance = float(np.square(deviations).sum()) / (count - 1) / count
            total += variance
            weighted += variance**2 / (count - 1)
    if not weighted:
        return 1.0
    quantile = 1 - LEVEL / 2
    return float(t.ppf(quantile, total**2 / weighted) / norm.ppf(quantile))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values as they count among several claims (Holm, 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def at_floor(first: np.ndarray, second: np.ndarray, best: float) -> bool:
    """Whether both kinds fail nearly always. best: the highest value that an episode can have."""
    return max(float(np.mean(first)), float(np.mean(second))) < FLOOR * best


def verdict(
    difference: Difference, p_value: float, trainings: int, floor: bool, margin: float | None
) -> tuple[str, str]:
    """Confirmed, refuted or undecided, and why.

    p_value: corrected. margin: None for a claim that the first is better; else of a claim that both
    are equal within it. floor: see at_floor().
    """
    if floor:
        return UNDECIDED, "floor: both fail nearly always"
    if trainings < 2:
        return UNDECIDED, "one training seed: the spread of trainings is not known"
    if margin is not None:
        if p_value < LEVEL:
            return CONFIRMED, f"equal within {margin:g}"
        if difference.low > margin or difference.high < -margin:
            return REFUTED, f"they differ by more than {margin:g}"
        return UNDECIDED, f"the interval reaches beyond {margin:g}"
    if p_value < LEVEL:
        better = difference.difference > 0
        return (CONFIRMED, "the first is better") if better else (REFUTED, "the second is better")
    return UNDECIDED, "the difference is smaller than what could be detected"
