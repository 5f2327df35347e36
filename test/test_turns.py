"""Which observations a model takes."""

from __future__ import annotations

import pytest

from vla_nodes.models.turns import LONGEST_REST, Turns

PERIOD = 0.05  # of observations


def taken(seconds: float, rate: float = 0.0, load: float = 1.0, observations: int = 60) -> int:
    """How many of so many observations a model takes that computes for so long."""
    turns, count, free = Turns(), 0, 0.0
    for number in range(observations):
        now = number * PERIOD
        if now < free or not turns.take(now, rate):
            continue
        count, free = count + 1, now + seconds
        turns.rest(free, seconds, load)
    return count


@pytest.mark.parametrize(
    ("seconds", "load", "each"),
    [
        (0.02, 1.0, 1),
        (0.02, 0.6, 1),
        (0.04, 1.0, 1),
        (0.04, 0.6, 2),
        (0.07, 1.0, 2),
        (0.07, 0.6, 3),
        (0.07, 0.3, 5),
    ],
)
def test_a_share_of_the_time_is_kept(seconds, load, each):
    assert taken(seconds, load=load) == 60 // each


def test_a_rate_is_kept_beside_it():
    assert taken(0.01) == 60
    assert taken(0.01, rate=10.0) == 30
    assert taken(0.07, rate=10.0, load=0.6) == 20


def test_one_hiccup_does_not_become_two():
    turns = Turns()
    turns.rest(1.0, 5.0, 0.05)
    assert not turns.take(1.0 + 0.9 * LONGEST_REST, 0.0)
    assert turns.take(1.0 + LONGEST_REST, 0.0)
    turns.rest(2.0, 0.1, 0.5)
    turns.reset()
    assert turns.take(2.0, 0.0)
