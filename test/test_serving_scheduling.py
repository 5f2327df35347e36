"""Which requests run together, and which are refused."""

from vla.serving.scheduling import WINDOW, Choice, Waiting, choose, no_room, overload


def waiting(*since: float, group: str = "infer") -> list[Waiting]:
    return [Waiting(group, at) for at in since]


def test_a_request_waits_for_others_no_longer_than_the_window():
    first = waiting(10.0)
    assert choose([], {"infer": 4}, 10.0) == Choice()
    early = choose(first, {"infer": 4}, 10.0005)
    assert early.batch == () and abs(early.pause - 0.0015) < 1e-9
    assert choose(first, {"infer": 4}, 10.0 + WINDOW) == Choice((0,))
    # Nobody else can come.
    assert choose(first, {"infer": 1}, 10.0) == Choice((0,))
    assert choose(waiting(10.0, 10.001), {"infer": 2}, 10.001) == Choice((0, 1))


def test_batches_have_a_power_of_two_and_the_oldest_first():
    robots = {"infer": 16}
    later = 11.0
    for count, size in ((1, 1), (2, 2), (3, 2), (5, 4), (7, 4), (8, 8), (11, 8)):
        since = [10.0 - 0.001 * index for index in range(count)]
        batch = choose(waiting(*since), robots, later).batch
        assert len(batch) == size
        taken, left = ({since[i] for i in range(count) if (i in batch) == own} for own in (1, 0))
        assert not left or max(taken) < min(left)


def test_the_group_of_the_oldest_request_is_first():
    mixed = [*waiting(10.002, 10.003, group="red"), *waiting(10.001, group="blue")]
    assert choose(mixed, {}, 11.0) == Choice((2,))
    assert choose(mixed[:2], {}, 11.0) == Choice((0, 1))


def test_a_full_batch_does_not_wait():
    assert choose(waiting(*[10.0] * 8), {"infer": 12}, 10.0).batch == tuple(range(8))


def test_overload_is_refused_with_a_reason():
    assert no_room(3, 4) == ""
    assert no_room(4, 4).startswith("overloaded: 4 connections are served already")
    assert overload(7, 0.4, 1.0) == ""
    assert overload(0, 30.0, 1.0) == ""  # alone it is as fast as it can be
    assert "an answer would take 1.20 s, over 1 s" in overload(16, 0.4, 1.0)
