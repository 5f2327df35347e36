"""Scores of segments against the truth."""

import pytest

from vla.language_action.scoring import overlap, score
from vla.language_action.segments import Segment


def of(*parts: tuple[str, float, float]) -> list[Segment]:
    return [Segment(name, start, end) for name, start, end in parts]


TRUE = of(("move", 0, 2), ("grasp", 2, 3), ("lift", 3, 5), ("move", 6, 8))


def test_the_truth_itself_is_perfect():
    scores = score([(TRUE, TRUE), ([], [])])
    assert scores.macro_f1 == 1.0 and scores.boundary_error == 0.0
    assert scores.classes["move"].true == 2 and scores.classes["push"].f1 is None
    assert scores.confusion == {"move": {"move": 2}, "grasp": {"grasp": 1}, "lift": {"lift": 1}}


def test_each_miss_counts_where_it_belongs():
    found = of(("move", 0, 1.5), ("grasp", 1.5, 3), ("transport", 3, 5))
    scores = score([(found, TRUE)])
    # The second move is missed: one of two true, one found.
    assert scores.classes["move"].f1 == pytest.approx(2 / 3)
    assert scores.classes["grasp"].f1 == 1.0  # overlaps by 2/3
    assert scores.classes["lift"].f1 == 0.0 and scores.classes["transport"].f1 is None
    assert scores.macro_f1 == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores.boundary_error == pytest.approx((0.5 + 0.5) / 4)
    assert scores.confusion["lift"] == {"transport": 1}
    assert scores.confusion["move"] == {"move": 1, "nothing": 1}


def test_two_halves_of_one_segment_are_one_partner():
    found = of(("move", 0, 1), ("move", 1, 2))
    scores = score([(found, of(("move", 0, 2)))])
    assert (scores.classes["move"].matched, scores.classes["move"].found) == (1, 2)


def test_less_than_half_is_no_overlap_that_counts():
    assert overlap(*of(("move", 0, 2), ("move", 1, 3))) == pytest.approx(1 / 3)
    assert score([(of(("move", 1, 3)), of(("move", 0, 2)))]).macro_f1 == 0.0
    assert overlap(*of(("move", 0, 1), ("move", 2, 3))) == 0.0


def test_without_a_truth_nothing_is_scored():
    with pytest.raises(ValueError, match="the truth has no segment"):
        score([(TRUE, [])])
