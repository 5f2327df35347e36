"""The paced loop that physics runs in."""

import threading
import time

import pytest

from vla_nodes.core.pacing import PacedLoop


def nothing():
    pass


def test_steps_keep_the_rate_and_threads_are_shared():
    threads, enough = set(), threading.Event()
    count = 0

    def step():
        nonlocal count
        count += 1
        threads.add(threading.current_thread())
        if count == 50:
            enough.set()

    def note():
        threads.add(threading.current_thread())

    loop = PacedLoop("test", 0.005, step, lambda error: None, note, note, catch_up=True)
    started = time.monotonic()
    loop.start()
    assert enough.wait(60)
    elapsed = time.monotonic() - started
    factor = loop.real_time_factor()
    loop.stop()
    assert elapsed > 0.005 * 48, "never faster than real time"
    assert 0.0 < factor < 1.1
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_a_slow_step_shows_in_the_factor_and_is_not_caught_up():
    count, enough = 0, threading.Event()

    def step():
        nonlocal count
        count += 1
        time.sleep(0.02)
        if count == 10:
            enough.set()

    loop = PacedLoop("test", 0.01, step, lambda error: None, catch_up=True)
    loop.start()
    assert enough.wait(60)
    factor = loop.real_time_factor()
    loop.stop()
    assert factor < 0.6


@pytest.mark.parametrize(
    ("catch_up", "expected", "factor"),
    [
        (True, [0, 2, 4, 13, 13, 13, 13, 14, 16], 1.0),
        (False, [0, 2, 4, 14, 16, 18, 20, 22, 24], 8 / 12),
    ],
)
def test_steps_that_were_missed_are_made_up_for_or_left_out(
    monkeypatch, catch_up, expected, factor
):
    now, times = 0.0, []

    class Stop:
        def is_set(self):
            return len(times) == len(expected)

        def wait(self, seconds):
            nonlocal now
            now += seconds

    def step():
        nonlocal now
        times.append(round(now / 0.005))
        now += 0.045 if len(times) == 3 else 0.0

    monkeypatch.setattr("vla_nodes.core.pacing.time.monotonic", lambda: now)
    loop = PacedLoop("test", 0.01, step, nothing, catch_up=catch_up)
    loop._stop = Stop()
    loop._loop()
    assert times == expected
    assert loop.real_time_factor() == pytest.approx(factor)


def test_failing_setup_is_raised_by_start():
    def fail():
        raise RuntimeError("no display")

    loop = PacedLoop("test", 0.01, nothing, lambda error: None, setup=fail)
    with pytest.raises(RuntimeError, match="no display"):
        loop.start()


def test_failing_step_is_reported_and_torn_down():
    errors, ended = [], threading.Event()

    def fail():
        raise ValueError("unstable")

    loop = PacedLoop("test", 0.01, fail, errors.append, teardown=ended.set)
    loop.start()
    assert ended.wait(5)
    loop.stop()
    assert [str(error) for error in errors] == ["unstable"]
