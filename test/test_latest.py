"""The latest value wins."""

import threading

from vla_nodes.core.latest import Latest, Worker


def test_put_replaces_what_nobody_took():
    slot = Latest()
    assert slot.put(1) is False
    assert slot.put(2) is True
    assert slot.take(0) == 2
    assert slot.take(0) is None
    assert slot.get() == 2
    assert slot.put(3) is False


def test_clear_forgets():
    slot = Latest()
    slot.put(1)
    slot.clear()
    assert slot.get() is None
    assert slot.take(0) is None


def test_close_wakes_a_waiting_taker():
    slot = Latest()
    results = []
    thread = threading.Thread(target=lambda: results.append(slot.take()))
    thread.start()
    slot.close()
    thread.join(5)
    assert results == [None]


def test_a_busy_worker_skips_to_the_newest_value():
    seen, entered, release = [], threading.Event(), threading.Event()
    done = threading.Event()

    def work(value):
        seen.append(value)
        entered.set()
        assert release.wait(5)
        if value == 4:
            done.set()

    worker = Worker("test", work, lambda error: None)
    worker.start()
    worker.put(1)
    assert entered.wait(5)
    replaced = [worker.put(value) for value in (2, 3, 4)]
    release.set()
    assert done.wait(5)
    assert worker.stop(5)
    assert seen == [1, 4]
    assert replaced == [False, True, True]


def test_a_worker_survives_errors_and_can_start_again():
    errors, done = [], threading.Event()

    def work(value):
        if value == "bad":
            raise ValueError("no good")
        done.set()

    worker = Worker("test", work, lambda error: (errors.append(str(error)), done.set()))
    for value in ("bad", "good"):
        done.clear()
        worker.start()
        worker.put(value)
        assert done.wait(5)
        assert worker.stop(5)
    assert errors == ["no good"]


def test_stop_says_when_work_goes_on():
    release, entered = threading.Event(), threading.Event()
    worker = Worker("test", lambda _: (entered.set(), release.wait(5)), lambda error: None)
    worker.start()
    worker.put(1)
    assert entered.wait(5)
    assert worker.stop(0.01) is False
    release.set()
