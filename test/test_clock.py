"""A clock that jumps is told from one that is slow, stands still, or runs fast."""

import pytest

from vla.core.clock import ClockSteps


def steps(times, period=0.1):
    watch = ClockSteps()
    return [watch.note(time, 50.0 + row * period) for row, time in enumerate(times)]


@pytest.mark.parametrize("speed", [0.0, 0.2, 1.0, 5.0])
def test_no_speed_is_a_jump(speed):
    assert not any(steps([10.0 + speed * 0.1 * row for row in range(50)]))


@pytest.mark.parametrize(("jump", "told"), [(5.0, 5.0), (-5.0, -5.0), (3600.0, 3600.0)])
def test_a_jump_is_told_once_with_its_size(jump, told):
    times = [10.0 + 0.1 * row + (jump if row >= 5 else 0.0) for row in range(10)]
    assert [step for step in steps(times) if step] == [pytest.approx(told)]


def test_the_first_message_of_simulated_time_is_none():
    assert not any(steps([0.0, 0.0, 1234.0, 1234.1]))
