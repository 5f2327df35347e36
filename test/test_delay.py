"""The estimate of a chunk's delay: what counts, what is left out."""

import pytest

from vla.control.delay import DelayEstimate


def note(estimate, *delays, start=100.0, every=0.1):
    """Chunks of observations that follow each other, with these delays."""
    for index, delay in enumerate(delays):
        stamp = start + index * every
        estimate.note(stamp, stamp + delay)


def test_before_anything_is_measured_the_initial_value_holds():
    assert DelayEstimate(0.2).seconds == 0.2


def test_it_is_the_largest_of_the_delays_so_that_the_arm_never_commits_to_too_little():
    estimate = DelayEstimate(0.2, warm_up=0)
    note(estimate, 0.11, 0.14, 0.12)
    assert estimate.seconds == pytest.approx(0.14)


def test_the_warm_up_is_left_out():
    estimate = DelayEstimate(0.2, warm_up=2)
    note(estimate, 3.0, 1.0)
    assert estimate.seconds == 0.2, "nothing has counted yet"
    note(estimate, 0.1, start=101.0)
    assert estimate.seconds == pytest.approx(0.1)


def test_old_delays_are_forgotten():
    estimate = DelayEstimate(0.2, window=3, warm_up=0)
    note(estimate, 0.9, 0.1, 0.1, 0.1)
    assert estimate.seconds == pytest.approx(0.1)


def test_the_first_chunks_after_a_pause_are_left_out_and_what_was_known_stays():
    estimate = DelayEstimate(0.2, warm_up=1, pause=2.0)
    note(estimate, 5.0, 0.1, 0.1)
    note(estimate, 1.5, start=110.0)
    assert estimate.seconds == pytest.approx(0.1), "the first after the pause"
    note(estimate, 0.3, start=110.2)
    assert estimate.seconds == pytest.approx(0.3)


def test_slow_inference_is_no_pause():
    estimate = DelayEstimate(0.2, warm_up=1, pause=2.0)
    note(estimate, 0.8, 0.8, 0.85, every=1.9)
    assert estimate.seconds == pytest.approx(0.85)


def test_an_observation_of_the_future_says_nothing():
    estimate = DelayEstimate(0.2, warm_up=0)
    note(estimate, -0.5)
    assert estimate.seconds == 0.2
