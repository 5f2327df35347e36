"""Resampling: what is known at a stamp, when that is certain, and what never counts."""

from __future__ import annotations

import numpy as np
import pytest

from vla.observations.resampling import HISTORY, ClockError, FramePicker, Resampler, Stream

MILLISECOND = 1_000_000


def resampler(longest_wait: float = float("inf"), restart: bool = False) -> Resampler:
    streams = {"camera": Stream("camera", 0.2), "joints": Stream("joints", 0.1)}
    return Resampler(streams, "camera", longest_wait, restart)


def add(to: Resampler, name: str, milliseconds: float, now: float = 0.0) -> list:
    return to.add(name, round(milliseconds * MILLISECOND), f"{name} {milliseconds:g}", now)


def test_a_stream_is_never_read_from_the_future():
    stream = Stream("joints", 0.1)
    for stamp in (30, 10, 50):
        stream.add(stamp, f"at {stamp}")
    found = [stream.at(time) for time in (9, 10, 29, 30, 49, 50, 150)]
    stamps = [entry and entry[0] for entry in found]
    assert stamps == [None, 10, 10, 30, 30, 50, 50]
    assert found[3][1] == "at 30"
    stream.forget(49)
    assert stream.at(49) == (30, "at 30") and stream.at(29) is None
    assert not stream.too_old(100 * MILLISECOND) and stream.too_old(100 * MILLISECOND + 1)
    with pytest.raises(ClockError, match=r"'joints': stamps go back by 2\.0 s"):
        stream.add(50 - 2000 * MILLISECOND, "")


def test_a_sample_is_due_as_soon_as_every_stream_has_reached_it():
    """With equal stamps that is the last of these messages, in whatever order they come."""
    for order in (("camera", "joints"), ("joints", "camera")):
        both = resampler()
        assert add(both, order[0], 100) == []
        (sample,) = add(both, order[1], 100)
        assert sample.values == {"camera": "camera 100", "joints": "joints 100"}
        assert sample.complete and sample.ages == {"camera": 0, "joints": 0}


def test_what_comes_after_the_stamp_decides_that_nothing_older_can_come():
    both = resampler()
    add(both, "joints", 90)
    assert add(both, "camera", 100) == []
    assert add(both, "joints", 98) == [], "something between 98 and 100 may yet come"
    (sample,) = add(both, "joints", 108)
    assert sample.values["joints"] == "joints 98" and sample.ages["joints"] == 2 * MILLISECOND


def test_waiting_ends_and_says_so():
    both = resampler(longest_wait=0.02)
    add(both, "joints", 95, now=1.0)
    assert add(both, "camera", 100, now=1.001) == [] and both.deadline == pytest.approx(1.021)
    assert both.due(1.02) == []
    (sample,) = both.due(1.0211)
    assert sample.unreached == ("joints",) and sample.values["joints"] == "joints 95"
    assert both.deadline is None
    (sample,) = [*add(both, "joints", 160, now=1.1), *add(both, "camera", 150, now=1.1)]
    assert sample.unreached == () and sample.values["joints"] == "joints 95"


def test_missing_and_stale_streams_are_told_apart():
    both = resampler()
    add(both, "camera", 100)
    (sample,) = add(both, "joints", 101)
    assert sample.missing == ("joints",) and not sample.complete
    add(both, "camera", 202)
    (sample,) = add(both, "joints", 210)
    assert sample.stale == ("joints",) and sample.ages["joints"] == 101 * MILLISECOND
    add(both, "camera", 310)
    (sample,) = add(both, "joints", 311)
    assert sample.complete and sample.ages["joints"] == 100 * MILLISECOND


def test_samples_come_in_the_order_of_stamps_and_never_twice():
    both = resampler()
    for stamp in (100, 200, 150):
        add(both, "camera", stamp)
    samples = add(both, "joints", 170)
    assert [sample.stamp // MILLISECOND for sample in samples] == [100, 150]
    assert add(both, "camera", 150) == [] and add(both, "camera", 120) == []
    assert both.overtaken == 2
    assert [sample.stamp // MILLISECOND for sample in add(both, "joints", 200)] == [200]


def test_a_clock_that_goes_back_is_refused_or_begun_anew():
    both = resampler()
    add(both, "camera", 5000)
    with pytest.raises(ClockError, match=r"'camera': stamps go back by 4\.0 s"):
        add(both, "camera", 1000)
    both = resampler(restart=True)
    for stamp in (5000, 5050):
        add(both, "camera", stamp)
        add(both, "joints", stamp)
    assert add(both, "joints", 1000) == []
    (sample,) = add(both, "camera", 1000)
    assert sample.stamp == 1000 * MILLISECOND and sample.complete


def test_little_is_kept_while_a_stream_is_silent():
    both = resampler(longest_wait=0.02)
    for stamp in range(0, 60_000, 10):
        add(both, "joints", stamp)
    assert len(both.streams["joints"].stamps) <= HISTORY / MILLISECOND / 10 + 2
    for stamp in range(60_000, 120_000, 10):
        add(both, "joints", stamp, now=stamp / 1000)
        if stamp % 50 == 0:
            add(both, "camera", stamp, now=stamp / 1000)
    assert len(both.streams["joints"].stamps) < 10 and len(both.streams["camera"].stamps) < 3


def test_the_order_among_streams_does_not_matter():
    """As messages are written into a bag, and as they come over the network."""
    generator = np.random.default_rng(0)
    messages = {
        "camera": np.cumsum(generator.uniform(30, 36, 100)),
        "joints": np.cumsum(generator.uniform(2, 9, 700)),
    }

    def samples(seed: int) -> list:
        shuffled = np.random.default_rng(seed)
        left = {name: list(stamps) for name, stamps in messages.items()}
        both, found = resampler(), []
        while any(left.values()):
            name = shuffled.choice([name for name, stamps in left.items() if stamps])
            found += add(both, name, left[name].pop(0))
        return found

    first = samples(1)
    assert len(first) > 90 and all(samples(seed) == first for seed in (2, 3))
    for sample in first[1:]:
        known = messages["joints"][messages["joints"] * MILLISECOND <= sample.stamp + 0.5]
        assert sample.values["joints"] == f"joints {known[-1]:g}"


@pytest.mark.parametrize("period", [15, 33, 50, 70, 130])
def test_frames_are_about_the_rate_whatever_the_camera_s(period):
    """Never more of them than the rate, none twice, and each the nearest to its time."""
    picker, picked = FramePicker(10.0), []
    stamps = range(1000, 11_000, period)
    for stamp in stamps:
        picked += picker.add(stamp * MILLISECOND, stamp)
    assert set(picked) <= set(stamps) and (np.diff(picked) > 0).all()
    assert abs(len(picked) - min(100, 10_000 / period)) <= 2
    assert abs(len(picked) + picker.skipped - 100) <= 1
    for wanted in range(1000, picked[-1] - period, 100):
        nearest = min(stamps, key=lambda stamp: (abs(stamp - wanted), stamp))
        assert nearest in picked


def test_a_camera_s_jitter_does_not_change_which_images_are_taken():
    generator = np.random.default_rng(0)
    picker, picked = FramePicker(10.0), []
    stamps = [round((k / 30 + generator.uniform(-2e-3, 2e-3)) * 1e9) for k in range(300)]
    for number, stamp in enumerate(stamps):
        picked += picker.add(stamp, number)
    assert picked == list(range(0, 298, 3)) and picker.skipped == 0
