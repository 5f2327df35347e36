"""Whether a policy moves in the direction that it is told: the four metrics of LA4VLA.

A case is an instruction that names one direction, such as "move upward to approach the target",
and the action chunk that a policy predicts from it. Two metrics say whether the motion has the
direction that was asked for, two whether other directions lead to other motions (arXiv 2606.27295,
section 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from vla.core.shown import brief, listed
from vla.evaluation.comparison_statistics import LEVEL

# Unit vectors in the base frame (REP 103: x forward, y left, z up).
DIRECTIONS = {
    "forward": (1.0, 0.0, 0.0),
    "backward": (-1.0, 0.0, 0.0),
    "left": (0.0, 1.0, 0.0),
    "right": (0.0, -1.0, 0.0),
    "up": (0.0, 0.0, 1.0),
    "down": (0.0, 0.0, -1.0),
}
# A shorter displacement [m] has no direction. The paper says "near-zero".
LEAST_DISPLACEMENT = 1e-3
# Added to the distance within labels. The paper gives no value.
EPSILON = 1e-8
DRAWS = 1000
# Fewer cases of a label say too little of their spread for an interval.
LEAST_CASES = 5


@dataclass(frozen=True)
class FollowingFigure:
    """One metric over all cases."""

    value: float | None
    low: float | None  # of its 95% interval
    high: float | None
    missing: str = ""  # why there is no value or no interval; "" where there are both


@dataclass(frozen=True)
class FollowingFigures:
    """How well a policy follows directions."""

    cases: int
    # DAR: share of the predictions in the half-space of their instruction; 0.5 by chance.
    direction_alignment: FollowingFigure
    # DCS: mean cosine of predicted and demonstrated displacement; 0 by chance.
    direction_consistency: FollowingFigure
    # SR: the mean distance between labels over that within labels. It is 1 where the instruction
    # changes nothing.
    separability: FollowingFigure
    # SS, -1 to 1: how much nearer a prediction is to its own label than to the nearest other one.
    # Where the instruction changes nothing it is 0 with two labels, and lower with more.
    silhouette: FollowingFigure


def displacement(chunk: np.ndarray) -> np.ndarray:
    """The displacement [3] in metres that an action chunk adds up to: p or g of section 9.

    chunk [H, A]: un-normalised actions, whose first three columns are increments of the position in
    metres, in the base frame. Raises ValueError for another shape, and for increments that are NaN
    or infinite.
    """
    actions = np.asarray(chunk, dtype=np.float64)
    if actions.ndim != 2 or len(actions) == 0 or actions.shape[1] < 3:
        raise ValueError(
            f"an action chunk has the shape {list(actions.shape)}; give [H, A], one action or "
            "more, whose first three columns are increments of the position"
        )
    increments = actions[:, :3]
    finite = np.isfinite(increments).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"action {int(np.argmin(finite))} of a chunk holds NaN or infinity; leave this case out"
        )
    return increments.sum(axis=0)


def language_following(
    labels: Sequence[str], predicted: np.ndarray, demonstrated: np.ndarray, seed: int = 0
) -> FollowingFigures:
    """The metrics of N cases, each with a 95% interval.

    labels: of each case the direction that its instruction names, one of DIRECTIONS. predicted and
    demonstrated [N, 3]: displacements in metres in the base frame, see displacement(). A prediction
    shorter than LEAST_DISPLACEMENT is not aligned, and the cosine is 0 where the prediction or the
    demonstration is shorter.

    Separability and silhouette have no value where all cases have one label, and separability has
    none where no label has two cases. In the silhouette, the only case of a label counts as 0.
    Where all predictions are the same, both are 0.

    The silhouette falls with many labels and few cases, since one of the other labels is near by
    chance. For normally distributed predictions that no instruction changes it is -0.10 with 17
    cases of each of six labels, and 0 with two labels. Compare it between equal numbers only.

    Intervals are percentiles of DRAWS bootstrap draws by the seed: of cases for alignment and
    consistency, of the cases of each label for the others, see _separation(). An interval without
    width says that all cases agree, such as all being aligned. Separability and silhouette have no
    interval where a label has fewer than LEAST_CASES.

    Raises ValueError for no cases, labels that are not in DIRECTIONS, other shapes, unlike lengths,
    and values that are NaN or infinite.
    """
    count = len(labels)
    if count == 0:
        raise ValueError("there are no cases; give a label and two displacements of each")
    unknown = [label for label in labels if label not in tuple(DIRECTIONS)]
    if unknown:
        raise ValueError(
            f"the label {brief(unknown[0])} is no direction; use one of {listed(DIRECTIONS)}"
        )
    points = _displacements(predicted, "predicted", count)
    goals = _displacements(demonstrated, "demonstrated", count)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(count, np.full(count, 1 / count), DRAWS)
    alignment, consistency = (
        _figure(float(values.mean()), weights @ values / count)
        for values in _alignment(labels, points, goals)
    )
    separability, silhouette = _separation(labels, points, generator)
    return FollowingFigures(count, alignment, consistency, separability, silhouette)


def _displacements(values: np.ndarray, name: str, count: int) -> np.ndarray:
    """The values as float64 [N, 3]. Raises ValueError where they are not, or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(
            f"{name} displacements have the shape {list(array.shape)}; give [{count}, 3], the x, y "
            "and z of each case"
        )
    if len(array) != count:
        raise ValueError(
            f"there are {count} labels and {len(array)} {name} displacements; give one for each "
            "case"
        )
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"the {name} displacement of case {int(np.argmin(finite))} holds NaN or infinity; "
            "leave this case out"
        )
    return array


def _alignment(
    labels: Sequence[str], points: np.ndarray, goals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The terms [N] of DAR, 1 for an aligned case and 0 for another, and those of DCS, cosines."""
    units = np.array([DIRECTIONS[label] for label in labels])
    length, goal_length = np.linalg.norm(points, axis=1), np.linalg.norm(goals, axis=1)
    aligned = ((points * units).sum(axis=1) > 0) & (length >= LEAST_DISPLACEMENT)
    cosines = np.divide(
        (points * goals).sum(axis=1),
        length * goal_length,
        out=np.zeros(len(points)),
        where=np.minimum(length, goal_length) >= LEAST_DISPLACEMENT,
    )
    return aligned.astype(np.float64), np.clip(cosines, -1.0, 1.0)


def _separation(
    labels: Sequence[str], points: np.ndarray, generator: np.random.Generator
) -> tuple[FollowingFigure, FollowingFigure]:
    """Separability and silhouette with their intervals.

    A draw keeps each label's number of cases. Two things differ from the plain bootstrap. Copies of
    one case are no pair, since their distance of 0 makes labels look separate. And draws of the
    silhouette are shifted to have the silhouette as their mean, since the nearest label of a draw
    is nearer than that of the cases. In simulations with 5 to 50 cases of a label, 90 to 100% of
    these intervals held the metric's mean over all samples. Of plain ones 60% did for two labels of
    50 cases that the policy does not tell apart.
    """
    names = np.asarray(labels)
    groups = [np.flatnonzero(names == name) for name in DIRECTIONS if name in labels]
    sizes = [len(group) for group in groups]
    if len(groups) < 2:
        none = FollowingFigure(
            None, None, None, "all cases have one label; add cases of another direction"
        )
        return none, none
    few = f"a label has fewer than {LEAST_CASES} cases, too few for an interval"
    if max(sizes) < 2:
        lone = "no label has two cases; add cases of the same directions"
        return FollowingFigure(None, None, None, lone), FollowingFigure(0.0, None, None, few)
    distances = cdist(points, points)
    (ratio,), (score,) = _ratios_and_scores(distances, groups, np.ones((1, len(points))))
    if min(sizes) < LEAST_CASES:
        return (
            FollowingFigure(float(ratio), None, None, few),
            FollowingFigure(float(score), None, None, few),
        )
    weights = np.zeros((DRAWS, len(points)))
    for group in groups:
        weights[:, group] = _counts(len(group), generator)
    ratios, scores = _ratios_and_scores(distances, groups, weights)
    return (
        _figure(float(ratio), ratios),
        _figure(float(score), np.clip(scores - scores.mean() + score, -1.0, 1.0)),
    )


def _counts(size: int, generator: np.random.Generator) -> np.ndarray:
    """How often each case of a label is drawn [DRAWS, size], two cases or more in every draw."""
    shares = np.full(size, 1 / size)
    counts = generator.multinomial(size, shares, DRAWS)
    # Copies of a single case have no distance from each other.
    while (single := counts.max(axis=1) == size).any():
        counts[single] = generator.multinomial(size, shares, int(single.sum()))
    return counts


def _ratios_and_scores(
    distances: np.ndarray, groups: list[np.ndarray], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """SR [R] and SS [R] of R draws, as section 9 defines them; a case is no pair with its copies.

    distances [N, N]. groups: the indices of each label's cases, of two labels or more, one of which
    has two cases. weights [R, N]: how often a case was drawn, of each label as many as it has.
    """
    sizes = [len(group) for group in groups]
    # Of each label [R, N]: the distances from every case to those drawn of it, added up.
    sums = [weights[:, group] @ distances[group] for group in groups]
    within, between, total = [], [], np.zeros(len(weights))
    for own, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        drawn = weights[:, group]
        to_own = sums[own][:, group]
        to_others = [
            sums[other][:, group] / sizes[other] for other in range(len(groups)) if other != own
        ]
        between += [(drawn * mean).sum(axis=1) / size for mean in to_others]
        if size == 1:
            continue
        within.append((drawn * to_own).sum(axis=1) / (size**2 - (drawn**2).sum(axis=1)))
        # No draw has one case alone, so there are others; nor does a case that was not drawn count.
        a = to_own / (size - drawn)
        b = np.min(to_others, axis=0)
        larger = np.maximum(a, b)
        values = np.divide(b - a, larger, out=np.zeros_like(a), where=larger > 0)
        total += (drawn * values).sum(axis=1)
    ratios = np.mean(between, axis=0) / (np.mean(within, axis=0) + EPSILON)
    return ratios, total / sum(sizes)


def _figure(value: float, drawn: np.ndarray) -> FollowingFigure:
    """A value with the interval that holds all but LEVEL of what was drawn."""
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
    return FollowingFigure(value, float(low), float(high))
