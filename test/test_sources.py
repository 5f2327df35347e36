"""One source for each stream: what tells a second publisher from a successor, and from a sharer."""

import pytest

from vla.control.sources import (
    DOUBT,
    SUCCESSION,
    Publisher,
    SourceTrack,
    count_sources,
    may_be_restarted,
    name_sources,
)

OURS = Publisher(b"1", "/reasoning", True)
BACK = Publisher(b"2", "/reasoning", True)
PLAIN = Publisher(b"3", "/other", False)
SAME_NAME = Publisher(b"4", "/reasoning", False)


@pytest.mark.parametrize(
    ("publishers", "alive", "sources"),
    [
        ([], 0, 0),
        ([OURS], 1, 1),
        # Its sign of life has not come yet, or a busy machine delays it.
        ([OURS], 0, 1),
        # Killed and started again: the dead one stays on the graph for a while.
        ([OURS, BACK], 1, 1),
        ([OURS, BACK], 2, 2),
        ([OURS, PLAIN], 1, 2),
        ([OURS, PLAIN], 0, 2),
        ([OURS, SAME_NAME], 1, 2),
        ([PLAIN], 0, 1),
        ([PLAIN, Publisher(b"5", "/other", False)], 0, 1),
        ([PLAIN, Publisher(b"5", "/third", False)], 0, 2),
        ([PLAIN, Publisher(b"5", "", False)], 0, 2),
    ],
)
def test_sources_are_the_publishers_that_live(publishers, alive, sources):
    assert count_sources(publishers, alive) == sources


def test_the_nodes_are_named_once_each_and_the_last_has_come_last():
    assert name_sources([OURS, BACK, PLAIN]) == "/reasoning and /other"
    assert name_sources([OURS, SAME_NAME]) == "two of the name /reasoning"
    assert "one without a name" in name_sources([OURS, Publisher(b"5", "", False)])


@pytest.mark.parametrize(
    ("publishers", "may_be"),
    [
        ([OURS], False),
        ([OURS, PLAIN], False),
        ([OURS, BACK], True),
        ([PLAIN, OURS, SAME_NAME], True),
        # Both without a name, which are no ROS nodes.
        ([Publisher(b"5", "", False), Publisher(b"6", "", False)], True),
        ([OURS, Publisher(b"5", "", False)], False),
    ],
)
def test_a_successor_has_the_name_of_the_one_before(publishers, may_be):
    assert may_be_restarted(publishers) == may_be


class Stream:
    """Messages into a track, each 10 ms after the one before."""

    def __init__(self):
        self.track, self.now = SourceTrack(), 100.0

    def send(self, *numbers, publishers=2, may_be_restarted=True):
        taken = []
        for number in numbers:
            self.now += 0.01
            taken.append(self.track.follows(number, publishers, self.now, may_be_restarted))
        return taken

    def wait(self, seconds):
        self.now += seconds

    def in_doubt(self, publishers=2):
        return self.track.in_doubt(publishers, self.now)


def test_a_single_publisher_is_followed_whatever_its_numbers():
    stream = Stream()
    assert all(stream.send(5, 6, 900, 1, 2, 1, publishers=1))
    assert not stream.in_doubt(1)


@pytest.mark.parametrize("foreign", [1, 99, 4_000, 1_000_000])
def test_a_foreign_message_between_those_of_the_source_is_not_followed(foreign):
    stream = Stream()
    stream.send(500, 501, publishers=1)
    assert stream.send(502, foreign, 503, foreign + 1, 504) == [True, False, True, False, True]
    assert stream.in_doubt()


def test_not_even_the_first_foreign_message_is_followed_however_short_the_pause():
    stream = Stream()
    stream.send(500, publishers=1)
    stream.wait(SUCCESSION / 2)
    assert stream.send(1, 2, 3) == [False, False, False]
    assert stream.in_doubt()


def test_doubt_ends_when_a_publisher_leaves_or_the_foreign_one_is_silent_for_long():
    for how in ("leaves", "silent"):
        stream = Stream()
        stream.send(500, publishers=1)
        stream.send(1)
        assert stream.in_doubt()
        if how == "leaves":
            assert not stream.in_doubt(publishers=1)
            assert stream.send(501, publishers=1) == [True]
        else:
            stream.wait(DOUBT + 0.1)
            assert not stream.in_doubt()
            assert stream.send(900, 901) == [True, True], "many may have been lost meanwhile"


def test_a_driver_that_was_killed_and_started_again_is_followed():
    """Its former life stays on the graph, and is silent."""
    stream = Stream()
    stream.send(500, 501, publishers=1)
    stream.wait(SUCCESSION + 0.1)
    assert all(stream.send(1, 2, 3))
    assert all(stream.send(*range(4, 600))), "also past the numbers of its former life"
    assert not stream.in_doubt()


def test_one_that_was_taken_for_dead_and_comes_back_is_a_second_one():
    stream = Stream()
    stream.send(500, 501, publishers=1)
    stream.wait(SUCCESSION + 0.1)
    assert stream.send(1, 2) == [True, True]
    assert stream.send(502, 3) == [False, True]
    assert stream.in_doubt()


def test_slow_streams_that_alternate_are_noticed_too():
    stream = Stream()
    stream.send(500, publishers=1)
    for number in range(3):
        stream.wait(1.0)
        stream.send(10 + number)
        stream.wait(1.0)
        stream.send(501 + number)
    assert stream.in_doubt()


def test_a_flood_that_drowns_the_source_never_takes_its_place():
    stream = Stream()
    stream.send(500, publishers=1)
    assert not any(stream.send(*range(1, 2000)))
    assert stream.in_doubt()


def test_the_numbers_of_a_source_may_have_gaps():
    """A driver of arm and gripper that sends them apart, and messages that are lost."""
    stream = Stream()
    stream.send(500, publishers=1)
    assert all(stream.send(502, 504, 506, 560))
    assert not stream.in_doubt()


@pytest.mark.parametrize("silence", [0.1, SUCCESSION + 0.1, 30.0])
def test_who_cannot_be_the_source_started_again_never_speaks_in_its_place(silence):
    """A driver pauses, and a bag is replayed by a node of another name."""
    stream = Stream()
    stream.send(500, publishers=1)
    stream.wait(silence)
    assert not any(stream.send(*range(1, 200), 10**6, may_be_restarted=False))
    assert stream.in_doubt()
    assert all(stream.send(501, 502, may_be_restarted=False)), "the source itself is followed"


def test_while_its_name_is_awaited_nobody_is_followed_and_nobody_in_doubt():
    stream = Stream()
    stream.send(500, publishers=1)
    stream.wait(1.0)
    assert not any(stream.send(1, 2, 3, may_be_restarted=None))
    assert not stream.in_doubt()
    assert stream.send(4, may_be_restarted=True) == [True]
    stream.wait(1.0)
    assert stream.send(5, may_be_restarted=None) == [True], "the numbers go on"


def test_a_fast_source_that_was_not_heard_for_a_moment_goes_on():
    stream = Stream()
    stream.send(500, publishers=1)
    stream.wait(2 * SUCCESSION)
    # At 1 kHz, beside a gripper's driver.
    assert all(stream.send(500 + 600, 1110, may_be_restarted=False))
    assert not stream.in_doubt()
