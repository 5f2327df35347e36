"""How well segments meet the truth: F1 by primitive, boundaries, and what is taken for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla.language_action.primitives import PRIMITIVES
from vla.language_action.segments import Segment

# Two segments are the same where they have one label and overlap by so much.
LEAST_OVERLAP = 0.5
NOTHING = "nothing"  # beside a true segment that no found one overlaps

Pair = tuple[Sequence[Segment], Sequence[Segment]]


@dataclass(frozen=True)
class ClassScore:
    """One primitive."""

    true: int  # segments in the truth
    found: int
    matched: int  # found segments that meet a true one

    @property
    def f1(self) -> float | None:
        """None where the truth has none: then nothing can be said of it."""
        return 2 * self.matched / (self.true + self.found) if self.true else None


@dataclass(frozen=True)
class Scores:
    """All primitives."""

    classes: Mapping[str, ClassScore]
    boundary_error: float | None  # s, mean of matched segments' starts and ends; None without any
    confusion: Mapping[str, Mapping[str, int]]  # by the true label, then the one that overlaps most

    @property
    def macro_f1(self) -> float:
        """The mean over the primitives that the truth has."""
        return float(np.mean([s.f1 for s in self.classes.values() if s.f1 is not None]))


def overlap(one: Segment, other: Segment) -> float:
    """Intersection over union of two segments' times."""
    shared = min(one.end, other.end) - max(one.start, other.start)
    return max(0.0, shared) / (max(one.end, other.end) - min(one.start, other.start))


def score(pairs: Sequence[Pair]) -> Scores:
    """Scores found segments against true ones, an episode each: (found, true).

    Segments of an episode don't overlap, so one of more than half is the only partner; of two that
    meet exactly half, the first counts. Raises ValueError where no episode has a true segment.
    """
    if not any(len(true) for _, true in pairs):
        raise ValueError("the truth has no segment, so nothing can be scored")
    counts = {name: [0, 0, 0] for name in PRIMITIVES}
    confusion: dict[str, dict[str, int]] = {}
    errors: list[float] = []
    for found, true in pairs:
        left = list(found)
        for segment in found:
            counts[segment.primitive][1] += 1
        for segment in true:
            counts[segment.primitive][0] += 1
            nearest = max(found, key=lambda other: overlap(segment, other), default=None)
            taken = nearest is not None and overlap(segment, nearest) > 0
            label = nearest.primitive if nearest is not None and taken else NOTHING
            row = confusion.setdefault(segment.primitive, {})
            row[label] = row.get(label, 0) + 1
            partner = next((other for other in left if _same(segment, other)), None)
            if partner is not None:
                left.remove(partner)
                counts[segment.primitive][2] += 1
                errors += [abs(partner.start - segment.start), abs(partner.end - segment.end)]
    classes = {name: ClassScore(*values) for name, values in counts.items()}
    return Scores(classes, float(np.mean(errors)) if errors else None, confusion)


def _same(one: Segment, other: Segment) -> bool:
    return one.primitive == other.primitive and overlap(one, other) >= LEAST_OVERLAP
