"""The session: what is in force, in which state, and how a waiting caller's goal ends."""

import math

import pytest

from vla.control.session import (
    ArmReport,
    HoldReason,
    InstructionError,
    InstructionSession,
    Outcome,
    State,
    check_instruction,
)

MOVING = ArmReport(executing=True)
SETTLED = ArmReport(executing=True, settled=True)
NO_CHUNK = ArmReport(executing=False, hold_reason=HoldReason.STALE_CHUNK, message="no chunk")
BROKEN = ArmReport(executing=False, hold_reason=HoldReason.NON_FINITE, message="NaN")


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("", "act", "empty"),
        (" \n", "", "empty"),
        ("go", "run", "unknown"),
        ("a" * 2000, "", "1000"),
    ],
)
def test_refuses_what_cannot_be_followed(text, mode, says):
    with pytest.raises(InstructionError, match=says):
        check_instruction(text, mode)


def test_text_is_trimmed_and_the_mode_is_left_to_the_policy():
    assert check_instruction("  pick the can ") == ("pick the can", "")
    assert check_instruction("pick the can", "act") == ("pick the can", "act")


def test_goes_from_waiting_to_executing_to_holding():
    session = InstructionSession()
    assert session.state == State.IDLE and not session.wants_motion
    session.start("pick", "act", 0.0, 10)
    session.update(NO_CHUNK, 0.1)
    assert (session.state, session.message) == (State.WAITING, "no chunk")
    session.update(MOVING, 0.2)
    assert (session.state, session.message) == (State.EXECUTING, "")
    session.update(NO_CHUNK, 0.3)
    assert (session.state, session.hold_reason) == (State.HOLDING, HoldReason.STALE_CHUNK)


def test_a_fault_before_the_first_chunk_is_a_hold_not_a_wait():
    session = InstructionSession()
    session.start("pick", "act", 0.0, 10)
    session.update(BROKEN, 0.1)
    assert (session.state, session.hold_reason) == (State.HOLDING, HoldReason.NON_FINITE)


def test_ids_increase_even_when_the_wall_clock_steps_back():
    session = InstructionSession()
    first = session.start("pick", "act", 0.0, 1000)
    second = session.start("place", "act", 1.0, 500)
    assert (first.instruction_id, second.instruction_id) == (1000, 1001)


def test_a_refused_instruction_leaves_the_one_in_force():
    session = InstructionSession()
    session.start("pick", "act", 0.0, 10, timeout=5.0)
    with pytest.raises(InstructionError):
        session.start(" ", "act", 1.0, 20)
    assert session.instruction.text == "pick" and not session.take_endings()


def test_asking_moves_nothing():
    session = InstructionSession()
    session.start("what is there?", "ask", 0.0, 10)
    session.update(MOVING, 0.1)
    assert session.state == State.IDLE and not session.wants_motion


@pytest.mark.parametrize("timeout", [0.0, -1.0, math.nan, math.inf])
def test_refuses_a_timeout_that_is_not_a_time(timeout):
    with pytest.raises(InstructionError, match="timeout"):
        InstructionSession().start("pick", "act", 0.0, 10, timeout=timeout)


def test_refuses_to_wait_for_the_end_of_a_question():
    with pytest.raises(InstructionError, match="ask service"):
        InstructionSession().start("what is there?", "ask", 0.0, 10, timeout=5.0)


def end_of(session):
    (ending,) = session.take_endings()
    return ending


def awaited_session(timeout=5.0, **options):
    session = InstructionSession(**options)
    session.start("pick", "think", 1.0, 10, timeout=timeout)
    session.add_response(10, "picking the red block")
    session.add_response(9, "late answer to another instruction")
    return session


def test_settling_ends_an_awaited_instruction():
    session = awaited_session()
    session.update(MOVING, 2.0)
    assert not session.take_endings()
    session.update(SETTLED, 3.0)
    ending = end_of(session)
    assert (ending.outcome, ending.duration) == (Outcome.SETTLED, 2.0)
    assert (ending.instruction_id, ending.response) == (10, "picking the red block")
    assert session.instruction is None and session.state == State.IDLE


def test_settling_does_not_end_an_instruction_nobody_waits_for():
    session = InstructionSession()
    session.start("pick", "act", 0.0, 10)
    session.update(SETTLED, 100.0)
    assert session.settled and session.state == State.EXECUTING and session.wants_motion


def test_a_still_arm_without_chunks_has_not_settled():
    session = awaited_session()
    session.update(MOVING, 2.0)
    session.update(ArmReport(executing=False, settled=True, message="no chunk"), 3.0)
    assert not session.settled and not session.take_endings()


def test_timeout_names_what_was_missing():
    session = awaited_session(timeout=2.0)
    session.update(NO_CHUNK, 3.5)
    ending = end_of(session)
    assert ending.outcome == Outcome.TIMEOUT and "no chunk" in ending.message


def test_a_long_hold_is_a_fault():
    session = awaited_session(timeout=60.0, fault_timeout=4.0)
    session.update(MOVING, 2.0)
    session.update(BROKEN, 5.0)
    assert not session.take_endings()
    session.update(BROKEN, 6.5)
    ending = end_of(session)
    assert ending.outcome == Outcome.FAULT and "NaN" in ending.message


def test_another_instruction_replaces():
    session = awaited_session()
    session.start("place", "act", 2.0, 20)
    assert end_of(session).outcome == Outcome.REPLACED
    assert session.instruction.text == "place" and session.response == ""


def test_stop_ends_an_awaited_instruction_and_holds_until_resume():
    session = awaited_session()
    session.update(MOVING, 2.0)
    session.stop(2.5)
    assert end_of(session).outcome == Outcome.STOPPED
    session.update(MOVING, 3.0)
    assert session.state == State.STOPPED and not session.wants_motion
    assert "no instruction" in session.resume(4.0)
    assert session.state == State.IDLE


def test_resume_goes_on_with_an_instruction_nobody_waits_for():
    session = InstructionSession()
    session.start("pick", "act", 0.0, 10)
    session.update(MOVING, 1.0)
    assert "pick" in session.stop(2.0)
    assert not session.wants_motion
    assert "pick" in session.resume(3.0)
    assert session.state == State.WAITING and session.wants_motion
    assert session.instruction.instruction_id == 10


def test_a_new_instruction_ends_a_stop():
    session = InstructionSession()
    session.stop(0.0)
    session.start("pick", "act", 1.0, 10)
    assert session.state == State.WAITING and session.wants_motion


def test_resume_without_a_stop_is_refused():
    with pytest.raises(InstructionError, match="nothing is stopped"):
        InstructionSession().resume(0.0)


def test_cancel_ends_only_its_own_instruction():
    session = awaited_session()
    session.cancel(9, 1.5)
    assert session.instruction is not None
    session.cancel(10, 2.0)
    assert end_of(session).outcome == Outcome.CANCELED and session.instruction is None


def test_abort_tells_the_caller_and_keeps_the_reason():
    session = awaited_session()
    session.abort(HoldReason.INACTIVE, "deactivated", 2.0)
    assert end_of(session).message == "deactivated"
    assert (session.state, session.hold_reason) == (State.HOLDING, HoldReason.INACTIVE)
    session.clear()
    assert session.state == State.IDLE


LOADING = ArmReport(executing=False, hold_reason=HoldReason.LOADING, message="loading an adapter")


def test_loading_holds_the_instruction_and_lets_it_go_on():
    session = InstructionSession()
    session.start("pick", "act", 0.0, 10)
    session.update(MOVING, 0.1)
    session.begin_loading("loading an adapter")
    assert (session.state, session.hold_reason) == (State.HOLDING, HoldReason.LOADING)
    assert session.message == "loading an adapter" and session.wants_motion
    session.update(LOADING, 0.2)
    assert (session.state, session.hold_reason) == (State.HOLDING, HoldReason.LOADING)
    session.end_loading(1.0)
    assert (session.state, session.hold_reason, session.message) == (
        State.WAITING,
        HoldReason.NONE,
        "",
    )
    session.update(MOVING, 1.1)
    assert session.state == State.EXECUTING and session.instruction.instruction_id == 10


def test_a_stop_during_loading_stays_a_stop():
    session = InstructionSession()
    session.start("pick", "act", 0.0, 10)
    session.begin_loading("loading an adapter")
    session.stop(0.5)
    session.begin_loading("still loading it")
    assert session.state == State.STOPPED
    session.end_loading(1.0)
    assert session.state == State.STOPPED and not session.wants_motion
    session.resume(2.0)
    assert session.state == State.WAITING


def test_what_is_said_during_loading_waits_for_its_end():
    session = InstructionSession()
    session.begin_loading("loading an adapter")
    assert (session.state, session.message) == (State.IDLE, "loading an adapter")
    session.start("pick", "act", 0.0, 10)
    assert (session.state, session.hold_reason) == (State.HOLDING, HoldReason.LOADING)
    session.stop(0.5)
    assert "after this" in session.resume(0.6)
    assert session.state == State.HOLDING
    session.end_loading(1.0)
    assert session.state == State.WAITING


def test_loading_is_no_fault_of_the_instruction_but_takes_of_its_time():
    session = InstructionSession(fault_timeout=15.0)
    session.start("pick", "act", 0.0, 10, timeout=60.0)
    session.begin_loading("loading an adapter")
    session.update(LOADING, 30.0)
    assert not session.take_endings()
    session.end_loading(31.0)
    session.update(NO_CHUNK, 40.0)
    assert not session.take_endings()
    session.update(NO_CHUNK, 61.0)
    assert session.take_endings()[0].outcome == Outcome.TIMEOUT


def test_an_inactive_controller_stays_so_when_loading_ends():
    session = InstructionSession()
    session.start("pick", "act", 0.0, 10)
    session.begin_loading("loading an adapter")
    session.abort(HoldReason.INACTIVE, "deactivated", 1.0)
    session.end_loading(2.0)
    assert (session.state, session.message) == (State.HOLDING, "deactivated")


def test_a_refusal_ends_the_instruction_and_says_why():
    session = awaited_session()
    session.refuse(9, "i see no block .", 2.0)
    assert session.instruction is not None and not session.take_endings()
    session.refuse(10, "i see no red block .", 2.5)
    ending = end_of(session)
    assert ending.outcome == Outcome.REFUSED and ending.response == "i see no red block ."
    assert ending.duration == 1.5 and session.instruction is None
    for _ in range(2):
        assert (session.state, session.hold_reason) == (State.HOLDING, HoldReason.REFUSED)
        assert "i see no red block ." in session.message and not session.wants_motion
        session.update(MOVING, 3.0)
    session.start("pick the green can", "", 4.0, 20)
    assert (session.state, session.message, session.response) == (State.WAITING, "", "")


def test_a_refusal_of_an_instruction_that_nobody_waits_for_ends_it_too():
    session = InstructionSession()
    session.start("play chess", "", 0.0, 10)
    session.refuse(10, "i have not learned that .", 1.0)
    assert session.instruction is None and not session.take_endings()
    assert session.hold_reason == HoldReason.REFUSED


@pytest.mark.parametrize("pause", ["stop", "loading"])
def test_a_refusal_that_comes_late_ends_nothing(pause):
    session = InstructionSession()
    session.start("pick", "think", 0.0, 10)
    if pause == "stop":
        session.stop(1.0)
    else:
        session.begin_loading("loading an adapter")
    session.refuse(10, "i see no can .", 1.5)
    if pause == "stop":
        session.resume(2.0)
    else:
        session.end_loading(2.0)
    assert session.instruction.text == "pick" and session.state == State.WAITING
