"""The ring buffer against a list that forgets nothing: complete, bounded, latched ones kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.bags.ring_buffer import NANOSECONDS, ReceivedMessage, RingBuffer

LATCHED = ("/instruction", "/status")
MILLISECOND = 1_000_000
# Steps of time in milliseconds; topics are read one after the other, so some messages come late.
arrivals = st.lists(
    st.tuples(
        st.sampled_from(("/image", "/joints", *LATCHED)),
        st.integers(-40, 400),
        st.integers(0, 60),
    ),
    max_size=120,
)


def messages_of(steps) -> list[ReceivedMessage]:
    now, made = 10 * NANOSECONDS, []
    for index, (topic, step, size) in enumerate(steps):
        now = max(0, now + step * MILLISECOND)
        made.append(ReceivedMessage(topic, bytes(size), now, now, index))
    return made


@given(arrivals, st.floats(0.05, 5.0), st.integers(1, 2000), st.floats(0.01, 6.0))
def test_holds_everything_since_its_start_within_its_limits(steps, seconds, size, asked):
    ring = RingBuffer(seconds, size, LATCHED)
    came = messages_of(steps)
    for message in came:
        ring.append(message)
        assert ring.size <= size
        assert ring.size == sum(len(kept.data) for kept in ring._messages)
    now = max((message.receive_time for message in came), default=10 * NANOSECONDS)
    recent = ring.last(now, asked)
    wanted = sorted(
        (message for message in came if message.receive_time >= recent.start),
        key=lambda message: message.receive_time,
    )
    assert recent.messages == wanted
    span = round(min(asked, seconds) * NANOSECONDS)
    # It goes back as far as was asked, unless memory forbids it, and then says so.
    assert recent.start == now - span + 1 or recent.limited
    assert recent.start > now - span
    for topic in LATCHED:
        before = [m for m in came if m.topic == topic and m.receive_time < recent.start]
        in_force = [m for m in recent.latched if m.topic == topic]
        assert len(in_force) == bool(before)
        if before:
            assert in_force[0].receive_time == max(m.receive_time for m in before)
    assert {message.topic for message in recent.latched} <= set(LATCHED)


@given(arrivals, st.integers(0, 5000))
def test_old_messages_go_although_nothing_comes(steps, later):
    ring = RingBuffer(1.0, 10_000, LATCHED)
    came = messages_of(steps)
    for message in came:
        ring.append(message)
    now = max((m.receive_time for m in came), default=0) + later * MILLISECOND
    ring.expire(now)
    limit = now - NANOSECONDS
    assert all(message.receive_time > limit for message in ring.last(now).messages)
    if later >= 1000:
        assert ring.last(now).messages == []


def test_a_message_that_is_larger_than_the_buffer_is_not_kept():
    ring = RingBuffer(1.0, 100)
    ring.append(ReceivedMessage("/image", bytes(50), 1, 1))
    ring.append(ReceivedMessage("/image", bytes(101), 2, 2))
    ring.append(ReceivedMessage("/image", bytes(60), 3, 3))
    recent = ring.last(3)
    assert [message.receive_time for message in recent.messages] == [3]
    assert recent.limited and recent.start == 3 and recent.size == 60


@pytest.mark.parametrize(("seconds", "size"), [(0.0, 1), (1.0, 0), (float("nan"), 1)])
def test_limits_must_be_positive(seconds, size):
    with pytest.raises(ValueError, match="positive"):
        RingBuffer(seconds, size)
