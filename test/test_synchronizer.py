"""Our equivalent of message_filters' approximate-time synchroniser."""

from geometry_msgs.msg import PoseStamped

from vla_nodes.conversions import seconds_to_stamp, stamp_to_seconds
from vla_nodes.synchronizer import OwnApproximateTimeSynchronizer


class Source:
    """Stands where a subscription would, and delivers what a test hands it."""

    def registerCallback(self, callback, *arguments):
        self._callback, self._arguments = callback, arguments

    def send(self, seconds: float) -> None:
        message = PoseStamped()
        message.header.stamp = seconds_to_stamp(seconds)
        self._callback(message, *self._arguments)


def synchronized(count: int, slop: float, queue_size: int = 10):
    sources = [Source() for _ in range(count)]
    sets = []
    synchronizer = OwnApproximateTimeSynchronizer(sources, queue_size, slop)
    synchronizer.registerCallback(
        lambda *group: sets.append([round(stamp_to_seconds(m.header.stamp), 6) for m in group])
    )
    return sources, sets


def test_a_single_source_passes_through():
    (only,), sets = synchronized(1, 0.01)
    only.send(1.0)
    only.send(2.0)
    assert sets == [[1.0], [2.0]]


def test_order_of_arrival_does_not_matter():
    (a, b), sets = synchronized(2, 0.01)
    a.send(1.0)
    b.send(1.005)
    b.send(2.0)
    a.send(2.005)
    assert sets == [[1.0, 1.005], [2.005, 2.0]]


def test_the_nearest_message_is_taken():
    (a, b), sets = synchronized(2, 0.1)
    for stamp in (0.95, 0.99, 1.04):
        b.send(stamp)
    a.send(1.0)
    assert sets == [[1.0, 0.99]]


def test_stamps_a_slop_apart_do_not_match():
    (a, b), sets = synchronized(2, 0.5)
    a.send(1.0)
    b.send(1.5)
    assert sets == []
    b.send(1.49)
    assert sets == [[1.0, 1.49]]


def test_a_message_is_used_once_and_older_ones_never():
    (a, b), sets = synchronized(2, 0.03)
    a.send(1.0)
    a.send(1.02)
    b.send(1.02)
    b.send(1.01)
    assert sets == [[1.02, 1.02]]


def test_three_sources_wait_for_the_last():
    (a, b, c), sets = synchronized(3, 0.01)
    for number in range(3):
        a.send(number)
        b.send(number)
    c.send(2)
    assert sets == [[2, 2, 2]]


def test_a_clock_that_jumps_back_blocks_nothing_for_long():
    (a, b), sets = synchronized(2, 0.01, queue_size=3)
    for number in range(5):
        a.send(1000 + number)
    for number in range(4):
        a.send(number)
        b.send(number)
    assert sets[-1] == [3, 3]
