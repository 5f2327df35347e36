"""The watchdog of the control loop's inputs."""

import math

from vla.control.session import HoldReason
from vla.control.watchdog import HEARTBEAT, InputWatchdog, WatchedInput


def make_watchdog():
    return InputWatchdog(
        [
            WatchedInput("joint states", 0.2, HoldReason.STALE_STATE, "is the robot on?"),
            WatchedInput("chunks", 1.0, HoldReason.STALE_CHUNK, "is action_expert up?"),
            WatchedInput("latents", math.inf, HoldReason.STALE_CHUNK, "is reasoning up?"),
        ]
    )


def test_names_the_first_input_that_has_not_come_with_what_to_do():
    silent = make_watchdog().first_silent(0.0)
    assert silent.message == "no joint states (none has come): is the robot on?"
    assert silent.hold_reason == HoldReason.STALE_STATE


def test_is_content_while_messages_come_and_notices_a_gap():
    watchdog = make_watchdog()
    watchdog.heard("joint states", 1.0)
    watchdog.heard("chunks", 1.0)
    assert watchdog.first_silent(1.2) is None
    assert watchdog.first_silent(1.25).name == "joint states"
    watchdog.heard("joint states", 1.9)
    assert watchdog.first_silent(2.08).message == "no chunks (none for 1.1 s): is action_expert up?"


def test_a_lost_process_counts_at_once_and_its_return_too():
    watchdog = make_watchdog()
    watchdog.heard("joint states", 1.0)
    watchdog.heard("chunks", 1.0)
    watchdog.set_alive("latents", False)
    assert watchdog.first_silent(1.0).message == (
        "no latents (its publisher is gone): is reasoning up?"
    )
    watchdog.set_alive("latents", True)
    assert watchdog.first_silent(1.0) is None


def test_each_sign_of_life_counts_alone():
    watchdog = make_watchdog()
    watchdog.heard("joint states", 1.0)
    watchdog.heard("chunks", 1.0)
    watchdog.set_alive("latents", False, HEARTBEAT)
    assert watchdog.first_silent(1.0).message == (
        "no latents (the heartbeat of its node is gone): is reasoning up?"
    )
    watchdog.set_alive("latents", False)
    watchdog.set_alive("latents", True, HEARTBEAT)
    assert "its publisher is gone" in watchdog.first_silent(1.0).message
    watchdog.set_alive("latents", True)
    assert watchdog.first_silent(1.0) is None


def test_forgets_messages_but_not_that_a_process_is_gone():
    watchdog = make_watchdog()
    watchdog.heard("joint states", 1.0)
    watchdog.heard("chunks", 1.0)
    watchdog.set_alive("chunks", False)
    watchdog.forget("joint states")
    assert math.isinf(watchdog.age("joint states", 1.0))
    watchdog.heard("joint states", 1.1)
    assert watchdog.first_silent(1.1).name == "chunks"


def test_a_refused_message_is_not_heard_and_says_why():
    watchdog = make_watchdog()
    watchdog.heard("joint states", 1.0)
    watchdog.refused("joint states", "joint 3 is NaN")
    assert watchdog.first_silent(1.5).message == "no joint states (none for 0.5 s): joint 3 is NaN"
    watchdog.heard("joint states", 1.6)
    assert watchdog.first_silent(2.6).message.endswith("is the robot on?")
