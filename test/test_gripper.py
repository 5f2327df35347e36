"""The gripper's actions, one at a time: hysteresis, changes of mind, outcomes, tries, in words."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.control.gripper import GripperConfig, GripperState, Order

CONFIG = GripperConfig(open_width=0.08)
OPEN, SHUT, BETWEEN = 0.08, 0.0, 0.04
PERIOD = 0.02


class Driver:
    """A gripper whose commands come in cycles; the test tells how its actions end."""

    def __init__(self, **changes):
        self.state = GripperState(GripperConfig(open_width=0.08, **changes))
        self.now, self.orders = 100.0, []
        self.state.found()

    def run(self, seconds, width=None):
        """Cycles with commands, or without any; returns what was ordered meanwhile."""
        orders = []
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            orders.append(self.state.tick(self.now))
            if width is not None:
                orders.append(self.state.want(width, self.now))
        orders = [order for order in orders if order is not Order.NOTHING]
        self.orders += orders
        return orders

    def end(self, success=True, message=""):
        self.state.ended(success, self.now, message)

    def fail(self, tries, width=SHUT):
        for _ in range(tries):
            assert self.run(0.5, width) == [Order.CLOSE]
            self.end(False, "the driver rejected it")


def test_each_action_is_sent_once():
    driver = Driver()
    assert driver.run(2.0, SHUT) == [Order.CLOSE]
    driver.end()
    assert driver.run(2.0, SHUT) == []
    assert driver.run(2.0, OPEN) == [Order.OPEN]
    driver.end()
    assert driver.run(2.0, OPEN) == []
    assert driver.state.problem == ""


def test_nothing_is_sent_before_the_policy_has_decided():
    driver = Driver()
    assert driver.run(1.0) == driver.run(1.0, BETWEEN) == driver.run(1.0, math.nan) == []


def test_between_the_thresholds_the_gripper_stays_as_it_is():
    driver = Driver()
    driver.run(0.1, SHUT)
    driver.end()
    for width in (0.033, 0.047, BETWEEN, math.nan, SHUT):
        assert driver.run(0.5, width) == []
    assert driver.run(0.5, 0.049) == [Order.OPEN]


def test_a_change_of_mind_stops_the_action_and_waits_for_its_end():
    driver = Driver()
    driver.run(1.0, SHUT)
    assert driver.run(0.5, OPEN) == [Order.STOP]
    assert driver.state.running is Order.CLOSE
    driver.end(False, "cancelled")
    assert driver.run(0.5, OPEN) == [Order.OPEN]
    assert driver.state.problem == ""


def test_whoever_changes_back_meanwhile_gets_the_action_again():
    driver = Driver()
    driver.run(1.0, SHUT)
    driver.run(0.1, OPEN)
    assert driver.run(0.1, SHUT) == []
    driver.end(False, "cancelled")
    assert driver.run(0.5, SHUT) == [Order.CLOSE]


def test_an_action_that_had_just_succeeded_when_it_was_stopped_counts_for_nothing():
    driver = Driver()
    driver.run(1.0, SHUT)
    driver.run(0.1, OPEN)
    driver.end(True)
    # The stop may have loosened the grip, so that wanting it again is not enough.
    assert driver.run(0.5, SHUT) == [Order.CLOSE]


def test_two_actions_do_not_start_within_the_least_interval():
    driver = Driver(least_interval=1.0)
    driver.run(0.02, SHUT)
    driver.end()
    assert driver.run(0.9, OPEN) == []
    assert driver.run(0.2, OPEN) == [Order.OPEN]


@pytest.mark.parametrize("message", ["the driver rejected it", "the driver aborted it"])
def test_a_failed_action_is_tried_again_and_told_in_words(message):
    driver = Driver()
    driver.run(0.1, SHUT)
    driver.end(False, message)
    assert driver.state.problem == f"closing of the gripper failed: {message}"
    assert not driver.state.exhausted
    assert driver.run(0.5, SHUT) == [Order.CLOSE]
    assert driver.state.problem, "only a success clears it"
    driver.end()
    assert driver.state.problem == ""


def test_tries_are_bounded_and_starts_over_when_a_person_has_looked():
    driver = Driver(retries=2)
    driver.fail(3)
    assert driver.state.exhausted and "(3 tries)" in driver.state.problem
    assert driver.run(5.0, SHUT) == driver.run(5.0, OPEN) == []
    # The policy was stopped for it, so no commands come; then it is resumed.
    driver.run(CONFIG.pause + 2 * PERIOD)
    assert driver.state.problem == "" and not driver.state.exhausted
    assert driver.run(0.5, SHUT) == [Order.CLOSE]


def test_an_action_that_does_not_end_is_given_up_and_tried_again():
    driver = Driver(timeout=1.0)
    assert driver.run(0.98, SHUT) == [Order.CLOSE]
    assert driver.run(0.1, SHUT) == [Order.STOP]
    assert "has not finished closing within 1 s: look" in driver.state.problem
    driver.end(False, "cancelled")
    assert driver.run(1.2, SHUT) == [Order.CLOSE, Order.STOP]
    driver.end(False, "cancelled")
    assert not driver.state.exhausted
    assert driver.run(1.2, SHUT) == [Order.CLOSE, Order.STOP]
    driver.end(False, "cancelled")
    assert driver.state.exhausted and driver.run(5.0, SHUT) == []


def test_fingers_that_do_not_move_are_stuck_long_before_the_timeout():
    driver = Driver(timeout=5.0, stuck_time=0.5)
    place = 0.0
    for _ in range(10):
        driver.run(0.1, OPEN)
        place += 0.02
        driver.state.progress(place, driver.now)
    assert driver.state.problem == ""
    for _ in range(6):
        driver.run(0.1, OPEN)
        driver.state.progress(place + 0.001, driver.now)
    assert driver.orders == [Order.OPEN, Order.STOP]
    assert "the fingers do not move while opening" in driver.state.problem


def test_a_driver_without_feedback_is_not_called_stuck():
    driver = Driver(timeout=5.0, stuck_time=0.5)
    assert driver.run(4.5, OPEN) == [Order.OPEN]
    driver.state.progress(math.nan, driver.now)
    assert driver.run(0.4, OPEN) == [] and driver.state.problem == ""


def test_a_stop_without_effect_is_repeated_a_few_times_and_never_passed_over():
    driver = Driver(retries=2, stop_timeout=0.5)
    driver.run(0.1, SHUT)
    orders = driver.run(10.0, OPEN)
    assert orders == [Order.STOP] * 3
    assert "does not end closing when told" in driver.state.problem
    assert not driver.state.exhausted, "it goes on when the driver answers again"
    driver.end(False, "cancelled at last")
    assert driver.run(0.5, OPEN) == [Order.OPEN]


def test_a_driver_that_knows_of_nothing_to_stop_gets_the_next_action():
    driver = Driver(stop_timeout=0.5)
    driver.run(0.1, SHUT)
    assert driver.run(0.1, OPEN) == [Order.STOP]
    driver.state.stop_confirmed()
    assert driver.run(0.3, OPEN) == [], "the action's own end may still come"
    assert driver.run(0.5, OPEN) == [Order.OPEN]


def test_an_action_that_begins_after_its_stop_is_stopped_again():
    driver = Driver(stop_timeout=0.5)
    driver.run(0.1, SHUT)
    driver.run(0.1, OPEN)
    driver.state.stop_confirmed()
    assert driver.state.accepted(driver.now) is Order.STOP
    assert Order.OPEN not in driver.run(1.0, OPEN)


def test_a_driver_that_comes_back_is_told_to_end_what_it_may_still_do():
    driver = Driver()
    driver.run(0.1, SHUT)
    driver.state.lost("no gripper: is its driver running?")
    assert driver.run(1.0, SHUT) == [] and "is its driver running?" in driver.state.problem
    driver.state.found()
    assert driver.run(0.1, SHUT) == [Order.STOP]
    driver.state.stop_confirmed()
    assert driver.run(2.0, SHUT) == [Order.CLOSE]
    driver.end()
    assert driver.state.problem == ""


def test_homing_comes_first_and_nothing_is_sent_meanwhile():
    driver = Driver(homing=True)
    assert driver.run(0.1) == [Order.HOME]
    assert "is homing: wait" in driver.state.problem
    assert driver.run(3.0, SHUT) == []
    driver.end()
    assert driver.run(0.1, SHUT) == [Order.CLOSE]


def test_homing_that_fails_is_tried_a_few_times():
    driver = Driver(homing=True, retries=1)
    for _ in range(2):
        assert driver.run(1.0) == [Order.HOME]
        driver.end(False, "an object is between the fingers")
    assert driver.run(10.0) == []
    assert driver.state.exhausted and "homing of the gripper failed" in driver.state.problem


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"open_width": 0.0}, "must be above zero"),
        ({"open_width": 0.08, "close_below": 0.7}, "must not be above the second"),
    ],
)
def test_contradictions_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        GripperConfig(**changes)


# What may happen in a cycle besides the wanted width; cycles are shorter than a pause.
EVENTS = st.sampled_from(
    ["", "", "", "", "succeed", "fail", "accept", "confirm", "lose", "find", "move", "quiet"]
)
CYCLES = st.lists(
    st.tuples(st.floats(-0.02, 0.1) | st.just(math.nan), EVENTS, st.floats(0.001, 0.45)),
    max_size=120,
)


class FakeDriver:
    """What a driver would do with the orders; fails on any that must not be given."""

    def __init__(self, config):
        self.config, self.state, self.now = config, GripperState(config), 0.0
        self.running = self.done = None
        self.stopping = False
        self.started = -math.inf

    def event(self, event, width):
        if event in ("succeed", "fail") and self.running:
            success = event == "succeed"
            self.state.ended(success, self.now, "the driver failed")
            counts = success and (not self.stopping or self.running is Order.HOME)
            self.done = self.running if counts and self.running is not Order.HOME else None
            self.running = None
        elif event == "accept" and self.running:
            self.take(self.state.accepted(self.now))
        elif event == "confirm" and self.stopping:
            self.state.stop_confirmed()
        elif event == "lose":
            self.state.lost("gone")
            self.stopping, self.done = self.running is not None, None
        elif event == "find":
            self.state.found()
            self.done = None
        elif event == "move":
            self.state.progress(width, self.now)

    def take(self, order):
        # Where the driver said that nothing was left to stop, its end need not be told.
        if self.running and self.state.running is None and self.stopping:
            self.running = None
        if order is Order.STOP:
            assert self.running, "a stop without an action"
            self.stopping = True
        elif order is not Order.NOTHING:
            assert self.running is None, "two actions at once"
            assert order is not self.done, "the same again after it succeeded"
            assert self.now - self.started >= self.config.least_interval
            self.running, self.started, self.stopping = order, self.now, False
            self.done = None


@pytest.mark.slow
@settings(max_examples=300)
@given(CYCLES, st.integers(0, 3), st.booleans())
def test_never_two_actions_and_never_the_same_again(cycles, retries, homing):
    driver = FakeDriver(GripperConfig(0.08, retries=retries, homing=homing))
    driver.state.found()
    for width, event, duration in cycles:
        driver.now += duration
        driver.event(event, width)
        driver.take(driver.state.tick(driver.now))
        if event == "quiet":
            driver.now += driver.config.pause + 0.1
            driver.take(driver.state.tick(driver.now))
            driver.done = None
        else:
            driver.take(driver.state.want(width, driver.now))
        assert driver.state.running is driver.running


@pytest.mark.slow
@settings(max_examples=100)
@given(
    st.integers(0, 4),
    st.booleans(),
    st.lists(st.sampled_from(["fail", "", ""]), min_size=100, max_size=300),
)
def test_whatever_fails_is_tried_a_bounded_number_of_times(retries, homing, answers):
    driver = Driver(retries=retries, homing=homing, timeout=1.0, stop_timeout=0.3)
    for answer in answers:
        driver.run(0.1, SHUT)
        if driver.state.running and answer == "fail":
            driver.end(False, "the driver aborted it")
    starts = [order for order in driver.orders if order is not Order.STOP]
    assert set(starts) <= {Order.HOME if homing else Order.CLOSE}
    assert len(starts) <= retries + 1
    # Each action is told once to stop, and again a few times where that has no effect.
    assert driver.orders.count(Order.STOP) <= len(starts) * (retries + 2)


@settings(max_examples=100)
@given(st.lists(st.floats(0.4 * 0.08, 0.6 * 0.08), min_size=1, max_size=200), st.booleans())
def test_noise_between_the_thresholds_never_moves_the_gripper(widths, opened):
    driver = Driver()
    driver.run(0.1, OPEN if opened else SHUT)
    driver.end()
    for width in widths:
        assert driver.run(2 * PERIOD, width) == []
