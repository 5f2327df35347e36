"""A part of `make fuzz`: seeded nonsense for everything that reads what others wrote."""

import pytest
from fuzz.bags import fuzz_bags
from fuzz.contracts import fuzz_contracts
from fuzz.datasets import fuzz_datasets
from fuzz.replies import fuzz_replies
from fuzz.report import Report


@pytest.fixture
def report(tmp_path):
    return Report(tmp_path)


def require_clean(report, cases):
    assert sum(target.cases for target in report.targets.values()) >= cases
    assert not report.findings, "\n".join(map(str, report.findings))


def test_contracts(report):
    fuzz_contracts(report, 100, seed=1)
    require_clean(report, 100)
    assert 0 < report.targets["contracts"].refused < 100, "some contracts are sound, some are not"


def test_checkpoints_and_adapters(report):
    # Here, since it loads torch, which the others do without.
    from fuzz.checkpoints import fuzz_checkpoints

    fuzz_checkpoints(report, 45, seed=1)
    require_clean(report, 45)


def test_bags(report):
    fuzz_bags(report, cuts=10, flips=60, seed=1)
    require_clean(report, 70)


def test_data_sets(report):
    fuzz_datasets(report, 60, seed=1)
    require_clean(report, 60)


def test_annotation_replies(report):
    fuzz_replies(report, 120, seed=1)
    require_clean(report, 120)


@pytest.mark.nodes
@pytest.mark.timeout(300)
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
