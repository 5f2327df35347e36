"""t-SNE: a picture of which vectors are near each other (van der Maaten and Hinton, 2008).

All pairs are computed, which is quick for a few hundred points.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

PERPLEXITY = 30.0
STEPS = 1000
# In the first steps attraction is so much stronger, for so many steps.
EXAGGERATION, EXAGGERATED_STEPS = 12.0, 250
FEWEST_POINTS = 5


def tsne(vectors: np.ndarray, perplexity: float = PERPLEXITY) -> np.ndarray:
    """Points [N, 2] whose neighbours are those of the vectors [N, D].

    It begins with the two main components, so that the result is always the same. perplexity: how
    many neighbours count, at most a third of the others. Raises ValueError for fewer than
    FEWEST_POINTS vectors, and for NaN or infinity.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    count = len(vectors)
    if vectors.ndim != 2 or count < FEWEST_POINTS or not np.isfinite(vectors).all():
        raise ValueError(
            f"t-SNE takes {FEWEST_POINTS} finite vectors [N, D] or more, got {vectors.shape}"
        )
    near = _neighbourhoods(vectors, min(perplexity, (count - 1) / 3))
    points = _main_components(vectors)
    rate = max(count / EXAGGERATION / 4, 50.0)
    speed, gains = np.zeros_like(points), np.ones_like(points)
    for step in range(STEPS):
        is_early = step < EXAGGERATED_STEPS
        closeness = 1 / (1 + cdist(points, points, "sqeuclidean"))
        np.fill_diagonal(closeness, 0.0)
        apart = closeness / closeness.sum()
        forces = ((EXAGGERATION if is_early else 1.0) * near - apart) * closeness  # [N, N]
        gradient = 4 * (forces.sum(axis=1, keepdims=True) * points - forces @ points)
        # A step grows while it goes on in its direction, and shrinks where it turns back.
        goes_on = np.sign(gradient) != np.sign(speed)
        gains = np.maximum(np.where(goes_on, gains + 0.2, gains * 0.8), 0.01)
        speed = (0.5 if is_early else 0.8) * speed - rate * gains * gradient
        points = points + speed
        points -= points.mean(axis=0)
    return points


def _neighbourhoods(vectors: np.ndarray, perplexity: float) -> np.ndarray:
    """The joint probabilities [N, N] that two vectors are neighbours; they add up to 1."""
    squared = cdist(vectors, vectors, "sqeuclidean")
    count, wanted = len(vectors), np.log(perplexity)
    shares = np.zeros_like(squared)
    for row in range(count):
        others = np.arange(count) != row
        distances = squared[row, others] - squared[row, others].min()
        low, high, precision = 0.0, np.inf, 1 / max(float(distances.mean()), 1e-12)
        for _ in range(64):
            weights = np.exp(-precision * distances)
            share = weights / weights.sum()
            entropy = np.log(weights.sum()) + precision * float(distances @ share)
            if abs(entropy - wanted) < 1e-5:
                break
            if entropy > wanted:  # too many neighbours: narrower
                low = precision
                precision = 2 * precision if high == np.inf else (low + high) / 2
            else:
                high = precision
                precision = (low + high) / 2
        shares[row, others] = share
    return np.maximum((shares + shares.T) / (2 * count), 1e-12)


def _main_components(vectors: np.ndarray) -> np.ndarray:
    """Two principal components [N, 2], made small, where the gradient is largest."""
    centred = vectors - vectors.mean(axis=0)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(vectors), 2))
    used = min(2, len(sizes))
    # A sign that rounding doesn't change: the largest entry of each component is positive.
    signs = np.sign(right[np.arange(used), np.abs(right[:used]).argmax(axis=1)])
    points[:, :used] = left[:, :used] * sizes[:used] * signs
    return 1e-4 * points / max(float(points[:, 0].std()), 1e-12)
