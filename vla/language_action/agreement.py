"""How far annotators agree: Krippendorff's alpha."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def interval_alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Krippendorff's alpha on an interval scale: 1 for agreement, 0 for what chance gives.

    units: the ratings that each unit got, of any number of annotators. Those with fewer than two
    say nothing of agreement, and don't count. None where no unit has two, or all ratings are equal
    (Krippendorff 2011, "Computing Krippendorff's alpha-reliability").
    """
    pairable = [np.asarray(unit, np.float64) for unit in units if len(unit) > 1]
    if not pairable:
        return None
    values = np.concatenate(pairable)
    # The mean squared difference of two values is twice their variance; within a unit, and of all.
    observed = sum(2 * len(unit) * unit.var(ddof=1) for unit in pairable) / len(values)
    expected = 2 * values.var(ddof=1)
    return None if expected == 0 else float(1 - observed / expected)
