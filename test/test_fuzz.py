"""A part of `make fuzz`: seeded nonsense for everything that reads what others wrote."""

import pytest
from fuzz.bags import fuzz_bags
from fuzz.contracts import fuzz_contracts
from fuzz.datasets import fuzz_datasets
from fuzz.holds import LONGEST_AFTER, Told, fault_of, holds_of, longest, standstill
from fuzz.replies import fuzz_replies
from fuzz.report import Report

from vla.control.session import HoldReason, State


@pytest.fixture
def report(tmp_path):
    return Report(tmp_path)


def require_clean(report, cases):
    assert sum(target.cases for target in report.targets.values()) >= cases
    assert not report.findings, "\n".join(map(str, report.findings))


@pytest.mark.slow
def test_contracts(report):
    fuzz_contracts(report, 100, seed=1)
    require_clean(report, 100)
    assert 0 < report.targets["contracts"].refused < 100, "some contracts are sound, some are not"


@pytest.mark.slow
def test_checkpoints_and_adapters(report):
    # Here, since it loads torch, which the others do without.
    from fuzz.checkpoints import fuzz_checkpoints

    fuzz_checkpoints(report, 45, seed=1)
    require_clean(report, 45)


@pytest.mark.slow
def test_bags(report):
    fuzz_bags(report, cuts=10, flips=60, seed=1)
    require_clean(report, 70)


@pytest.mark.slow
def test_data_sets(report):
    fuzz_datasets(report, 60, seed=1)
    require_clean(report, 60)


@pytest.mark.slow
def test_annotation_replies(report):
    fuzz_replies(report, 120, seed=1)
    require_clean(report, 120)


@pytest.mark.nodes
def test_the_running_graph(report):
    from fuzz.graph import fuzz_graph

    fuzz_graph(report, 20, seed=1, while_moving=("joint_states", "vla/action_chunk"))
    require_clean(report, 20 * 10)


def test_findings_are_found(report):
    """The harness itself: each kind of fault of a call is noticed."""

    class OwnError(ValueError):
        pass

    OwnError.__module__ = "vla.made_up"

    def raises(error):
        raise error

    calls = {
        "foreign_exception": lambda: raises(KeyError("x")),
        "bad_text": lambda: raises(OwnError("x" * 2000)),
        "refused": lambda: raises(OwnError("one sentence")),
        "nonsense_accepted": lambda: float("nan"),
        "sound": lambda: 1.0,
    }
    for case, call in calls.items():
        report.try_case("a", case, call, lambda value: None if value == value else "NaN")
    found = {finding.case: finding.kind for finding in report.findings}
    assert found == {name: name for name in ("foreign_exception", "bad_text", "nonsense_accepted")}
    assert report.targets["a"].refused == 3 and report.targets["a"].cases == 5


def told(*spans):
    """Statuses every 0.1 s: (seconds, state, reason) one after the other, from 100 s on."""
    statuses, now = [], 100.0
    for seconds, state, reason in spans:
        for _ in range(round(seconds * 10)):
            statuses.append(Told(now, state, reason, f"{reason.name} of foreigner"))
            now += 0.1
    return statuses


MOVES = (State.EXECUTING, HoldReason.NONE)
NAMED = (State.HOLDING, HoldReason.SECOND_PUBLISHER)
DOUBTED = (State.HOLDING, HoldReason.IMPLAUSIBLE_STATE)
SLOW = (State.HOLDING, HoldReason.STALE_CHUNK)


def test_holds_are_told_apart_by_their_reasons():
    holds = holds_of(told((1, *MOVES), (2, *NAMED), (0.5, *DOUBTED), (3, *SLOW), (1, *MOVES)))
    reasons = [hold.reason for hold in holds]
    assert reasons == [NAMED[1], DOUBTED[1], SLOW[1]]
    assert [round(hold.seconds, 3) for hold in holds] == [2.0, 0.5, 3.0]
    assert longest(holds) == {"seconds": 2.0, "reason": "SECOND_PUBLISHER"}
    assert longest(holds_of(told((2, *SLOW)))) == {}


@pytest.mark.parametrize(
    ("after", "reason", "topic", "wrong"),
    [
        (LONGEST_AFTER, NAMED, "joint_states", False),
        (LONGEST_AFTER + 1.0, NAMED, "joint_states", True),
        (LONGEST_AFTER + 1.0, DOUBTED, "joint_states", True),
        # A slow machine, of which the report tells but which is no fault.
        (9.0, SLOW, "joint_states", False),
        # Nobody's announcements hold the arm, not even while they come.
        (-0.5, NAMED, "vla/instruction", True),
    ],
)
def test_a_hold_that_outlasts_the_foreigner_is_a_finding(after, reason, topic, wrong):
    left_at = 102.0
    holds = holds_of(told((1, *MOVES), (1 + after, *reason), (1, *MOVES)))
    heartbeats = [100.0 + 0.1 * number for number in range(200)]
    assert bool(fault_of(topic, holds, left_at, heartbeats)) == wrong
    # Where the whole graph stood still meanwhile, the machine was busy.
    assert standstill([99.0, 102.0, 107.0], left_at, 107.0) == pytest.approx(4.85)
    if after > 0.0:
        assert fault_of(topic, holds, left_at, []) is None


def test_a_hold_without_an_end_lasts_until_what_was_heard_last():
    holds = holds_of(told((1, *MOVES), (9, *NAMED)))
    assert fault_of("joint_states", holds, 103.0, [100 + 0.1 * n for n in range(200)])
