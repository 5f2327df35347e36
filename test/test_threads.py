"""How many threads a policy gets: measured, kept, given."""

import pytest
import torch

from vla.core.processes import usable_cores
from vla.policies.threads import fastest_threads, settle_threads


@pytest.fixture(autouse=True)
def threads_as_before(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("seconds", "most", "found"),
    [
        ({1: 1.0, 2: 1.2}, 64, 1),
        ({1: 1.0, 2: 0.95}, 64, 1),  # a gain that is none
        ({1: 1.0, 2: 0.6, 4: 0.4, 8: 0.39}, 64, 4),
        ({1: 1.0, 2: 0.6, 4: 0.4, 6: 0.3}, 6, 6),
        ({1: 1.0}, 1, 1),
    ],
)
def test_threads_are_doubled_while_that_gains(seconds, most, found):
    assert fastest_threads(seconds.__getitem__, most) == found


def test_what_was_measured_is_kept_for_the_part(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runs = []
    found = settle_threads(0, lambda: runs.append(torch.get_num_threads()), "a")
    assert 1 <= found <= usable_cores() and torch.get_num_threads() == found
    assert runs.count(1) == 4
    count = len(runs)
    assert settle_threads(0, lambda: runs.append(0), "a") == found and len(runs) == count
    settle_threads(0, lambda: runs.append(0), "b")
    assert len(runs) > count
    # A damaged file is measured again.
    for path in (tmp_path / "vla_ros" / "threads").iterdir():
        path.write_text("many")
    count = len(runs)
    settle_threads(0, lambda: runs.append(0), "a")
    assert len(runs) > count


def test_a_given_number_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert settle_threads(2, lambda: pytest.fail("nothing is measured"), "a") == 2
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert settle_threads(0, lambda: pytest.fail("nothing is measured"), "a") == 1
    assert torch.get_num_threads() == 1 and not list(tmp_path.iterdir())
